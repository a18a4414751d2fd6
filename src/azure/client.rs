//! Azure Resource Manager over HTTP: one request, seen through (pace, token, send, classify, retry), and what the edge's
//! methods make of it.
//!
//! ```text
//! send ── pace ── token ── attempt ── answer
//!          ▲                  │ failed, it may be sent again (Repeat), and waiting helps (Error::again)
//!          └────── wait ──────┘ at most for the client's patience, until the process stops
//! ```
//! A read is sent again. A change is sent again only if it was surely not carried out; where that is not known, a method
//! reads the resource and says what it finds (see [`crate::azure`]). Nothing else in `azure` sends.

mod changes;
mod checks;
mod polling;

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use crate::azure::cloud::Environment;
use crate::azure::error::{Error, Kind, classify};
use crate::azure::id::ResourceId;
use crate::azure::pace::{Class, Pace};
use crate::report;
use crate::retry::{self, Again};
use crate::transport::http::{Answer, Broken, Http, exchange};
use crate::transport::token::{Tokens, Why};
use crate::units::{Clock, MIB, SystemClock, to_u64};

/// How long a request is sent again, if nothing else is said. Operations take longer; they are polled, not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer is a page of the sizes of a region: some MiB.
const ANSWER_MAX: u64 = 32 * MIB;
/// How long nothing of a class is sent after a 429 that does not say.
const REFUSED: Duration = Duration::from_secs(10);
pub(crate) const API_VERSION: &str = "api-version";

/// What holds for every request of a client.
#[derive(Clone)]
pub struct Options {
    /// How long a failed request is sent again, counted from its first attempt.
    pub patience: Duration,
    /// Ends the waiting between attempts.
    pub stop: CancellationToken,
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            patience: PATIENCE,
            stop: CancellationToken::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A client of one Azure with one identity. Cheap to clone; clones share their pace and their tokens.
#[derive(Clone)]
pub struct ArmClient {
    shared: Arc<Shared>,
}

struct Shared {
    http: Http,
    environment: Environment,
    tokens: Tokens,
    options: Options,
    pace: Pace,
}

/// Whether a request may be sent again when the fate of the one before is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    Harmless,
    OnlyIfNotDone,
}

/// A request, before a token is put on it.
struct Call {
    /// A verb phrase that `object` follows.
    operation: &'static str,
    object: String,
    method: Method,
    url: Url,
    body: Bytes,
    repeat: Repeat,
}

impl ArmClient {
    pub fn new(
        http: &Http,
        environment: Environment,
        identity: Arc<dyn TokenCredential>,
        options: Options,
    ) -> Self {
        let tokens = Tokens::of(identity, environment.scope());
        ArmClient {
            shared: Arc::new(Shared {
                http: http.clone(),
                environment,
                tokens,
                options,
                pace: Pace::new(),
            }),
        }
    }

    fn environment(&self) -> &Environment {
        &self.shared.environment
    }

    fn now(&self) -> jiff::Timestamp {
        self.shared.options.clock.now()
    }

    /// Sends `call` until it is answered with success or there is no point in going on.
    async fn send(&self, call: &Call) -> Result<Answer, Error> {
        let Options { patience, stop, .. } = &self.shared.options;
        let again = |error: &Error| match call.repeat {
            Repeat::OnlyIfNotDone if error.outcome_unknown() => Again::Never,
            Repeat::Harmless | Repeat::OnlyIfNotDone => error.again(),
        };
        retry::with(*patience, stop, again, || self.attempt(call)).await
    }

    async fn attempt(&self, call: &Call) -> Result<Answer, Error> {
        let error = |kind| Error::new(call.operation, &call.object, kind);
        let Shared {
            http,
            environment,
            tokens,
            options,
            pace,
        } = &*self.shared;
        let class = Class::of(&call.method);
        tokio::select! {
            () = pace.admit(class) => {}
            () = options.stop.cancelled() => return Err(error(Kind::Stopped)),
        }
        let token = tokens.get(options.clock.now()).await.map_err(|none| {
            let error = error(match none.why {
                Why::Refused => Kind::Unauthorized,
                Why::Unavailable => Kind::TokenUnavailable,
            });
            match none.source {
                Some(source) => error.because(source),
                None => error,
            }
        })?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.token.secret()))
            .map_err(|why| error(Kind::Unauthorized).because(why))?;
        bearer.set_sensitive(true);
        let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
        request.headers_mut().insert(AUTHORIZATION, bearer);
        if !call.body.is_empty() {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        *request.body_mut() = Some(call.body.clone().into());
        let client = match environment.is_loopback() {
            true => http.direct(),
            false => http.routed(),
        };
        let sent = to_u64(call.body.len());
        let answer = match exchange(client, request, sent, ANSWER_MAX).await {
            Ok(answer) => answer,
            Err(Broken::NotConnected(why)) => return Err(error(Kind::Unreachable).because(why)),
            Err(Broken::Lost(why)) => return Err(error(Kind::Interrupted).because(why)),
            Err(Broken::Stalled) => return Err(error(Kind::Interrupted)),
            Err(Broken::TooLarge { .. }) => return Err(error(Kind::Malformed)),
        };
        pace.seen(class, &answer.headers);
        if answer.status.is_success() {
            return Ok(answer);
        }
        let refusal = classify::refusal(answer.status, &answer.headers, &answer.body);
        let kind = classify::kind(&refusal);
        if kind == Kind::Busy {
            pace.refused(class, refusal.retry_after.unwrap_or(REFUSED));
        }
        let error = error(kind).refused(refusal);
        tracing::debug!(error = report::chain(&error), "request failed");
        Err(error)
    }

    /// A read.
    fn reading(&self, operation: &'static str, object: String, url: Url) -> Call {
        Call {
            operation,
            object,
            method: Method::GET,
            url,
            body: Bytes::new(),
            repeat: Repeat::Harmless,
        }
    }

    /// The URL of a resource or of something below it, with its api-version.
    fn url_of(&self, resource: &ResourceId, below: &str, query: &[(&str, String)]) -> Url {
        let mut query = query.to_vec();
        query.push((API_VERSION, resource.kind().api_version().to_owned()));
        self.environment()
            .url(&format!("{resource}{below}"), &query)
    }
}

/// What errors call a resource.
fn object(resource: &ResourceId) -> String {
    format!("{} {resource}", resource.kind().word())
}
