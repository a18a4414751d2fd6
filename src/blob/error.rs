//! What can go wrong at the storage account, and what that means for the caller.
//!
//! An error says what was tried on which object, in a [`Kind`] that decides what happens next, with the service's own
//! words. It never holds a query string: that is where signatures are.

pub mod classify;

use std::error::Error as StdError;

use crate::blob::names::Invalid;
use crate::report::{Code, Fault};
use crate::retry::Again;
use crate::transport::refusal::Refusal;

type Source = Box<dyn StdError + Send + Sync>;

/// What is asked of the storage account, one per request of its REST interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    PutBlob,
    PutBlock,
    PutBlockList,
    GetBlob,
    GetProperties,
    DeleteBlob,
    ListBlobs,
    CreatePageBlob,
    PutPages,
    ClearPages,
    GetPageRanges,
    SetSequenceNumber,
    Resize,
    Snapshot,
    Lease,
    CopyBlob,
    CreateContainer,
    DeleteContainer,
    GetContainerProperties,
    ListContainers,
    GetAccountInformation,
    GetServiceProperties,
    GetUserDelegationKey,
    SignAccess,
}

impl Operation {
    /// A verb phrase that an object follows.
    pub const fn phrase(self) -> &'static str {
        match self {
            Operation::PutBlob => "write",
            Operation::PutBlock => "write a block of",
            Operation::PutBlockList => "put together",
            Operation::GetBlob => "read",
            Operation::GetProperties => "read the properties of",
            Operation::DeleteBlob => "delete",
            Operation::ListBlobs => "list the blobs of",
            Operation::CreatePageBlob => "create page blob",
            Operation::PutPages => "write pages of",
            Operation::ClearPages => "clear pages of",
            Operation::GetPageRanges => "list the pages of",
            Operation::SetSequenceNumber => "set the sequence number of",
            Operation::Resize => "resize",
            Operation::Snapshot => "take a snapshot of",
            Operation::Lease => "change the lease of",
            Operation::CopyBlob => "start a copy to",
            Operation::CreateContainer => "create container",
            Operation::DeleteContainer => "delete container",
            Operation::GetContainerProperties => "read the properties of container",
            Operation::ListContainers => "list the containers of",
            Operation::GetAccountInformation => "ask for the kind of",
            Operation::GetServiceProperties => "ask for the settings of",
            Operation::GetUserDelegationKey => "get a user delegation key of",
            Operation::SignAccess => "sign access to",
        }
    }
}

/// The kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Kind {
    /// No connection: nothing was sent.
    #[error("no connection")]
    Unreachable,
    /// The connection broke, or the time was up, after sending began.
    #[error("the connection was lost before the answer was complete")]
    Interrupted,
    /// The service asks to slow down (429, 503).
    #[error("the service is busy")]
    Busy,
    /// The service, or a proxy before it, failed (408 and the other 5xx).
    #[error("the service failed")]
    ServerFailed,
    /// A shared access signature was refused; a newer one may be accepted.
    #[error("the access signature was refused")]
    SignatureRefused,
    /// The account's own credentials were refused, by the storage service or by the one that issues tokens.
    #[error("the credentials were refused")]
    Unauthorized,
    /// The service that issues tokens does not answer.
    #[error("no access token can be had")]
    TokenUnavailable,
    /// The blob, snapshot or container is not there.
    #[error("not found")]
    NotFound,
    /// What was to be created is there already.
    #[error("it exists already")]
    AlreadyExists,
    /// The object is not in the state that the operation needs: leased, has snapshots, being deleted, …
    #[error("it is not in a state that allows this")]
    Conflict,
    /// The blob is not what the request's condition says (412).
    #[error("it was changed by someone else")]
    Changed,
    /// The page blob's sequence number is not the request's: another writer has taken over.
    #[error("another writer has taken over")]
    Fenced,
    /// Bytes arrived other than they were sent.
    #[error("the bytes were changed on the way")]
    Corrupted,
    /// The service, or this client before sending, refuses the request as it is.
    #[error("the request was refused")]
    Refused,
    /// There is more than the caller is ready to take.
    #[error("there is more than the {limit} that are allowed here")]
    TooLarge { limit: u64 },
    /// What came back cannot be understood; a proxy may have answered.
    #[error("the answer cannot be understood")]
    Malformed,
    /// The process was told to stop.
    #[error("stopping")]
    Stopped,
}

