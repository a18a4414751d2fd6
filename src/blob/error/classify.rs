//! From an answer's status and error code to a kind of error. Pure; the codes are the service's own (Common REST API
//! error codes; Blob Storage error codes).

use http::{HeaderMap, StatusCode};

use crate::blob::error::Kind;
use crate::blob::xml;
use crate::transport::refusal::{CODE_MAX, MESSAGE_MAX, Refusal, retry_after, shorten};

/// By which right a request was sent, as far as it changes what a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// A shared access signature: refused, it waits for a newer one.
    Signature,
    /// The account's key or a token: refused, a human must act.
    Account,
}

/// What the service said, from an answer that is no success. `body` is as much of it as was read.
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let told = xml::error_body(body);
    Refusal {
        status: status.as_u16(),
        code: header("x-ms-error-code")
            .map(str::to_owned)
            .or(told.code)
            .map(|code| shorten(&code, CODE_MAX)),
        request_id: header("x-ms-request-id").map(|id| shorten(id, CODE_MAX)),
        message: told
            .message
            .and_then(|message| message.lines().next().map(str::to_owned))
            .map(|line| shorten(&line, MESSAGE_MAX)),
        retry_after: retry_after(headers),
    }
}

/// The kind of error that a refusal is. `creating`: the request's condition was that the object is absent.
pub fn kind(refusal: &Refusal, right: Right, creating: bool) -> Kind {
    let code = refusal.code.as_deref().unwrap_or_default();
    match refusal.status {
        429 | 503 => Kind::Busy,
        408 | 500 | 502 | 504..=599 => Kind::ServerFailed,
        407 => Kind::Unreachable,
        401 => refused_right(right),
        403 if code == "UnauthorizedBlobOverwrite" && creating => Kind::AlreadyExists,
        403 => refused_right(right),
        404 => Kind::NotFound,
        409 if matches!(code, "BlobAlreadyExists" | "ContainerAlreadyExists") => {
            Kind::AlreadyExists
        }
        409 => Kind::Conflict,
        412 if code == "SequenceNumberConditionNotMet" => Kind::Fenced,
        412 if code.starts_with("Lease") => Kind::Conflict,
        304 | 412 if creating => Kind::AlreadyExists,
        304 | 412 => Kind::Changed,
        400 if matches!(code, "Crc64Mismatch" | "Md5Mismatch") => Kind::Corrupted,
        400 if code == "InvalidAuthenticationInfo" => refused_right(right),
        400..=499 | 501 => Kind::Refused,
        // Neither a success that we asked for nor an error: only a proxy answers like that.
        _ => Kind::Malformed,
    }
}

/// Whether the pacer must know: the service asks for fewer requests.
pub fn is_throttling(refusal: &Refusal) -> bool {
    let timed_out = refusal.code.as_deref() == Some("OperationTimedOut");
    matches!(refusal.status, 429 | 503) || (refusal.status == 500 && timed_out)
}

const fn refused_right(right: Right) -> Kind {
    match right {
        Right::Signature => Kind::SignatureRefused,
        Right::Account => Kind::Unauthorized,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let cases = [
            (503, "ServerBusy", Kind::Busy),
            (429, "", Kind::Busy),
            (500, "OperationTimedOut", Kind::ServerFailed),
            (408, "", Kind::ServerFailed),
            (504, "", Kind::ServerFailed),
            (501, "NotImplemented", Kind::Refused),
            (403, "AuthorizationFailure", Kind::Unauthorized),
            (401, "NoAuthenticationInformation", Kind::Unauthorized),
            (400, "InvalidAuthenticationInfo", Kind::Unauthorized),
            (400, "Crc64Mismatch", Kind::Corrupted),
            (400, "InvalidHeaderValue", Kind::Refused),
            (404, "", Kind::NotFound),
            (409, "BlobAlreadyExists", Kind::AlreadyExists),
            (409, "ContainerAlreadyExists", Kind::AlreadyExists),
            (409, "ContainerBeingDeleted", Kind::Conflict),
            (409, "SnapshotsPresent", Kind::Conflict),
            (412, "ConditionNotMet", Kind::Changed),
            (412, "SequenceNumberConditionNotMet", Kind::Fenced),
            (412, "LeaseIdMissing", Kind::Conflict),
            (416, "InvalidPageRange", Kind::Refused),
            (407, "", Kind::Unreachable),
            (302, "", Kind::Malformed),
        ];
        for (status, code, expected) in cases {
            let found = kind(&said(status, code), Right::Account, false);
            assert_eq!(found, expected, "{status} {code}");
        }
    }

    #[test]
    fn a_refused_signature_waits_for_a_newer_one() {
        for status in [401, 403] {
            let refusal = said(status, "AuthenticationFailed");
            assert_eq!(
                kind(&refusal, Right::Signature, false),
                Kind::SignatureRefused
            );
        }
    }

    #[test]
    fn every_way_of_saying_that_it_exists_reads_the_same_to_who_creates() {
        for (status, code) in [
            (409, "BlobAlreadyExists"),
            (412, "ConditionNotMet"),
            (403, "UnauthorizedBlobOverwrite"),
        ] {
            let found = kind(&said(status, code), Right::Signature, true);
            assert_eq!(found, Kind::AlreadyExists, "{status} {code}");
        }
    }

    #[test]
    fn a_refusal_says_one_bounded_line_without_control_characters() {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>Ingress is over\tthe limit.{}\nRequestId:1</Message></Error>",
            "x".repeat(1000)
        );
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let found = refusal(StatusCode::SERVICE_UNAVAILABLE, &headers, body.as_bytes());
        let message = found.message.unwrap();
        assert_eq!(found.code.as_deref(), Some("ServerBusy"));
        assert!(
            message.starts_with("Ingress is overthe limit."),
            "{message}"
        );
        assert_eq!(message.len(), MESSAGE_MAX);
        assert_eq!(found.retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn throttling_is_what_azure_says_when_it_wants_fewer_requests() {
        assert!(is_throttling(&said(503, "ServerBusy")));
        assert!(is_throttling(&said(500, "OperationTimedOut")));
        assert!(!is_throttling(&said(500, "InternalError")));
    }
}
