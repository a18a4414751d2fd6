//! From an answer's status and error code, or a failed operation's error code, to a kind of error. Pure; the codes are
//! Azure's own (Azure Resource Manager, Compute and Network error codes).

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::azure::error::Kind;
use crate::transport::refusal::{CODE_MAX, MESSAGE_MAX, Refusal, retry_after, shorten};

/// How deep details are nested in details that are read.
const DEPTH_MAX: usize = 4;

/// Azure's error: `{"code","message","target","details":[…]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Said {
    pub code: Option<String>,
    pub message: Option<String>,
    details: Vec<Said>,
}

impl Said {
    pub(crate) fn of(refusal: &Refusal) -> Self {
        Said {
            code: refusal.code.clone(),
            message: refusal.message.clone(),
            details: Vec::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    error: Option<Said>,
}

/// What Azure said, from an answer that is no success. `body` is as much of it as was read.
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let header = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?;
        Some(shorten(text, CODE_MAX))
    };
    let said = error_body(body).unwrap_or_default();
    let telling = telling(&said, DEPTH_MAX);
    Refusal {
        status: status.as_u16(),
        code: telling.code.as_deref().map(|code| shorten(code, CODE_MAX)),
        request_id: header("x-ms-request-id").or_else(|| header("x-ms-correlation-request-id")),
        message: message(telling),
        retry_after: retry_after(headers),
    }
}

/// What an operation that failed says, as a refusal without an exchange of its own.
pub fn failure(said: &Said) -> Refusal {
    let telling = telling(said, DEPTH_MAX);
    Refusal {
        status: 0,
        code: telling.code.as_deref().map(|code| shorten(code, CODE_MAX)),
        request_id: None,
        message: message(telling),
        retry_after: None,
    }
}

fn message(said: &Said) -> Option<String> {
    let message = said.message.as_deref()?.replace(['\r', '\n'], " ");
    Some(shorten(&message, MESSAGE_MAX))
}

/// The error of an answer's body, in its envelope or (some providers) without it.
fn error_body(body: &[u8]) -> Option<Said> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let envelope: Envelope = serde_json::from_value(value.clone()).unwrap_or_default();
    envelope
        .error
        .or_else(|| serde_json::from_value(value).ok())
        .filter(|said: &Said| said.code.is_some() || said.message.is_some())
}

/// The innermost error that has a kind of its own: envelopes such as `DeploymentFailed` tell nothing.
fn telling(said: &Said, depth: usize) -> &Said {
    if depth == 0 || said.code.as_deref().and_then(of_code).is_some() {
        return said;
    }
    let inner = said.details.iter().map(|detail| telling(detail, depth - 1));
    let mut known = inner.filter(|detail| detail.code.as_deref().and_then(of_code).is_some());
    known.next().unwrap_or(said)
}

/// The kind of error that a refusal is. The code decides where it is known; where not, the status.
pub fn kind(refusal: &Refusal) -> Kind {
    let told = told(refusal.code.as_deref(), refusal.message.as_deref());
    match refusal.status {
        429 => Kind::Busy,
        401 => Kind::Unauthorized,
        403 => told.unwrap_or(Kind::Forbidden),
        404 | 410 => Kind::NotFound,
        409 => told.unwrap_or(Kind::Conflict),
        407 => Kind::Unreachable,
        408 | 500..=599 => match told {
            // A server that says so has decided: nothing is unknown about it.
            Some(kind @ (Kind::QuotaExceeded | Kind::NoCapacity)) => kind,
            Some(_) | None => Kind::ServerFailed,
        },
        400..=499 => told.unwrap_or(Kind::Refused),
        // Neither a success that we asked for nor an error: only a proxy answers like that.
        _ => Kind::Malformed,
    }
}

/// The kind of error that a failed operation is.
pub fn kind_of_failure(said: &Said) -> Kind {
    let telling = telling(said, DEPTH_MAX);
    // What Azure does not explain it may do the next time.
    told(telling.code.as_deref(), telling.message.as_deref()).unwrap_or(Kind::ServerFailed)
}

/// What a code says, with the one that says two things told apart by its message: a quota, or something in use.
fn told(code: Option<&str>, message: Option<&str>) -> Option<Kind> {
    match code? {
        "OperationNotAllowed" => {
            let quota =
                message.is_some_and(|message| message.to_ascii_lowercase().contains("quota"));
            Some(if quota {
                Kind::QuotaExceeded
            } else {
                Kind::Conflict
            })
        }
        code => of_code(code),
    }
}

