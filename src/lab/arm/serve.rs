//! One request in, one answer out; or none, where a fault breaks the connection.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::lab::arm::cloud::Cloud;
use crate::lab::arm::faults::Effect;
use crate::lab::arm::jobs::{Job, State};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::{Route, key, route};
use crate::lab::arm::{admission, creation, disks, export, lists, machines, network};

/// Azure takes requests of 4 MiB.
const BODY_MAX: usize = 4 << 20;
/// Where the bytes of disks are, below no subscription.
const EXPORTS: &str = "/md-";

/// What a handler answers.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
    /// What was begun.
    pub(crate) job: Option<Job>,
}

impl Answered {
    pub(crate) const fn of(body: Value) -> Self {
        Answered {
            status: 200,
            body: Some(body),
            job: None,
        }
    }

    pub(crate) const fn begun(status: u16, body: Option<Value>, job: Job) -> Self {
        Answered {
            status,
            body,
            job: Some(job),
        }
    }
}

/// A request that is read.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.iter();
        let pair = pairs.find(|(other, _)| other.eq_ignore_ascii_case(name));
        pair.map(|(_, value)| value.as_str())
    }
}

/// The connection breaks, and nobody is told why.
#[derive(Debug, thiserror::Error)]
#[error("a fault that was asked for")]
pub(crate) struct Broken;

pub(crate) async fn handle(
    cloud: &Arc<Cloud>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Broken> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path.starts_with(EXPORTS) {
        let query = parts.uri.query().unwrap_or_default();
        let answer = export::answer(cloud, &parts.method, &path, query, &parts.headers).await;
        return Ok(answer);
    }
    let body = Limited::new(body, BODY_MAX).collect().await;
    let body = body.map_err(|_| Broken)?.to_bytes();
    let whole = parts
        .uri
        .path_and_query()
        .map_or("", |whole| whole.as_str());
    let fault = cloud.faults.strike(parts.method.as_str(), whole);
    match &fault {
        Some(Effect::LoseRequest) => return Err(Broken),
        Some(Effect::Delay(time)) => tokio::time::sleep(*time).await,
        Some(
            Effect::LoseReply
            | Effect::Answer { .. }
            | Effect::FailOperation { .. }
            | Effect::ForgetOperation,
        )
        | None => {}
    }
    if admission::is_token_request(&parts.method, &path)
        && !matches!(fault, Some(Effect::Answer { .. }))
    {
        return Ok(json(admission::issue(&cloud.options, &body)));
    }
    let mut left = None;
    let asked = admitted(
        cloud,
        &parts.headers,
        &parts.method,
        fault.as_ref(),
        &mut left,
    )
    .and_then(|()| read(&parts.method, &parts.uri, &body));
    let (asked, answered) = match asked {
        Ok(asked) => {
            let answered = dispatch(cloud, &asked);
            let answered = answered.and_then(|answered| begin(cloud, answered, fault.as_ref()));
            (asked.body, answered)
        }
        Err(refusal) => (Value::Null, Err(refusal)),
    };
    let mut response = respond(cloud, &path, answered);
    if parts.method != Method::GET {
        cloud.remember(
            parts.method.as_str(),
            whole,
            &asked,
            response.status().as_u16(),
        );
    }
    if let Some((name, left)) = left {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), left.into());
    }
    match fault {
        Some(Effect::LoseReply) => Err(Broken),
        _ => Ok(response),
    }
}

/// Whether a request is carried out at all; what is left of its class's tokens comes out as a header.
fn admitted(
    cloud: &Cloud,
    headers: &HeaderMap,
    method: &Method,
    fault: Option<&Effect>,
    left: &mut Option<(&'static str, u32)>,
) -> Refusable<()> {
    admission::check_token(&cloud.options, headers)?;
    if let Some(Effect::Answer {
        status,
        code,
        message,
        retry_after,
    }) = fault
    {
        return Err(Refusal {
            retry_after: *retry_after,
            ..Refusal::new(*status, code, message)
        });
    }
    if let Some(throttle) = &cloud.throttle {
        *left = Some(throttle.admit(method)?);
    }
    Ok(())
}

fn read(method: &Method, uri: &http::Uri, body: &[u8]) -> Refusable<Asked> {
    let query: Vec<(String, String)> = pairs_of(uri.query().unwrap_or_default());
    let body = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).map_err(|error| {
            Refusal::new(
                400,
                "InvalidRequestContent",
                format!("The request content was invalid: {error}"),
            )
        })?,
    };
    let asked = Asked {
        method: method.clone(),
        path: uri.path().to_owned(),
        query,
        body,
    };
    match asked.query("api-version") {
        Some(_) => Ok(asked),
        None => Err(Refusal::new(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )),
    }
}

