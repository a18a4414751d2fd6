//! A long-running operation of Azure as a value: begun by one process, stored, and gone on with by another. Pure.
//!
//! ```text
//!             answer to the change                      each poll
//! 200, 201    no header, state terminal ──► Done
//!             no header, not terminal ───► Resource ──── GET resource: state terminal ──► Done, Failed
//! 201, 202    Azure-AsyncOperation ──────► Status ────── GET status: not terminal ──► Status
//!                                            │  Succeeded: create, update ──► Resource
//!                                            │             access granted ──► Location, for its result
//!                                            │             else ──► Done
//!                                            │  Failed, Canceled ──► Failed
//!                                            └─ 404, 410: forgotten by Azure ──► Resource
//! 202         only Location ─────────────► Location ──── GET: 202 ──► Location; 200, 201, 204 ──► Done, Resource
//! 204                        ──► Done
//! ```
//! Source: *Track asynchronous Azure operations*. What the resource cannot settle (whether access was granted) is
//! `Unknown`: the caller does it again, which does no harm.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::azure::error::classify::Said;
use crate::azure::id::ResourceId;
use crate::azure::seen::{Power, Provisioning, Seen};
use crate::secret::Secret;
use crate::transport::refusal::retry_after;

/// How long to wait before the next look, where Azure does not say; it counts status reads per machine, 15 a minute.
pub const WAIT: Duration = Duration::from_secs(10);
/// Longer than that no wait is honoured: somebody waits for a failover.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// URLs that Azure puts into headers have up to 4 KiB.
const URL_MAX: usize = 4096;

/// What is done to a resource that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    /// The guest is shut down, or `skip_shutdown`: cut off.
    PowerOff {
        skip_shutdown: bool,
    },
    /// Off, and its host given back.
    Deallocate,
    /// A signature to read the bytes of a disk or a snapshot, for so long.
    GrantAccess {
        duration: Duration,
    },
    /// All signatures of a disk or a snapshot are taken back.
    RevokeAccess,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    Create,
    Update,
    Delete,
    Start,
    PowerOff,
    Deallocate,
    GrantAccess,
    RevokeAccess,
}

impl Verb {
    /// A verb phrase that an object follows.
    pub const fn phrase(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Update => "change",
            Verb::Delete => "delete",
            Verb::Start => "start",
            Verb::PowerOff => "power off",
            Verb::Deallocate => "deallocate",
            Verb::GrantAccess => "get access to",
            Verb::RevokeAccess => "revoke access to",
        }
    }
}

impl Action {
    pub const fn verb(&self) -> Verb {
        match self {
            Action::Start => Verb::Start,
            Action::PowerOff { .. } => Verb::PowerOff,
            Action::Deallocate => Verb::Deallocate,
            Action::GrantAccess { .. } => Verb::GrantAccess,
            Action::RevokeAccess => Verb::RevokeAccess,
        }
    }
}

/// What is under way. It holds no secret, and may be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    pub resource: ResourceId,
    pub verb: Verb,
    pub begun: Timestamp,
    /// Not before this has passed.
    pub wait_milliseconds: u64,
    pub(crate) poll: Poll,
    /// Where the result of an action comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<String>,
}

/// What is asked next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "ask", content = "url")]
pub(crate) enum Poll {
    Status(String),
    Location(String),
    Resource,
}

impl Operation {
    pub const fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_milliseconds)
    }

    fn asking(&self, poll: Poll, wait: Duration) -> Self {
        Operation {
            poll,
            wait_milliseconds: milliseconds(wait),
            ..self.clone()
        }
    }
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.min(WAIT_MAX).as_millis()).unwrap_or(u64::MAX)
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done, and there is nothing to tell.
    Nothing,
    /// The resource as it is now.
    Resource(Box<Seen>),
    /// A URL with its signature; used as it is, host and all.
    Access(Secret),
}

/// A change that Azure has taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    Done(Outcome),
    /// To be stored, and polled.
    Going(Operation),
}

