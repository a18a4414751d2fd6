//! Making, changing and removing resources: each looks before it acts, and again after a reply that was lost.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::azure::body::{Body, Group};
use crate::azure::client::{API_VERSION, ArmClient, Call, Repeat, object};
use crate::azure::compare::contradiction;
use crate::azure::error::{Error, Kind};
use crate::azure::id::{GroupId, ResourceId, ResourceKind};
use crate::azure::names::{Owner, TAG_RUN};
use crate::azure::operation::{self, Action, Begun, Operation, Outcome, Progress, Verb};
use crate::azure::seen::{Provisioning, Seen};
use crate::azure::{Arm, Result};
use crate::transport::http::Answer;

/// Of resource groups.
const GROUP_VERSION: &str = "2024-03-01";

#[async_trait]
impl Arm for ArmClient {
    async fn create(&self, resource: &ResourceId, owner: &Owner, body: &Body) -> Result<Begun> {
        let sent = bytes(Verb::Create, resource, body)?;
        if let Some(seen) = self.get(resource).await? {
            check_ours(Verb::Create, resource, owner, body, &seen)?;
            match seen.provisioning {
                Provisioning::Succeeded => {
                    return Ok(Begun::Done(Outcome::Resource(Box::new(seen))));
                }
                Provisioning::Going(_) => return Ok(self.going(Verb::Create, resource)),
                // What Azure gave up is asked for again; the name is ours.
                Provisioning::Failed | Provisioning::Canceled => {}
            }
        }
        self.put(Verb::Create, resource, owner, body, sent).await
    }

    async fn update(&self, resource: &ResourceId, owner: &Owner, body: &Body) -> Result<Begun> {
        let sent = bytes(Verb::Update, resource, body)?;
        let error = |kind| Error::new(Verb::Update.phrase(), object(resource), kind);
        match self.get(resource).await? {
            None => Err(error(Kind::NotFound)),
            Some(seen) if !owner.owns(&seen.tags) => Err(error(Kind::Taken)),
            Some(_) => self.put(Verb::Update, resource, owner, body, sent).await,
        }
    }

    async fn get(&self, resource: &ResourceId) -> Result<Option<Seen>> {
        let expand = ("$expand", "instanceView".to_owned());
        let query = match resource.kind() {
            ResourceKind::VirtualMachine => vec![expand],
            _ => Vec::new(),
        };
        let url = self.url_of(resource, "", &query);
        let call = self.reading("read", object(resource), url);
        self.look(&call).await
    }

    async fn delete(&self, resource: &ResourceId) -> Result<Begun> {
        // The guest was shut down, or is not wanted: nobody waits for it to do so by itself.
        let force = ("forceDeletion", "true".to_owned());
        let query = match resource.kind() {
            ResourceKind::VirtualMachine => vec![force],
            _ => Vec::new(),
        };
        let url = self.url_of(resource, "", &query);
        let call = changing(Verb::Delete, Method::DELETE, resource, url, Bytes::new());
        match self.send(&call).await {
            Ok(answer) => self.read_begun(Verb::Delete, resource, &answer),
            Err(error) if error.is_not_found() => Ok(Begun::Done(Outcome::Nothing)),
            Err(error) => self.after_loss(Verb::Delete, resource, error).await,
        }
    }

    async fn act(&self, resource: &ResourceId, action: &Action) -> Result<Begun> {
        let (below, query, body) = match action {
            Action::Start => ("/start", None, None),
            Action::PowerOff { skip_shutdown } => {
                let query = ("skipShutdown", skip_shutdown.to_string());
                ("/powerOff", Some(query), None)
            }
            Action::Deallocate => ("/deallocate", None, None),
            Action::GrantAccess { duration } => {
                let body = json!({ "access": "Read", "durationInSeconds": duration.as_secs() });
                ("/beginGetAccess", None, Some(body))
            }
            Action::RevokeAccess => ("/endGetAccess", None, None),
        };
        let query: Vec<_> = query.into_iter().collect();
        let url = self.url_of(resource, below, &query);
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let verb = action.verb();
        let mut call = changing(verb, Method::POST, resource, url, body);
        if matches!(action, Action::GrantAccess { .. } | Action::RevokeAccess) {
            call.repeat = Repeat::Harmless;
        }
        match self.send(&call).await {
            Ok(answer) => self.read_begun(verb, resource, &answer),
            Err(error) => self.after_loss(verb, resource, error).await,
        }
    }

    async fn poll(&self, operation: &Operation) -> Result<Progress> {
        self.ask(operation).await
    }

    async fn group(&self, group: &GroupId) -> Result<Option<Seen>> {
        let query = [(API_VERSION, GROUP_VERSION.to_owned())];
        let url = self.environment().url(&group.to_string(), &query);
        let call = self.reading("read", format!("resource group {group}"), url);
        self.look(&call).await
    }

