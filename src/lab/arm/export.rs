//! The URL of a disk's bytes: what a granted signature leads to. It is a page blob that can only be read.
//!
//! ```text
//! GET, HEAD  /md-<unique id>/abcd?sig=…                                          properties, ranged reads
//! GET        …&comp=pagelist [&marker] [x-ms-range] [x-ms-previous-snapshot-url]  what is written, or what differs
//! ```
//! Length: the disk and a footer. Another snapshot is compared only if it is of the same family and its own signature is
//! valid. A signature that was revoked, or is too old, is refused.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::vhd::fixed_footer;
use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::content;
use crate::lab::arm::serve::pairs_of;
use crate::units::{ByteRange, MIB, SECTOR, to_u64, to_usize};

/// A page list of a range without marker begins here.
const START: &str = "0";
/// What one request reads at most.
const READ_MAX: u64 = 64 * MIB;

/// Status, storage's error code.
type Refused = (u16, &'static str);

/// What a valid URL leads to.
struct Exported {
    path: PathBuf,
    size: u64,
    unique: Uuid,
    family: Option<String>,
}

pub(crate) async fn answer(
    cloud: &Cloud,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    let made = match find(cloud, path, query) {
        Ok(exported) => {
            let list = query.split('&').any(|pair| pair == "comp=pagelist");
            match (method.as_str(), list) {
                ("GET", true) => list_pages(cloud, &exported, query, headers).await,
                ("GET" | "HEAD", false) => read(&exported, method, headers).await,
                _ => Err((403, "OperationNotAllowedOnExportedDisk")),
            }
        }
        Err(refused) => Err(refused),
    };
    let mut response = made.unwrap_or_else(|(status, code)| {
        let body =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code></Error>");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        set(&mut response, "x-ms-error-code", code);
        response
    });
    set(
        &mut response,
        "x-ms-request-id",
        &Uuid::new_v4().to_string(),
    );
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    let value = HeaderValue::try_from(value).expect("what is set is visible ASCII");
    response
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
}

/// What a URL leads to, if its signature is valid.
fn find(cloud: &Cloud, path: &str, query: &str) -> Result<Exported, Refused> {
    let pairs = pairs_of(query);
    let given = pairs
        .iter()
        .find(|(name, _)| name == "sig")
        .map(|(_, value)| value.as_str());
    cloud.with(|inner| {
        let unique = path
            .trim_start_matches("/md-")
            .split('/')
            .next()
            .unwrap_or_default();
        let mut all = inner.resources.values();
        let resource = all.find(|one| one.text("/properties/uniqueId") == Some(unique));
        let resource = resource.ok_or((404, "ResourceNotFound"))?;
        let valid = resource.grant.as_ref().is_some_and(|grant| {
            Some(grant.signature.as_str()) == given && Timestamp::now() < grant.expires
        });
        if !valid {
            return Err((403, "AuthenticationFailed"));
        }
        exported(inner, resource).ok_or((500, "InternalError"))
    })
}

fn exported(inner: &Inner, resource: &Resource) -> Option<Exported> {
    Some(Exported {
        path: inner.file(resource.file.as_deref()?),
        size: resource.body["properties"]["diskSizeBytes"].as_u64()?,
        unique: resource.text("/properties/uniqueId")?.parse().ok()?,
        family: resource
            .text("/properties/incrementalSnapshotFamilyId")
            .map(str::to_owned),
    })
}

impl Exported {
    const fn length(&self) -> u64 {
        self.size + SECTOR
    }

    fn footer(&self) -> [u8; 512] {
        fixed_footer(self.size, self.unique, Timestamp::UNIX_EPOCH)
    }
}

/// `bytes=a-b`, within the blob.
fn range_of(headers: &HeaderMap, length: u64) -> Result<Option<ByteRange>, Refused> {
    let text = headers.get("x-ms-range").or_else(|| headers.get("range"));
    let Some(text) = text.and_then(|text| text.to_str().ok()) else {
        return Ok(None);
    };
    let wrong = (416, "InvalidRange");
    let (start, end) = text
        .strip_prefix("bytes=")
        .and_then(|text| text.split_once('-'))
        .ok_or(wrong)?;
    let start: u64 = start.parse().map_err(|_| wrong)?;
    let end = match end {
        "" => length,
        end => end
            .parse::<u64>()
            .map_err(|_| wrong)?
            .saturating_add(1)
            .min(length),
    };
    let range = ByteRange::new(start, end).filter(|range| !range.is_empty());
    range.map(Some).ok_or(wrong)
}

async fn read(
    exported: &Exported,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Full<Bytes>>, Refused> {
    let length = exported.length();
    let asked = range_of(headers, length)?;
    let range = asked.unwrap_or(ByteRange::new(0, length).ok_or((500, "InternalError"))?);
    if method == Method::GET && range.len() > READ_MAX {
        return Err((413, "RequestBodyTooLarge"));
    }
    let bytes = match *method {
        Method::HEAD => Bytes::new(),
        _ => {
            let (path, footer, size) = (exported.path.clone(), exported.footer(), exported.size);
            let read =
                tokio::task::spawn_blocking(move || bytes_of(&path, &footer, size, range)).await;
            read.ok()
                .and_then(Result::ok)
                .ok_or((500, "InternalError"))?
                .into()
        }
    };
    let mut response = Response::new(Full::new(bytes));
    if asked.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{length}", range.start(), range.end() - 1);
        set(&mut response, "content-range", &text);
    }
    if *method == Method::HEAD {
        set(&mut response, "content-length", &length.to_string());
    }
    set(&mut response, "x-ms-blob-type", "PageBlob");
    blob_headers(&mut response);
    Ok(response)
}

fn blob_headers(response: &mut Response<Full<Bytes>>) {
    set(response, "etag", "\"0x8D0000000000000\"");
    set(response, "last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    let now =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    set(
        response,
        "date",
        &now.expect("no clock shows a year before 0"),
    );
}

/// A part of the disk and its footer.
fn bytes_of(
    path: &std::path::Path,
    footer: &[u8; 512],
    size: u64,
    range: ByteRange,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(disk) =
        ByteRange::new(range.start(), range.end().min(size)).filter(|disk| !disk.is_empty())
    {
        bytes = content::read(path, disk)?;
    }
    if range.end() > size {
        let (from, to) = (range.start().max(size) - size, range.end() - size);
        bytes.extend_from_slice(&footer[to_usize(from)..to_usize(to)]);
    }
    Ok(bytes)
}

async fn list_pages(
    cloud: &Cloud,
    exported: &Exported,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response<Full<Bytes>>, Refused> {
    let pairs = pairs_of(query);
    let query = |wanted: &str| {
        let pair = pairs.iter().find(|(name, _)| name == wanted);
        pair.map(|(_, value)| value.as_str())
    };
    if query("prevsnapshot").is_some() {
        // A disk's snapshots are no snapshots of one blob.
        return Err((400, "InvalidQueryParameterValue"));
    }
    let before = match headers.get("x-ms-previous-snapshot-url") {
        None => None,
        Some(url) => {
            let url = url.to_str().map_err(|_| (400, "InvalidHeaderValue"))?;
            Some(previous(cloud, exported, url)?)
        }
    };
    let window = range_of(headers, exported.length())?;
    let marker = query("marker").unwrap_or(START);
    let from: u64 = marker.parse().map_err(|_| (400, "InvalidMarker"))?;
    let (low, high) = match window {
        None => (from, u64::MAX),
        Some(window) => (window.start().max(from), window.end()),
    };
    let all = marked(exported, before).await?;
    let cut = |(range, kind): (ByteRange, &'static str)| {
        let range = ByteRange::new(range.start().max(low), range.end().min(high))?;
        (!range.is_empty()).then_some((range, kind))
    };
    let all: Vec<(ByteRange, &str)> = all.into_iter().filter_map(cut).collect();
    let body = page_list(&all, cloud.options.page_ranges_max);
    let length = to_u64(body.len());
    let mut response = Response::new(Full::new(Bytes::from(body)));
    set(&mut response, "content-type", "application/xml");
    set(&mut response, "content-length", &length.to_string());
    set(
        &mut response,
        "x-ms-blob-content-length",
        &exported.length().to_string(),
    );
    blob_headers(&mut response);
    Ok(response)
}

/// The older snapshot that a header names.
fn previous(cloud: &Cloud, exported: &Exported, url: &str) -> Result<PathBuf, Refused> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.find('/').map_or("", |at| &path[at..]);
    let before = find(cloud, path, query)?;
    match before.family.is_some() && before.family == exported.family {
        true => Ok(before.path),
        false => Err((409, "PreviousSnapshotNotFound")),
    }
}

/// What is written, or what differs from `before`, in order.
async fn marked(
    exported: &Exported,
    before: Option<PathBuf>,
) -> Result<Vec<(ByteRange, &'static str)>, Refused> {
    let now = exported.path.clone();
    // The footer is the same in all of a family.
    let footer = match before {
        None => ByteRange::new(exported.size, exported.length()),
        Some(_) => None,
    };
    let compared = tokio::task::spawn_blocking(move || match before {
        None => content::written(&now).map(|written| (written, Vec::new())),
        Some(before) => content::differences(&before, &now),
    });
    let compared = compared.await.ok().and_then(Result::ok);
    let (written, cleared) = compared.ok_or((500, "InternalError"))?;
    let written = written
        .into_iter()
        .chain(footer)
        .map(|range| (range, "PageRange"));
    let cleared = cleared.into_iter().map(|range| (range, "ClearRange"));
    let mut all: Vec<(ByteRange, &str)> = written.chain(cleared).collect();
    all.sort();
    Ok(all)
}

/// At most `most` ranges, and where the next page begins.
fn page_list(all: &[(ByteRange, &str)], most: usize) -> String {
    let page = all.len().min(most);
    let mut body = "<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>".to_owned();
    for (range, kind) in &all[..page] {
        let (start, last) = (range.start(), range.end() - 1);
        // Writing to a text cannot fail.
        let _written = write!(
            body,
            "<{kind}><Start>{start}</Start><End>{last}</End></{kind}>"
        );
    }
    let next = all.get(page).map(|(range, _)| range.start().to_string());
    let next = next.unwrap_or_default();
    body.push_str(&format!("<NextMarker>{next}</NextMarker></PageList>"));
    body
}
