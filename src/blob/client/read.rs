//! Reads answers: their headers into values. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::HeaderMap;
use jiff::Timestamp;

use crate::blob::answer::{
    AccountInformation, BlobKind, ContainerProperties, CopyState, CopyStatus, Got, LeaseState,
    Leased, Properties, Stored,
};
use crate::blob::date;
use crate::blob::names::{SequenceNumber, SnapshotId};
use crate::blob::parameters::Metadata;
use crate::blob::xml::listing::blob_kind;
use crate::blob::xml::{Malformed, number};
use crate::transport::http::{Answer, content_length};
use crate::units::{ByteRange, to_u64};

pub(crate) fn stored(answer: &Answer) -> Result<Stored, Malformed> {
    Ok(Stored {
        etag: required(&answer.headers, "etag")?,
        last_modified: time(&answer.headers, "last-modified")?,
        date: date(answer)?,
    })
}

/// The service's clock when it answered.
pub(crate) fn date(answer: &Answer) -> Result<Timestamp, Malformed> {
    time(&answer.headers, "date")
}

/// The content that was asked for, checked to be all of it that exists.
pub(crate) fn got(answer: &Answer, asked: Option<ByteRange>) -> Result<Got, Malformed> {
    let length = to_u64(answer.body.len());
    let total_length = match (asked, answer.status.as_u16()) {
        (None, 200) => length,
        (Some(asked), 206) => {
            let (range, total) = content_range(text(&answer.headers, "content-range")?)?;
            let expected = asked.intersect(ByteRange::to(total));
            if range != expected || range.len() != length {
                return Err(Malformed::new(format!(
                    "{length} bytes as {range} of {total} where {expected} were asked for"
                )));
            }
            total
        }
        (_, status) => return Err(Malformed::new(format!("status {status} to this question"))),
    };
    Ok(Got {
        etag: required(&answer.headers, "etag")?,
        total_length,
        last_modified: time(&answer.headers, "last-modified")?,
        date: date(answer)?,
        bytes: answer.body.clone(),
    })
}

/// `bytes first-last/total`.
fn content_range(text: &str) -> Result<(ByteRange, u64), Malformed> {
    let wrong = || Malformed::new(format!("`{}` as Content-Range", text.escape_debug()));
    let (range, total) = text
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(wrong)?;
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    let end = number("Content-Range", last)?.checked_add(1);
    let range = end
        .zip(number("Content-Range", first).ok())
        .and_then(|(end, first)| ByteRange::new(first, end));
    Ok((range.ok_or_else(wrong)?, number("Content-Range", total)?))
}

pub(crate) fn properties(answer: &Answer) -> Result<Properties, Malformed> {
    let headers = &answer.headers;
    let kind_text = text(headers, "x-ms-blob-type")?;
    let kind = blob_kind(kind_text).ok_or_else(|| wrong("x-ms-blob-type", kind_text))?;
    let sequence_number = match kind {
        BlobKind::Page => Some(sequence_number(answer)?),
        BlobKind::Block | BlobKind::Append => None,
    };
    Ok(Properties {
        etag: required(headers, "etag")?,
        length: content_length(headers).ok_or_else(|| missing("content-length"))?,
        kind,
        sequence_number,
        metadata: metadata(headers),
        lease: lease_state(headers)?,
        copy: optional(headers, "x-ms-copy-id")
            .map(|id| copy(id, headers))
            .transpose()?,
        last_modified: time(headers, "last-modified")?,
        date: date(answer)?,
    })
}

pub(crate) fn sequence_number(answer: &Answer) -> Result<SequenceNumber, Malformed> {
    const NAME: &str = "x-ms-blob-sequence-number";
    let text = text(&answer.headers, NAME)?;
    SequenceNumber::new(number(NAME, text)?).ok_or_else(|| wrong(NAME, text))
}

pub(crate) fn snapshot(answer: &Answer) -> Result<SnapshotId, Malformed> {
    required(&answer.headers, "x-ms-snapshot")
}

/// The copy that was just started.
pub(crate) fn started_copy(answer: &Answer) -> Result<CopyState, Malformed> {
    copy(text(&answer.headers, "x-ms-copy-id")?, &answer.headers)
}

fn copy(id: &str, headers: &HeaderMap) -> Result<CopyState, Malformed> {
    const STATUS: &str = "x-ms-copy-status";
    let status = match text(headers, STATUS)? {
        "pending" => CopyStatus::Pending {
            copied: optional(headers, "x-ms-copy-progress").and_then(progress),
        },
        "success" => CopyStatus::Success,
        "aborted" => CopyStatus::Aborted,
        "failed" => CopyStatus::Failed {
            description: optional(headers, "x-ms-copy-status-description")
                .unwrap_or("no reason given")
                .to_owned(),
        },
        other => return Err(wrong(STATUS, other)),
    };
    Ok(CopyState {
        id: id.to_owned(),
        status,
    })
}

/// `copied/total`, in bytes.
fn progress(text: &str) -> Option<(u64, u64)> {
    let (copied, total) = text.split_once('/')?;
    Some((copied.parse().ok()?, total.parse().ok()?))
}

pub(crate) fn leased(answer: &Answer) -> Result<Leased, Malformed> {
    const NAME: &str = "x-ms-lease-id";
    let id = optional(&answer.headers, NAME)
        .map(|text| uuid::Uuid::parse_str(text).map_err(|_| wrong(NAME, text)))
        .transpose()?;
    Ok(Leased { id })
}