    async fn create_group(&self, group: &GroupId, body: &Group) -> Result<Seen> {
        if let Some(seen) = self.group(group).await? {
            return Ok(seen);
        }
        let query = [(API_VERSION, GROUP_VERSION.to_owned())];
        let call = Call {
            operation: "create",
            object: format!("resource group {group}"),
            method: Method::PUT,
            url: self.environment().url(&group.to_string(), &query),
            body: json_bytes(body),
            // A group is made at once, and making it again changes nothing but its tags.
            repeat: Repeat::Harmless,
        };
        let answer = self.send(&call).await?;
        read_seen(&call, &answer)
    }

    async fn list_of_run(&self, group: &GroupId, run: &str) -> Result<Vec<ResourceId>> {
        self.tagged(group, TAG_RUN, run).await
    }
}

impl ArmClient {
    async fn put(
        &self,
        verb: Verb,
        resource: &ResourceId,
        owner: &Owner,
        body: &Body,
        sent: Bytes,
    ) -> Result<Begun> {
        let url = self.url_of(resource, "", &[]);
        let call = changing(verb, Method::PUT, resource, url, sent);
        match self.send(&call).await {
            Ok(answer) => self.read_begun(verb, resource, &answer),
            Err(error) if error.outcome_unknown() => {
                tracing::info!(%error, "the reply was lost: looking at what is there");
                let Ok(Some(seen)) = self.get(resource).await else {
                    return Err(error);
                };
                match check_ours(verb, resource, owner, body, &seen) {
                    Ok(()) => Ok(self.going(verb, resource)),
                    // What is there is from before: the change did not arrive, or not yet.
                    Err(_) if verb == Verb::Update => Err(error),
                    Err(other) => Err(other),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of a deletion or an action whose request failed with `error`.
    async fn after_loss(&self, verb: Verb, resource: &ResourceId, error: Error) -> Result<Begun> {
        if !error.outcome_unknown() {
            return Err(error);
        }
        tracing::info!(%error, "the reply was lost: looking at what is there");
        let Ok(seen) = self.get(resource).await else {
            return Err(error);
        };
        let operation = operation::found(verb, resource, self.now());
        match operation::of_resource(&operation, seen) {
            Progress::Done(outcome) => Ok(Begun::Done(outcome)),
            Progress::Going(operation) => Ok(Begun::Going(operation)),
            Progress::Failed(_) | Progress::Unknown => Err(error),
        }
    }

    fn going(&self, verb: Verb, resource: &ResourceId) -> Begun {
        Begun::Going(operation::found(verb, resource, self.now()))
    }

    fn read_begun(&self, verb: Verb, resource: &ResourceId, answer: &Answer) -> Result<Begun> {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        let now = self.now();
        operation::begun(verb, resource, *status, headers, body, now).map_err(|why| {
            Error::new(verb.phrase(), object(resource), Kind::Malformed).because(why)
        })
    }

    /// A read of something that need not be there.
    pub(super) async fn look(&self, call: &Call) -> Result<Option<Seen>> {
        match self.send(call).await {
            Ok(answer) if answer.status == StatusCode::OK => read_seen(call, &answer).map(Some),
            Ok(_) => Err(Error::new(call.operation, &call.object, Kind::Malformed)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Azure itself says that it is not there; a proxy's 404 says nothing of the kind.
fn is_absent(error: &Error) -> bool {
    let said = error.refusal.as_ref().and_then(|said| said.code.as_deref());
    error.is_not_found() && said.is_some()
}

fn read_seen(call: &Call, answer: &Answer) -> Result<Seen> {
    Seen::read(&answer.body)
        .map_err(|why| Error::new(call.operation, &call.object, Kind::Malformed).because(why))
}

/// Whether what is there is this owner's, and what was to be made.
fn check_ours(
    verb: Verb,
    resource: &ResourceId,
    owner: &Owner,
    body: &Body,
    seen: &Seen,
) -> Result<()> {
    let error = |kind| Error::new(verb.phrase(), object(resource), kind);
    if !owner.owns(&seen.tags) {
        return Err(error(Kind::Taken));
    }
    let mut sent = serde_json::to_value(body).unwrap_or_default();
    // People add tags; those that matter were compared.
    if let Value::Object(sent) = &mut sent {
        sent.remove("tags");
    }
    match contradiction(&sent, seen.whole()) {
        None => Ok(()),
        Some(path) => Err(error(Kind::Differs).because(Differs(path))),
    }
}

/// Where what is there is another.
#[derive(Debug, thiserror::Error)]
#[error("its {0} is another")]
struct Differs(String);

fn changing(
    verb: Verb,
    method: Method,
    resource: &ResourceId,
    url: reqwest::Url,
    body: Bytes,
) -> Call {
    Call {
        operation: verb.phrase(),
        object: object(resource),
        method,
        url,
        body,
        repeat: Repeat::OnlyIfNotDone,
    }
}

fn bytes(verb: Verb, resource: &ResourceId, body: &Body) -> Result<Bytes> {
    if body.kind() != resource.kind() {
        let error = Error::new(verb.phrase(), object(resource), Kind::Refused);
        return Err(error.because(Mismatch(body.kind().word())));
    }
    Ok(json_bytes(body))
}

#[derive(Debug, thiserror::Error)]
#[error("its body is that of a {0}")]
struct Mismatch(&'static str);

fn json_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("our bodies are texts, numbers and lists of them")
        .into()
}