/// A request to the storage account that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {} {object}: {kind}{}", operation.phrase(), said(refusal.as_deref()))]
pub struct Error {
    pub operation: Operation,
    /// Account, container and blob, as a URL without its query.
    pub object: String,
    pub kind: Kind,
    /// What the service said, if it was the service that said no.
    pub refusal: Option<Box<Refusal>>,
    /// An earlier attempt of the same call may have been carried out: what this error complains of may be its doing.
    pub repeated: bool,
    /// The signature or token was replaced while the request was under way: the same request with the new one.
    pub(crate) renewed: bool,
    source: Option<Source>,
}

fn said(refusal: Option<&Refusal>) -> String {
    refusal.map_or_else(String::new, |refusal| format!(" ({refusal})"))
}

impl Error {
    pub fn new(operation: Operation, object: impl Into<String>, kind: Kind) -> Self {
        Error {
            operation,
            object: object.into(),
            kind,
            refusal: None,
            repeated: false,
            renewed: false,
            source: None,
        }
    }

    /// A request that this client does not send.
    pub(crate) fn invalid(operation: Operation, object: impl Into<String>, why: Invalid) -> Self {
        Error::new(operation, object, Kind::Refused).because(why)
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
        match self.kind {
            Kind::Unreachable | Kind::Interrupted | Kind::TokenUnavailable | Kind::Stopped => {
                Code::StorageUnreachable
            }
            Kind::Busy => Code::StorageBusy,
            Kind::ServerFailed | Kind::Malformed => Code::StorageServerError,
            Kind::SignatureRefused => Code::WaitingForCredentials,
            Kind::Unauthorized => Code::StorageUnauthorized,
            Kind::NotFound => Code::StorageNotFound,
            Kind::AlreadyExists | Kind::Conflict => Code::StorageConflict,
            Kind::Changed => Code::StorageChanged,
            Kind::Fenced => Code::Fenced,
            Kind::Corrupted => Code::StorageIntegrity,
            Kind::Refused => Code::StorageRefused,
            Kind::TooLarge { .. } => Code::ForeignBlob,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }

    /// Whether the same request, sent again soon, may succeed. Whether it may be sent again is another question.
    pub fn again(&self) -> Again {
        match self.kind {
            Kind::Unreachable
            | Kind::Interrupted
            | Kind::Busy
            | Kind::ServerFailed
            | Kind::TokenUnavailable
            | Kind::Corrupted => match self.refusal.as_ref().and_then(|said| said.retry_after) {
                Some(wait) => Again::After(wait),
                None => Again::Soon,
            },
            Kind::SignatureRefused if self.renewed => Again::Soon,
            Kind::SignatureRefused
            | Kind::Unauthorized
            | Kind::NotFound
            | Kind::AlreadyExists
            | Kind::Conflict
            | Kind::Changed
            | Kind::Fenced
            | Kind::Refused
            | Kind::TooLarge { .. }
            | Kind::Malformed
            | Kind::Stopped => Again::Never,
        }
    }

    /// Whether the request may have been carried out although this error came back. A caller that depends on it must
    /// look at what is stored.
    pub fn outcome_unknown(&self) -> bool {
        let this_attempt = match self.kind {
            Kind::Interrupted | Kind::ServerFailed | Kind::Malformed => true,
            // The service says `ServerBusy` of what it did not begin; a proxy's 503 says nothing of the kind.
            Kind::Busy => !self.refusal.as_ref().is_some_and(|said| {
                said.status == 429 || said.code.as_deref() == Some("ServerBusy")
            }),
            // The service stores nothing that arrived damaged; what we alone find damaged may be stored.
            Kind::Corrupted => self.refusal.is_none(),
            Kind::Unreachable
            | Kind::SignatureRefused
            | Kind::Unauthorized
            | Kind::TokenUnavailable
            | Kind::NotFound
            | Kind::AlreadyExists
            | Kind::Conflict
            | Kind::Changed
            | Kind::Fenced
            | Kind::Refused
            | Kind::TooLarge { .. }
            | Kind::Stopped => false,
        };
        this_attempt || self.repeated
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// What was to be created exists. After a lost reply ([`Error::repeated`]) it may be the caller's own.
    pub fn is_already_exists(&self) -> bool {
        self.kind == Kind::AlreadyExists
    }

    pub fn is_conflict(&self) -> bool {
        self.kind == Kind::Conflict
    }

    pub fn is_changed(&self) -> bool {
        self.kind == Kind::Changed
    }

    /// There is more than was asked for at most.
    pub fn is_too_large(&self) -> bool {
        matches!(self.kind, Kind::TooLarge { .. })
    }

    pub fn is_fenced(&self) -> bool {
        self.kind == Kind::Fenced
    }
}
