//! One request as a value: what is said and how its answer is read, before anything is signed or sent.

use bytes::Bytes;
use http::Method;

use crate::blob::endpoint::percent_encode;
use crate::blob::error::{Error, Operation};
use crate::blob::names::Invalid;
use crate::blob::parameters::{Condition, Metadata, check_metadata};
use crate::units::KIB;

/// What an answer without content may bring all the same.
const ANSWER_MAX: u64 = 64 * KIB;

/// Whether a request may be sent again when the fate of the one before is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Twice has the effect of once.
    Harmless,
    /// Twice would do more than once: only if the one before was surely not carried out.
    OnlyIfNotDone,
}

impl Repeat {
    pub(crate) fn allows(self, error: &Error) -> bool {
        match self {
            Repeat::Harmless => true,
            Repeat::OnlyIfNotDone => !error.outcome_unknown(),
        }
    }
}

/// A request to the service.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    pub(crate) container: Option<String>,
    pub(crate) blob: Option<String>,
    /// Decoded.
    pub(crate) query: Vec<(&'static str, String)>,
    /// Without those that every request has.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// Statuses that mean that it was done.
    pub(crate) success: &'static [u16],
    /// Bytes of answer that are taken at most.
    pub(crate) limit: u64,
    pub(crate) repeat: Repeat,
    /// The condition is that there is no such object yet.
    pub(crate) creating: bool,
    /// It counts towards the pace of its blob.
    pub(crate) paced: bool,
    /// Why it must not be sent.
    pub(crate) invalid: Option<Invalid>,
}

impl Call {
    pub(crate) fn new(operation: Operation, method: Method, success: &'static [u16]) -> Self {
        Call {
            operation,
            method,
            container: None,
            blob: None,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            success,
            limit: ANSWER_MAX,
            repeat: Repeat::Harmless,
            creating: false,
            paced: false,
            invalid: None,
        }
    }

    pub(crate) fn container(mut self, container: &str) -> Self {
        self.container = Some(container.to_owned());
        self
    }

    pub(crate) fn blob(mut self, blob: &str) -> Self {
        self.blob = Some(blob.to_owned());
        self
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn only_if_not_done(mut self) -> Self {
        self.repeat = Repeat::OnlyIfNotDone;
        self
    }

    pub(crate) fn paced(mut self) -> Self {
        self.paced = true;
        self
    }

    pub(crate) fn condition(mut self, condition: &Condition) -> Self {
        match condition {
            Condition::Always => self,
            Condition::Absent => {
                self.creating = true;
                self.header("if-none-match", "*")
            }
            Condition::Matches(etag) => self.header("if-match", etag.as_str()),
        }
    }

    /// A condition on something that has to exist anyway.
    pub(crate) fn existing(self, condition: &Condition) -> Self {
        let checked = match condition {
            Condition::Always | Condition::Matches(_) => Ok(()),
            Condition::Absent => Err(Invalid::new(
                self.operation.phrase(),
                "it cannot be done to what is absent",
            )),
        };
        self.condition(condition).check(checked)
    }

    pub(crate) fn metadata(mut self, metadata: &Metadata) -> Self {
        self = self.check(check_metadata(metadata));
        for (name, value) in metadata {
            self = self.header(format!("x-ms-meta-{name}"), value);
        }
        self
    }

    /// Marks the call as one that must not be sent.
    pub(crate) fn check(mut self, checked: Result<(), Invalid>) -> Self {
        self.invalid = self.invalid.or(checked.err());
        self
    }

    /// The query string, without question mark; empty if there is none.
    pub(crate) fn query_string(&self) -> String {
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encode(value, b"")))
            .collect();
        pairs.join("&")
    }
}