fn lease_state(headers: &HeaderMap) -> Result<LeaseState, Malformed> {
    const NAME: &str = "x-ms-lease-state";
    match optional(headers, NAME) {
        None | Some("available") => Ok(LeaseState::Available),
        Some("leased") => Ok(LeaseState::Leased),
        Some("expired") => Ok(LeaseState::Expired),
        Some("breaking") => Ok(LeaseState::Breaking),
        Some("broken") => Ok(LeaseState::Broken),
        Some(other) => Err(wrong(NAME, other)),
    }
}

pub(crate) fn container(name: &str, answer: &Answer) -> Result<ContainerProperties, Malformed> {
    Ok(ContainerProperties {
        name: name.to_owned(),
        etag: required(&answer.headers, "etag")?,
        last_modified: time(&answer.headers, "last-modified")?,
    })
}

pub(crate) fn information(answer: &Answer) -> Result<AccountInformation, Malformed> {
    let headers = &answer.headers;
    Ok(AccountInformation {
        sku: text(headers, "x-ms-sku-name")?.to_owned(),
        kind: text(headers, "x-ms-account-kind")?.to_owned(),
        hierarchical_namespace: optional(headers, "x-ms-is-hns-enabled").map(|text| text == "true"),
    })
}

/// The blob's own length beside a page list.
pub(crate) fn blob_length(answer: &Answer) -> Result<u64, Malformed> {
    const NAME: &str = "x-ms-blob-content-length";
    number(NAME, text(&answer.headers, NAME)?)
}

fn metadata(headers: &HeaderMap) -> Metadata {
    let mut found = BTreeMap::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("x-ms-meta-") {
            let value = String::from_utf8_lossy(value.as_bytes());
            found.insert(name.to_owned(), value.into_owned());
        }
    }
    found
}

fn optional<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Malformed> {
    optional(headers, name).ok_or_else(|| missing(name))
}

pub(crate) fn required<T: FromStr>(headers: &HeaderMap, name: &str) -> Result<T, Malformed> {
    let text = text(headers, name)?;
    text.parse().map_err(|_| wrong(name, text))
}

fn time(headers: &HeaderMap, name: &str) -> Result<Timestamp, Malformed> {
    let text = text(headers, name)?;
    date::parse(text).ok_or_else(|| wrong(name, text))
}

fn missing(name: &str) -> Malformed {
    Malformed::new(format!("no {name}"))
}

fn wrong(name: &str, text: &str) -> Malformed {
    Malformed::new(format!("`{}` as {name}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(
                http::HeaderName::try_from(*name).unwrap(),
                value.parse().unwrap(),
            );
        }
        Answer {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: bytes::Bytes::from(body.to_owned()),
        }
    }

    const ALWAYS: [(&str, &str); 3] = [
        ("etag", "\"0x1\""),
        ("last-modified", "Wed, 21 Jan 2026 10:00:00 GMT"),
        ("date", "Wed, 21 Jan 2026 10:00:05 GMT"),
    ];

    fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        ALWAYS.into_iter().chain(extra.iter().copied()).collect()
    }

    #[test]
    fn a_range_that_is_not_what_was_asked_for_is_no_content() {
        let asked = ByteRange::new(10, 14);
        let ok = got(
            &answer(206, &with(&[("content-range", "bytes 10-13/20")]), "abcd"),
            asked,
        )
        .unwrap();
        assert_eq!((ok.bytes.as_ref(), ok.total_length), (&b"abcd"[..], 20));
        let short = got(
            &answer(206, &with(&[("content-range", "bytes 10-11/12")]), "ab"),
            asked,
        )
        .unwrap();
        assert_eq!((short.bytes.len(), short.total_length), (2, 12));
        for (status, range, body) in [
            (206, "bytes 0-3/20", "abcd"),
            (206, "bytes 10-13/20", "abc"),
            (206, "bytes 10-12/20", "abc"),
            (206, "bytes */20", "abcd"),
            (206, "bytes 13-10/20", "abcd"),
            (200, "bytes 10-13/20", "abcd"),
        ] {
            let headers = [ALWAYS.as_slice(), &[("content-range", range)]].concat();
            assert!(
                got(&answer(status, &headers, body), asked).is_err(),
                "{status} {range}"
            );
        }
        assert!(got(&answer(206, &ALWAYS, "abcd"), None).is_err());
    }

    #[test]
    fn properties_of_a_page_blob_need_its_sequence_number() {
        let headers = with(&[
            ("content-length", "1024"),
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-sequence-number", "7"),
            ("x-ms-lease-state", "leased"),
            ("x-ms-meta-epoch", "3"),
            ("x-ms-copy-id", "c1"),
            ("x-ms-copy-status", "pending"),
            ("x-ms-copy-progress", "512/1024"),
        ]);
        let found = properties(&answer(200, &headers, "")).unwrap();
        assert_eq!(found.sequence_number.map(SequenceNumber::value), Some(7));
        assert_eq!((found.length, found.lease), (1024, LeaseState::Leased));
        assert_eq!(found.metadata["epoch"], "3");
        assert_eq!(
            found.copy.unwrap().status,
            CopyStatus::Pending {
                copied: Some((512, 1024))
            }
        );
        let without: Vec<_> = headers
            .into_iter()
            .filter(|(name, _)| *name != "x-ms-blob-sequence-number")
            .collect();
        assert!(properties(&answer(200, &without, "")).is_err());
    }

    #[test]
    fn an_answer_without_the_services_headers_is_not_the_services() {
        let error = stored(&answer(201, &[("content-type", "text/html")], "<html>")).unwrap_err();
        assert_eq!(error.to_string(), "the answer holds no etag");
    }
}