fn of_code(code: &str) -> Option<Kind> {
    Some(match code {
        "TooManyRequests"
        | "OperationNotAllowedDueToThrottling"
        | "SubscriptionRequestsThrottled" => Kind::Busy,
        "QuotaExceeded"
        | "PublicIPCountLimitReached"
        | "ResourceCountExceedsLimitDueToTemplate"
        | "MaxStorageAccountsCountPerSubscriptionExceeded" => Kind::QuotaExceeded,
        "AllocationFailed"
        | "ZonalAllocationFailed"
        | "OverconstrainedAllocationRequest"
        | "OverconstrainedZonalAllocationRequest" => Kind::NoCapacity,
        "SkuNotAvailable"
        | "VMSizeNotSupported"
        | "InvalidParameterValueVMSize"
        | "NotAvailableForSubscription"
        | "VMSizeIsNotPermittedToEnableAcceleratedNetworking"
        | "BadRequestHyperVGenerationNotSupported"
        | "MaxNumberOfDisksExceeded" => Kind::SizeUnavailable,
        "PrivateIPAddressNotInAnySubnet"
        | "PrivateIPAddressInUse"
        | "PrivateIPAddressNotInSubnet"
        | "PrivateIPAddressIsAllocated"
        | "PrivateIPAddressInReservedRange"
        | "SubnetIsFull" => Kind::AddressUnusable,
        "InvalidVhd" | "InvalidBlobType" | "BlobSizeNotSupported" | "DiskBlobNotFound" => {
            Kind::DiskRefused
        }
        "AuthenticationFailed"
        | "ExpiredAuthenticationToken"
        | "InvalidAuthenticationToken"
        | "InvalidAuthenticationTokenTenant" => Kind::Unauthorized,
        "AuthorizationFailed" | "LinkedAuthorizationFailed" | "LinkedAccessCheckFailed" => {
            Kind::Forbidden
        }
        "RequestDisallowedByPolicy" | "ScopeLocked" | "ResourceGroupBeingLocked" => Kind::Policy,
        "ResourceNotFound"
        | "ResourceGroupNotFound"
        | "SubscriptionNotFound"
        | "NotFound"
        | "InvalidResourceReference"
        | "ParentResourceNotFound" => Kind::NotFound,
        "Conflict"
        | "ConflictingUserInput"
        | "OperationPreempted"
        | "AttachDiskWhileBeingDetached"
        | "DiskInUse"
        | "NicInUse"
        | "NicReservedForAnotherVm"
        | "InUseSubnetCannotBeDeleted"
        | "PublicIPAddressCannotBeDeleted"
        | "AnotherOperationInProgress"
        | "RetryableError"
        | "ResourceGroupBeingDeleted"
        | "Canceled" => Kind::Conflict,
        "InternalServerError"
        | "InternalExecutionError"
        | "InternalOperationError"
        | "ServiceUnavailable"
        | "OperationTimedOut"
        | "GatewayTimeout" => Kind::ServerFailed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, code: &str) -> Refusal {
        Refusal {
            status,
            code: (!code.is_empty()).then(|| code.to_owned()),
            ..Refusal::default()
        }
    }

    #[test]
    fn each_refusal_is_of_the_kind_that_the_table_says() {
        for (status, code, expected) in [
            (429, "OperationNotAllowed", Kind::Busy),
            (401, "ExpiredAuthenticationToken", Kind::Unauthorized),
            (403, "AuthorizationFailed", Kind::Forbidden),
            (403, "LinkedAuthorizationFailed", Kind::Forbidden),
            (403, "RequestDisallowedByPolicy", Kind::Policy),
            (404, "ResourceGroupNotFound", Kind::NotFound),
            (409, "OperationNotAllowed", Kind::Conflict),
            (409, "QuotaExceeded", Kind::QuotaExceeded),
            (409, "OperationPreempted", Kind::Conflict),
            (409, "ScopeLocked", Kind::Policy),
            (409, "SkuNotAvailable", Kind::SizeUnavailable),
            (409, "", Kind::Conflict),
            (400, "PrivateIPAddressInUse", Kind::AddressUnusable),
            (400, "InvalidParameter", Kind::Refused),
            (500, "", Kind::ServerFailed),
            (503, "ServiceUnavailable", Kind::ServerFailed),
            (500, "AllocationFailed", Kind::NoCapacity),
            (302, "", Kind::Malformed),
        ] {
            assert_eq!(kind(&said(status, code)), expected, "{status} {code}");
        }
    }

    #[test]
    fn what_an_envelope_holds_is_told_and_not_the_envelope() {
        let body = br#"{"error":{"code":"DeploymentFailed","message":"At least one.","details":[
            {"code":"Other","message":"x"},{"code":"SkuNotAvailable","message":"The requested size\r\nis not available."}]}}"#;
        let found = refusal(StatusCode::CONFLICT, &HeaderMap::new(), body);
        assert_eq!(found.code.as_deref(), Some("SkuNotAvailable"));
        let message = found.message.as_deref();
        assert_eq!(message, Some("The requested size  is not available."));
        assert_eq!(kind(&found), Kind::SizeUnavailable);
    }

    #[test]
    fn what_is_in_use_is_told_from_a_quota_that_is_used_up() {
        let said = |message: &str| Refusal {
            message: Some(message.to_owned()),
            ..said(409, "OperationNotAllowed")
        };
        let quota = said("results in exceeding approved Total Regional Cores quota.");
        assert_eq!(kind(&quota), Kind::QuotaExceeded);
        let used = said("Disk d is attached to VM v.");
        assert_eq!(kind(&used), Kind::Conflict);
    }

    #[test]
    fn a_proxys_page_is_an_error_without_a_code() {
        let found = refusal(
            StatusCode::BAD_GATEWAY,
            &HeaderMap::new(),
            b"<html>Bad Gateway</html>",
        );
        assert_eq!((found.code, found.message), (None, None));
    }

    #[test]
    fn a_failure_that_azure_does_not_explain_may_be_tried_again() {
        let unknown = Said {
            code: Some("SomethingNew".to_owned()),
            ..Said::default()
        };
        assert_eq!(kind_of_failure(&unknown), Kind::ServerFailed);
    }
}
