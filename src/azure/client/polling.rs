//! One look at an operation, wherever it was begun.

use http::StatusCode;

use crate::azure::client::{ArmClient, object};
use crate::azure::error::classify::{self, Said};
use crate::azure::error::{Error, Kind};
use crate::azure::operation::{self, Failure, Operation, Poll, Progress, Unclear};
use crate::azure::{Arm as _, Result};

/// A stored URL that no token may be sent to.
#[derive(Debug, thiserror::Error)]
#[error("its status is at a host that is not this cloud's")]
struct Elsewhere;

impl ArmClient {
    pub(super) async fn ask(&self, operation: &Operation) -> Result<Progress> {
        let phrase = "ask for the operation on";
        let object = object(&operation.resource);
        let error = |kind| Error::new(phrase, &object, kind);
        let unclear = |why: Unclear| error(Kind::Malformed).because(why);
        let url = match &operation.poll {
            Poll::Resource => {
                let seen = self.get(&operation.resource).await?;
                return Ok(operation::of_resource(operation, seen));
            }
            Poll::Status(url) | Poll::Location(url) => url,
        };
        let url = self
            .environment()
            .admit(url)
            .ok_or_else(|| error(Kind::Refused).because(Elsewhere))?;
        let location = matches!(operation.poll, Poll::Location(_));
        match self.send(&self.reading(phrase, object.clone(), url)).await {
            Ok(answer) if location => {
                let (status, headers) = (answer.status, &answer.headers);
                operation::of_location(operation, status, headers, &answer.body).map_err(unclear)
            }
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => Err(error(Kind::Malformed)),
            Ok(answer) => {
                operation::of_status(operation, &answer.headers, &answer.body).map_err(unclear)
            }
            Err(error) if error.is_not_found() => Ok(operation::forgotten(operation)),
            Err(error) if location && ended(&error) => {
                let said = error.refusal.map(|refusal| Said::of(&refusal));
                Ok(Progress::Failed(Failure {
                    said: said.unwrap_or_default(),
                    cancelled: false,
                }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether an error at a location is the operation's own end, and not one of asking.
fn ended(error: &Error) -> bool {
    let status = error.refusal.as_ref().map_or(0, |refusal| refusal.status);
    matches!(status, 400 | 409 | 412)
}

impl Failure {
    /// The error of an operation that ended so.
    pub fn error(&self, operation: &Operation) -> Error {
        let kind = match self.cancelled {
            true => Kind::Cancelled,
            false => classify::kind_of_failure(&self.said),
        };
        Error::new(operation.verb.phrase(), object(&operation.resource), kind)
            .refused(classify::failure(&self.said))
    }
}