/// How an operation is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    Done(Outcome),
    /// To be stored instead of the one before, and polled.
    Going(Operation),
    /// Azure has ended it without success: [`crate::azure::Error`] says why.
    Failed(Failure),
    /// Azure has forgotten it, and the resource does not tell: it is to be done again.
    Unknown,
}

/// Why Azure gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub said: Said,
    pub cancelled: bool,
}

/// An answer that says nothing that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unclear(&'static str);

/// What the answer to a change says. `body` may be empty.
///
/// # Errors
/// If it is no answer to this change.
pub fn begun(
    verb: Verb,
    resource: &ResourceId,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<Begun, Unclear> {
    let status_url = url(headers, "azure-asyncoperation");
    let location = url(headers, "location");
    let operation = |poll| Operation {
        resource: resource.clone(),
        verb,
        begun: now,
        wait_milliseconds: milliseconds(retry_after(headers).unwrap_or(WAIT)),
        poll,
        location: location.clone(),
    };
    let accepted = status == StatusCode::ACCEPTED;
    Ok(match (status_url, &location) {
        (Some(url), _) => Begun::Going(operation(Poll::Status(url))),
        // Of a creation, Location may name the resource itself: its state is what counts.
        (None, Some(url)) if accepted => Begun::Going(operation(Poll::Location(url.clone()))),
        (None, _) if accepted => Begun::Going(operation(Poll::Resource)),
        (None, _) if matches!(verb, Verb::Create | Verb::Update) => {
            let seen = Seen::read(body).map_err(|_| Unclear("the resource is not told"))?;
            match seen.provisioning {
                Provisioning::Succeeded => Begun::Done(Outcome::Resource(Box::new(seen))),
                Provisioning::Going(_) | Provisioning::Failed | Provisioning::Canceled => {
                    Begun::Going(operation(Poll::Resource))
                }
            }
        }
        (None, _) if verb == Verb::GrantAccess => {
            let access = access(body).ok_or(Unclear("the access is not told"))?;
            Begun::Done(Outcome::Access(access))
        }
        (None, _) => Begun::Done(Outcome::Nothing),
    })
}

/// What the answer to a status URL says.
///
/// # Errors
/// If it has no status.
pub fn of_status(
    operation: &Operation,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Progress, Unclear> {
    #[derive(Deserialize)]
    struct Status {
        status: String,
        #[serde(default)]
        error: Option<Said>,
        #[serde(default)]
        properties: Value,
    }
    let told: Status =
        serde_json::from_slice(body).map_err(|_| Unclear("the operation's status is not told"))?;
    let is = |word: &str| told.status.eq_ignore_ascii_case(word);
    if is("Failed") || is("Canceled") {
        return Ok(Progress::Failed(Failure {
            cancelled: is("Canceled"),
            said: told.error.unwrap_or_default(),
        }));
    }
    if !is("Succeeded") {
        let wait = retry_after(headers).unwrap_or(WAIT);
        let poll = operation.poll.clone();
        return Ok(Progress::Going(operation.asking(poll, wait)));
    }
    Ok(match operation.verb {
        Verb::Create | Verb::Update => {
            Progress::Going(operation.asking(Poll::Resource, Duration::ZERO))
        }
        Verb::GrantAccess => match (&operation.location, told.properties.get("output")) {
            (Some(url), _) => {
                let poll = Poll::Location(url.clone());
                Progress::Going(operation.asking(poll, Duration::ZERO))
            }
            (None, Some(output)) => access(output.to_string().as_bytes())
                .map_or(Progress::Unknown, |access| {
                    Progress::Done(Outcome::Access(access))
                }),
            (None, None) => Progress::Unknown,
        },
        Verb::Delete | Verb::Start | Verb::PowerOff | Verb::Deallocate | Verb::RevokeAccess => {
            Progress::Done(Outcome::Nothing)
        }
    })
}

/// What the answer to a location says, if it is a success.
///
/// # Errors
/// If the result of an action cannot be read.
pub fn of_location(
    operation: &Operation,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Progress, Unclear> {
    if status == StatusCode::ACCEPTED {
        let wait = retry_after(headers).unwrap_or(WAIT);
        let poll = operation.poll.clone();
        return Ok(Progress::Going(operation.asking(poll, wait)));
    }
    Ok(match operation.verb {
        Verb::Create | Verb::Update => {
            Progress::Going(operation.asking(Poll::Resource, Duration::ZERO))
        }
        Verb::GrantAccess => {
            let access = access(body).ok_or(Unclear("the access is not told"))?;
            Progress::Done(Outcome::Access(access))
        }
        Verb::Delete | Verb::Start | Verb::PowerOff | Verb::Deallocate | Verb::RevokeAccess => {
            Progress::Done(Outcome::Nothing)
        }
    })
}

/// What the resource says; `None`: it is not there.
pub fn of_resource(operation: &Operation, seen: Option<Seen>) -> Progress {
    let again = || Progress::Going(operation.asking(Poll::Resource, WAIT));
    let Some(seen) = seen else {
        return match operation.verb {
            Verb::Delete => Progress::Done(Outcome::Nothing),
            Verb::Create
            | Verb::Update
            | Verb::Start
            | Verb::PowerOff
            | Verb::Deallocate
            | Verb::GrantAccess
            | Verb::RevokeAccess => Progress::Unknown,
        };
    };
    let failed = |cancelled| {
        Progress::Failed(Failure {
            said: Said::default(),
            cancelled,
        })
    };
    let wanted: &[Power] = match operation.verb {
        Verb::Create | Verb::Update => {
            return match seen.provisioning {
                Provisioning::Succeeded => Progress::Done(Outcome::Resource(Box::new(seen))),
                Provisioning::Going(_) => again(),
                Provisioning::Failed => failed(false),
                Provisioning::Canceled => failed(true),
            };
        }
        Verb::Delete => {
            return match seen.provisioning {
                Provisioning::Going(_) => again(),
                Provisioning::Succeeded | Provisioning::Failed | Provisioning::Canceled => {
                    Progress::Unknown
                }
            };
        }
        Verb::GrantAccess | Verb::RevokeAccess => return Progress::Unknown,
        Verb::Start => &[Power::Running],
        Verb::PowerOff => &[Power::Stopped, Power::Deallocated],
        Verb::Deallocate => &[Power::Deallocated],
    };
    match (seen.power(), &seen.provisioning) {
        (power, Provisioning::Succeeded) if wanted.contains(&power) => {
            Progress::Done(Outcome::Nothing)
        }
        (Power::Starting | Power::Stopping | Power::Deallocating, _)
        | (_, Provisioning::Going(_)) => again(),
        (_, Provisioning::Succeeded | Provisioning::Failed | Provisioning::Canceled) => {
            Progress::Unknown
        }
    }
}

/// What is known when a status or a location is not there any more: the resource has to tell.
pub fn forgotten(operation: &Operation) -> Progress {
    match operation.verb {
        Verb::GrantAccess | Verb::RevokeAccess => Progress::Unknown,
        Verb::Create
        | Verb::Update
        | Verb::Delete
        | Verb::Start
        | Verb::PowerOff
        | Verb::Deallocate => Progress::Going(operation.asking(Poll::Resource, Duration::ZERO)),
    }
}

/// A change that was made by a request whose reply was lost: what goes on is read from the resource.
pub fn found(verb: Verb, resource: &ResourceId, now: Timestamp) -> Operation {
    Operation {
        resource: resource.clone(),
        verb,
        begun: now,
        wait_milliseconds: milliseconds(WAIT),
        poll: Poll::Resource,
        location: None,
    }
}

fn access(body: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct Access {
        #[serde(alias = "accessSas")]
        #[serde(rename = "accessSAS")]
        access: String,
    }
    let access: Access = serde_json::from_slice(body).ok()?;
    Some(Secret::new(access.access))
}

fn url(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    (text.len() <= URL_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
