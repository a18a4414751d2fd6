//! The requests about the account and its containers (Blob Service REST: operations on the account and on containers).
//! Pure: from arguments to a [`Call`].

use http::Method;
use jiff::Timestamp;

use crate::blob::client::blob_calls::{LIST_MAX, optional};
use crate::blob::client::call::Call;
use crate::blob::date;
use crate::blob::error::Operation;
use crate::units::KIB;

/// What the account tells about itself is a few elements long.
const SMALL: u64 = 256 * KIB;

pub(crate) fn create_container(name: &str) -> Call {
    of_container(Operation::CreateContainer, Method::PUT, &[201], name)
}

pub(crate) fn delete_container(name: &str) -> Call {
    of_container(Operation::DeleteContainer, Method::DELETE, &[202], name)
}

pub(crate) fn container_properties(name: &str) -> Call {
    of_container(
        Operation::GetContainerProperties,
        Method::HEAD,
        &[200],
        name,
    )
}

pub(crate) fn list_containers(prefix: &str, marker: Option<&str>) -> Call {
    let call = Call::new(Operation::ListContainers, Method::GET, &[200])
        .query("comp", "list")
        .limit(LIST_MAX);
    let call = optional(call, "prefix", prefix);
    optional(call, "marker", marker.unwrap_or_default())
}

pub(crate) fn information() -> Call {
    Call::new(Operation::GetAccountInformation, Method::HEAD, &[200])
        .query("restype", "account")
        .query("comp", "properties")
}

pub(crate) fn service_properties() -> Call {
    Call::new(Operation::GetServiceProperties, Method::GET, &[200])
        .query("restype", "service")
        .query("comp", "properties")
        .limit(SMALL)
}

pub(crate) fn user_delegation_key(start: Timestamp, expiry: Timestamp) -> Call {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><KeyInfo><Start>{}</Start><Expiry>{}</Expiry></KeyInfo>",
        date::iso(start),
        date::iso(expiry)
    );
    Call::new(Operation::GetUserDelegationKey, Method::POST, &[200])
        .query("restype", "service")
        .query("comp", "userdelegationkey")
        .header("content-type", "application/xml")
        .body(body.into())
        .limit(SMALL)
}

fn of_container(operation: Operation, method: Method, success: &'static [u16], name: &str) -> Call {
    Call::new(operation, method, success)
        .container(name)
        .query("restype", "container")
}
