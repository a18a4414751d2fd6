//! What can go wrong at Azure Resource Manager, and what that means for the caller.
//!
//! An error says what was tried on which resource, in a [`Kind`] that decides what happens next, with Azure's own words
//! and its request id. It never holds a query string: that is where signatures are.

pub mod classify;

use std::error::Error as StdError;
use std::time::Duration;

use crate::report::{Code, Fault};
use crate::retry::Again;
use crate::transport::refusal::Refusal;

type Source = Box<dyn StdError + Send + Sync>;

/// The kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Kind {
    /// No connection: nothing was sent.
    #[error("no connection")]
    Unreachable,
    /// The connection broke, or the time was up, after sending began.
    #[error("the connection was lost before the answer was complete")]
    Interrupted,
    /// Azure asks to slow down (429).
    #[error("Azure asks to slow down")]
    Busy,
    /// Azure failed (408 and 5xx).
    #[error("Azure failed")]
    ServerFailed,
    /// The identity, or its token, is refused (401).
    #[error("the credentials were refused")]
    Unauthorized,
    /// The identity may not do this, here or to what it refers to (403).
    #[error("the identity may not do this")]
    Forbidden,
    /// A policy or a lock forbids it.
    #[error("a policy or a lock forbids it")]
    Policy,
    /// The service that issues tokens does not answer.
    #[error("no access token can be had")]
    TokenUnavailable,
    /// The resource, or one that the request refers to, is not there.
    #[error("not found")]
    NotFound,
    /// Another operation is under way, or something is in use.
    #[error("it is in use, or another operation on it is under way")]
    Conflict,
    /// A resource of this name is there and is somebody else's.
    #[error("a resource of this name is there already, and this run did not make it")]
    Taken,
    /// What is there contradicts what was to be made.
    #[error("what is there is another than was to be made")]
    Differs,
    /// A quota of the subscription is used up.
    #[error("a quota of the subscription is used up")]
    QuotaExceeded,
    /// The region has no room for such a machine at the moment.
    #[error("the region has no capacity for it at the moment")]
    NoCapacity,
    /// The size or disk type is not offered here, or does not fit.
    #[error("the machine size or disk type is not offered here, or does not fit")]
    SizeUnavailable,
    /// The private address is used by somebody else, or is not in the subnet.
    #[error("the address is not free, or not of the subnet")]
    AddressUnusable,
    /// The blob is no disk that Azure takes.
    #[error("the blob is no disk that Azure can import")]
    DiskRefused,
    /// Azure, or this client before sending, refuses the request as it is.
    #[error("the request was refused")]
    Refused,
    /// An operation that Azure had begun was ended by somebody.
    #[error("the operation was cancelled")]
    Cancelled,
    /// What came back cannot be understood; a proxy may have answered.
    #[error("the answer cannot be understood")]
    Malformed,
    /// The process was told to stop.
    #[error("stopping")]
    Stopped,
}

/// A request to Azure that failed, or an operation that ended so.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}: {kind}{}", said(refusal.as_deref()))]
pub struct Error {
    /// A verb phrase that an object follows.
    pub operation: &'static str,
    /// The resource: its type in words and its id.
    pub object: String,
    pub kind: Kind,
    /// What Azure said, if it was Azure that said no.
    pub refusal: Option<Box<Refusal>>,
    /// An earlier request of the same call may have been carried out.
    pub(crate) uncertain: bool,
    source: Option<Source>,
}

fn said(refusal: Option<&Refusal>) -> String {
    refusal.map_or_else(String::new, |refusal| format!(" ({refusal})"))
}

impl Error {
    pub fn new(operation: &'static str, object: impl Into<String>, kind: Kind) -> Self {
        Error {
            operation,
            object: object.into(),
            kind,
            refusal: None,
            uncertain: false,
            source: None,
        }
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn refused(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(Box::new(refusal));
        self
    }

    pub fn code(&self) -> Code {
        code(self.kind)
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }

    /// Whether the same request, sent again soon, may succeed. Whether it may be sent again is another question.
    pub fn again(&self) -> Again {
        let wait = self.refusal.as_ref().and_then(|said| said.retry_after);
        match self.kind {
            Kind::Unreachable
            | Kind::Interrupted
            | Kind::Busy
            | Kind::ServerFailed
            | Kind::TokenUnavailable => wait.map_or(Again::Soon, Again::After),
            Kind::Unauthorized
            | Kind::Forbidden
            | Kind::Policy
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Taken
            | Kind::Differs
            | Kind::QuotaExceeded
            | Kind::NoCapacity
            | Kind::SizeUnavailable
            | Kind::AddressUnusable
            | Kind::DiskRefused
            | Kind::Refused
            | Kind::Cancelled
            | Kind::Malformed
            | Kind::Stopped => Again::Never,
        }
    }

    /// How long Azure wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal.as_ref().and_then(|said| said.retry_after)
    }

    /// Whether a change may have been made although this error came back. The caller must look before it believes
    /// either.
    pub fn outcome_unknown(&self) -> bool {
        let this = match self.kind {
            Kind::Interrupted | Kind::ServerFailed | Kind::Malformed => true,
            Kind::Unreachable
            | Kind::Busy
            | Kind::Unauthorized
            | Kind::Forbidden
            | Kind::Policy
            | Kind::TokenUnavailable
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Taken
            | Kind::Differs
            | Kind::QuotaExceeded
            | Kind::NoCapacity
            | Kind::SizeUnavailable
            | Kind::AddressUnusable
            | Kind::DiskRefused
            | Kind::Refused
            | Kind::Cancelled
            | Kind::Stopped => false,
        };
        this || self.uncertain
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
}

/// The stable name of a kind.
pub const fn code(kind: Kind) -> Code {
    match kind {
        Kind::Unreachable | Kind::Interrupted | Kind::TokenUnavailable | Kind::Stopped => {
            Code::AzureUnreachable
        }
        Kind::Busy => Code::AzureBusy,
        Kind::ServerFailed | Kind::Malformed | Kind::Cancelled => Code::AzureServerError,
        Kind::Unauthorized => Code::AzureUnauthorized,
        Kind::Forbidden => Code::AzureForbidden,
        Kind::Policy => Code::AzurePolicy,
        Kind::NotFound => Code::AzureNotFound,
        Kind::Conflict => Code::AzureConflict,
        Kind::Taken | Kind::Differs => Code::AzureNameTaken,
        Kind::QuotaExceeded => Code::AzureQuotaExceeded,
        Kind::NoCapacity => Code::AzureNoCapacity,
        Kind::SizeUnavailable => Code::AzureSizeUnavailable,
        Kind::AddressUnusable => Code::AzureAddressUnusable,
        Kind::DiskRefused => Code::AzureDiskRefused,
        Kind::Refused => Code::AzureRefused,
    }
}