/// The pairs of a query, decoded.
pub(crate) fn pairs_of(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let hex = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        match (first, after.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn dispatch(cloud: &Arc<Cloud>, asked: &Asked) -> Refusable<Answered> {
    let route = route(&asked.path);
    cloud.with(|inner| match (asked.method.as_str(), route) {
        ("GET", Route::Group { group: id }) => lists::group(inner, &id),
        ("GET", Route::Resource { id, .. }) => lists::resource(inner, &id, asked.query("$expand")),
        ("GET", Route::Operation { id }) => {
            lists::operation(inner, &id, asked.query("monitor").is_some())
        }
        ("GET", Route::GroupResources { group }) => {
            lists::tagged(inner, &group, asked.query("$filter"))
        }
        ("GET", Route::List { group, kind }) => Ok(lists::all(inner, &group, &kind)),
        ("GET", Route::Skus) => Ok(lists::sizes(cloud, asked.query("$filter"))),
        ("GET", Route::Usages { compute }) => Ok(lists::usages(cloud, inner, compute)),
        ("GET", Route::Permissions) => Ok(lists::permissions()),
        ("GET", Route::Action { id, action, .. }) if action == "checkipaddressavailability" => {
            network::check_address(inner, &id, asked.query("ipAddress"))
        }
        ("GET", Route::Action { id, action, .. }) if action == "instanceview" => {
            machines::instance_view(inner, &id)
        }
        ("PUT", Route::Group { group: id }) => creation::group(inner, &id, &asked.body),
        ("PUT", Route::Resource { id, kind }) => {
            creation::put(cloud, inner, &id, &kind, &asked.body)
        }
        ("DELETE", Route::Group { group: id } | Route::Resource { id, .. }) => {
            creation::delete(cloud, inner, &id)
        }
        ("POST", Route::Action { id, kind, action })
            if kind == "microsoft.compute/virtualmachines" =>
        {
            machines::act(cloud, inner, &id, &action)
        }
        ("POST", Route::Action { id, action, .. }) => {
            disks::act(cloud, inner, &id, &action, &asked.body)
        }
        _ => Err(Refusal::new(
            404,
            "InvalidResourceType",
            format!(
                "The resource type or action could not be found: {} {}",
                asked.method, asked.path
            ),
        )),
    })
}

/// Writes down what was begun, and starts what has to be read for it.
fn begin(
    cloud: &Arc<Cloud>,
    mut answered: Answered,
    fault: Option<&Effect>,
) -> Refusable<Answered> {
    let Some(job) = &mut answered.job else {
        return Ok(answered);
    };
    if let Some(Effect::FailOperation { code, message }) = fault {
        job.fails = Some((code.clone(), message.clone()));
    }
    cloud.with(|inner| inner.put_job(job.clone()))?;
    if job.awaits_import() {
        cloud.import(job.id.clone());
    }
    if matches!(fault, Some(Effect::ForgetOperation)) {
        job.id = "forgotten".to_owned();
    }
    Ok(answered)
}

fn respond(cloud: &Cloud, path: &str, answered: Refusable<Answered>) -> Response<Full<Bytes>> {
    let (status, body, job, retry_after) = match answered {
        Ok(Answered { status, body, job }) => (status, body, job, None),
        Err(refusal) => {
            let body = refusal.body();
            (refusal.status, Some(body), None, refusal.retry_after)
        }
    };
    let in_progress = body
        .as_ref()
        .is_some_and(|body| body["status"] == "InProgress");
    let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    let request_id = HeaderValue::try_from(uuid::Uuid::new_v4().to_string());
    headers.insert(
        "x-ms-request-id",
        request_id.expect("an id is visible ASCII"),
    );
    if let Some(job) = &job {
        let url = status_url(cloud, path, &job.id);
        let value = |text: String| HeaderValue::try_from(text).expect("a URL is visible ASCII");
        headers.insert("azure-asyncoperation", value(url.clone()));
        if status == 202 {
            headers.insert("location", value(format!("{url}&monitor=true")));
        }
    }
    let under_way =
        job.is_some_and(|job| job.state == State::InProgress) || status == 202 || in_progress;
    if let Some(seconds) = retry_after.or(under_way.then_some(cloud.options.retry_after)) {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn json((status, body): (StatusCode, Value)) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Where an operation is asked for: of the resource's provider and subscription, not below the resource.
fn status_url(cloud: &Cloud, path: &str, id: &str) -> String {
    let lower = key(path);
    let parts: Vec<&str> = lower.split('/').collect();
    let subscription = parts.get(2).copied().unwrap_or_default();
    let provider = match parts.get(6).copied() {
        Some("microsoft.network") => "Microsoft.Network",
        Some("microsoft.compute") => "Microsoft.Compute",
        Some(_) | None => "Microsoft.Resources",
    };
    format!(
        "{}/subscriptions/{subscription}/providers/{provider}/locations/lab/operations/{id}?api-version=2024-07-01",
        cloud.url()
    )
}
