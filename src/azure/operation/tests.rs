//! What Azure's answers make of an operation.

use super::*;
use crate::azure::id::ResourceKind;

const STATUS: &str = "https://management.azure.com/subscriptions/s/operations/1?api-version=x";
const LOCATION: &str = "https://management.azure.com/subscriptions/s/operations/1?monitor=true";

fn disk() -> ResourceId {
    let group = crate::azure::id::GroupId::new("s", "g").unwrap();
    group.resource(ResourceKind::Disk, "d").unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
        .into_iter()
        .collect()
}

fn answered(verb: Verb, status: u16, pairs: &[(&'static str, &str)], body: &str) -> Begun {
    let status = StatusCode::from_u16(status).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    begun(verb, &disk(), status, &headers(pairs), body.as_bytes(), now).unwrap()
}

fn going(verb: Verb, poll: Poll, location: Option<&str>) -> Operation {
    Operation {
        poll,
        location: location.map(str::to_owned),
        ..found(verb, &disk(), Timestamp::UNIX_EPOCH)
    }
}

#[test]
fn the_status_header_is_preferred_and_the_location_kept_for_the_result() {
    let both = [
        ("azure-asyncoperation", STATUS),
        ("location", LOCATION),
        ("retry-after", "3"),
    ];
    let Begun::Going(operation) = answered(Verb::GrantAccess, 202, &both, "") else {
        panic!("done");
    };
    assert_eq!(operation.poll, Poll::Status(STATUS.into()));
    assert_eq!(operation.wait(), Duration::from_secs(3));
    let done = of_status(&operation, &HeaderMap::new(), br#"{"status":"Succeeded"}"#).unwrap();
    let Progress::Going(operation) = done else {
        panic!("no result yet");
    };
    assert_eq!(operation.poll, Poll::Location(LOCATION.into()));
    let body = br#"{"accessSAS":"https://md-1.example/abc?sig=s"}"#;
    let done = of_location(&operation, StatusCode::OK, &HeaderMap::new(), body).unwrap();
    let access = Secret::new("https://md-1.example/abc?sig=s");
    assert_eq!(done, Progress::Done(Outcome::Access(access)));
}

#[test]
fn an_answer_without_headers_is_done_or_tells_by_its_state() {
    let going = answered(
        Verb::Create,
        201,
        &[],
        r#"{"properties":{"provisioningState":"Creating"}}"#,
    );
    assert!(matches!(
        going,
        Begun::Going(Operation {
            poll: Poll::Resource,
            ..
        })
    ));
    let done = answered(
        Verb::Create,
        200,
        &[],
        r#"{"properties":{"provisioningState":"Succeeded"}}"#,
    );
    assert!(matches!(done, Begun::Done(Outcome::Resource(_))));
    assert_eq!(
        answered(Verb::Delete, 204, &[], ""),
        Begun::Done(Outcome::Nothing)
    );
}

#[test]
fn a_failed_operation_says_why() {
    let operation = going(Verb::Create, Poll::Status(STATUS.into()), None);
    let body = br#"{"status":"Failed","error":{"code":"AllocationFailed","message":"none"}}"#;
    let Progress::Failed(failure) = of_status(&operation, &HeaderMap::new(), body).unwrap() else {
        panic!("not failed");
    };
    assert_eq!(failure.said.code.as_deref(), Some("AllocationFailed"));
}

#[test]
fn a_status_that_cannot_be_read_is_no_end() {
    let operation = going(Verb::Delete, Poll::Status(STATUS.into()), None);
    for body in [
        "",
        "<html></html>",
        r#"{"status":7}"#,
        r#"{"name":"Succeeded"}"#,
    ] {
        let read = of_status(&operation, &HeaderMap::new(), body.as_bytes());
        assert!(read.is_err(), "{body}");
    }
    let odd = of_status(
        &operation,
        &HeaderMap::new(),
        br#"{"status":"AlmostSucceeded"}"#,
    );
    assert!(matches!(odd.unwrap(), Progress::Going(_)));
}

#[test]
fn what_azure_has_forgotten_is_settled_by_the_resource_or_unknown() {
    let ask = |verb| forgotten(&going(verb, Poll::Status(STATUS.into()), None));
    assert!(matches!(ask(Verb::Delete), Progress::Going(_)));
    assert_eq!(ask(Verb::GrantAccess), Progress::Unknown);

    let seen = |text: &str| Some(Seen::read(text.as_bytes()).unwrap());
    let settled = |verb, seen| of_resource(&going(verb, Poll::Resource, None), seen);
    let there = r#"{"properties":{"provisioningState":"Succeeded"}}"#;
    assert_eq!(
        settled(Verb::Delete, None),
        Progress::Done(Outcome::Nothing)
    );
    assert_eq!(settled(Verb::Delete, seen(there)), Progress::Unknown);
    assert_eq!(settled(Verb::Create, None), Progress::Unknown);
    assert!(matches!(
        settled(Verb::Create, seen(there)),
        Progress::Done(Outcome::Resource(_))
    ));
    let power = |state: &str| {
        seen(&format!(
            r#"{{"properties":{{"provisioningState":"Succeeded","instanceView":{{"statuses":[{{"code":"PowerState/{state}"}}]}}}}}}"#
        ))
    };
    assert_eq!(
        settled(Verb::Deallocate, power("deallocated")),
        Progress::Done(Outcome::Nothing)
    );
    assert!(matches!(
        settled(Verb::Deallocate, power("deallocating")),
        Progress::Going(_)
    ));
    assert_eq!(
        settled(Verb::Deallocate, power("stopped")),
        Progress::Unknown
    );
    assert_eq!(settled(Verb::Start, power("novel")), Progress::Unknown);
}

#[test]
fn an_operation_that_was_stored_goes_on_as_it_was() {
    for poll in [
        Poll::Status(STATUS.into()),
        Poll::Location(LOCATION.into()),
        Poll::Resource,
    ] {
        let operation = going(Verb::PowerOff, poll, Some(LOCATION));
        let stored = serde_json::to_string(&operation).unwrap();
        assert_eq!(
            serde_json::from_str::<Operation>(&stored).unwrap(),
            operation
        );
    }
}

#[test]
fn no_wait_is_longer_than_somebody_can_wait_for() {
    let Begun::Going(operation) = answered(
        Verb::Delete,
        202,
        &[("location", LOCATION), ("retry-after", "86400")],
        "",
    ) else {
        panic!("done");
    };
    assert_eq!(operation.wait(), WAIT_MAX);
}
