//! What must hold for every answer of the storage service that is XML: page ranges, listings, settings, keys, errors.
//!
//! - What is read, written as the service would write it and read again, is the same.
//! - Page ranges are whole pages of the blob, ascending, neighbours joined; a longer blob changes nothing in them.
//! - Nothing is made up: all text of a listing is not longer than the answer.
//! - An error is short, and the body of an error answer is never one.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use site_recovery::blob::answer::{BlobKind, Listed, PageKind, PageRange, ServiceProperties};
use site_recovery::blob::xml::listing::{self, Page};
use site_recovery::blob::xml::pages::{self, Pages};
use site_recovery::blob::xml::service::{self, DelegationKey};
use site_recovery::blob::xml::{Malformed, error_body};
use site_recovery::units::{MIB, SECTOR};

/// Lengths of blobs that a list may be about: a small one, the largest, and any.
const LENGTHS: [u64; 3] = [MIB, 8 << 40, u64::MAX];

/// The target `page_ranges`.
pub fn run(xml: &[u8]) {
    check_ranges(xml);
    check_blobs(xml);
    check_containers(xml);
    if let Some(settings) = told(service::properties(xml)) {
        let again = service::properties(settings_xml(&settings).as_bytes());
        assert_eq!(again, Ok(settings));
    }
    if let Some(key) = told(service::delegation_key(xml)) {
        assert!(format!("{key:?}").contains("value: Secret(…)"));
        if let Some(xml) = key_xml(&key) {
            assert_eq!(service::delegation_key(xml.as_bytes()), Ok(key));
        }
    }
    let body = error_body(xml);
    assert_eq!(error_body(xml), body);
    let said = [body.code, body.message].into_iter().flatten();
    assert!(said.map(|text| text.len()).sum::<usize>() <= xml.len());
}

/// The value; an error must be short.
fn told<T>(answer: Result<T, Malformed>) -> Option<T> {
    answer
        .map_err(|error| assert!(error.to_string().chars().count() <= 250, "{error}"))
        .ok()
}

fn check_ranges(xml: &[u8]) {
    let mut shorter: Option<Pages> = None;
    for length in LENGTHS {
        let Some(pages) = told(pages::ranges(xml, length)) else {
            assert_eq!(shorter, None, "a longer blob has no list");
            continue;
        };
        let mut before: Option<PageRange> = None;
        for page in &pages.ranges {
            let (start, end) = (page.range.start(), page.range.end());
            assert!(start < end && end <= length, "{page:?}");
            assert!(start.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR));
            let ascends = before.is_none_or(|before| {
                before.range.end() < start
                    || before.range.end() == start && before.kind != page.kind
            });
            assert!(ascends, "{page:?} after {before:?}");
            before = Some(*page);
        }
        assert!(shorter.is_none_or(|shorter| shorter == pages));
        if let Some(xml) = ranges_xml(&pages) {
            assert_eq!(pages::ranges(xml.as_bytes(), length).as_ref(), Ok(&pages));
        }
        shorter = Some(pages);
    }
}

fn check_blobs(xml: &[u8]) {
    let Some(mut page) = told(listing::blobs(xml)) else {
        return;
    };
    let texts = page.items.iter().flat_map(|item| {
        let metadata = item.metadata.iter().flat_map(|(name, value)| [name, value]);
        metadata.chain([&item.name]).map(String::len)
    });
    assert!(texts.sum::<usize>() <= xml.len());
    // Only what can be the name of an element can be written again.
    for item in &mut page.items {
        item.metadata.retain(|name, _| is_element(name));
    }
    if let Some(xml) = blobs_xml(&page) {
        assert_eq!(listing::blobs(xml.as_bytes()), Ok(page));
    }
}

fn check_containers(xml: &[u8]) {
    let Some(page) = told(listing::containers(xml)) else {
        return;
    };
    let names = page.items.iter().map(|item| item.name.len());
    assert!(names.sum::<usize>() <= xml.len());
    let items = page.items.iter().map(|item| {
        let (name, time) = (percent(&item.name), date(item.last_modified)?);
        let etag = text(item.etag.as_str())?;
        Some(format!(
            "<Container><Name Encoded=\"true\">{name}</Name><Properties><Last-Modified>{time}</Last-Modified>\
             <Etag>{etag}</Etag></Properties></Container>"
        ))
    });
    let items = items.collect::<Option<String>>();
    if let (Some(items), Some(next)) = (items, marker(page.next.as_deref())) {
        let xml = format!(
            "<EnumerationResults><Containers>{items}</Containers>{next}</EnumerationResults>"
        );
        assert_eq!(listing::containers(xml.as_bytes()), Ok(page));
    }
}

fn is_element(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn ranges_xml(pages: &Pages) -> Option<String> {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>");
    for PageRange { range, kind } in &pages.ranges {
        let element = match kind {
            PageKind::Written => "PageRange",
            PageKind::Cleared => "ClearRange",
        };
        let (start, last) = (range.start(), range.end() - 1);
        write!(
            xml,
            "<{element}><Start>{start}</Start><End>{last}</End></{element}>"
        )
        .expect("a string takes all");
    }
    Some(xml + &marker(pages.next.as_deref())? + "</PageList>")
}

fn blobs_xml(page: &Page<Listed>) -> Option<String> {
    let items = page
        .items
        .iter()
        .map(blob_xml)
        .collect::<Option<String>>()?;
    let next = marker(page.next.as_deref())?;
    Some(format!(
        "<EnumerationResults><Blobs>{items}</Blobs>{next}</EnumerationResults>"
    ))
}

fn blob_xml(item: &Listed) -> Option<String> {
    let kind = match item.kind {
        BlobKind::Block => "BlockBlob",
        BlobKind::Page => "PageBlob",
        BlobKind::Append => "AppendBlob",
    };
    let mut xml = format!(
        "<Blob><Name Encoded=\"true\">{}</Name>",
        percent(&item.name)
    );
    if let Some(snapshot) = &item.snapshot {
        xml += &format!("<Snapshot>{}</Snapshot>", text(snapshot.as_str())?);
    }
    xml += &format!(
        "<Properties><Etag>{}</Etag><Content-Length>{}</Content-Length><BlobType>{kind}</BlobType>\
         <Last-Modified>{}</Last-Modified>",
        text(item.etag.as_str())?,
        item.length,
        date(item.last_modified)?,
    );
    if let Some(created) = item.created {
        xml += &format!("<Creation-Time>{}</Creation-Time>", date(created)?);
    }
    xml += "</Properties><Metadata>";
    for (name, value) in &item.metadata {
        xml += &format!("<{name}>{}</{name}>", text(value)?);
    }
    Some(xml + "</Metadata></Blob>")
}

fn settings_xml(settings: &ServiceProperties) -> String {
    let days = match settings.soft_delete_days {
        None => String::new(),
        Some(0) => "<Enabled>false</Enabled>".to_owned(),
        Some(days) => format!("<Enabled>true</Enabled><Days>{days}</Days>"),
    };
    let policy = format!("<DeleteRetentionPolicy>{days}</DeleteRetentionPolicy>");
    let versioning = settings.versioning.map_or(String::new(), |on| {
        format!("<IsVersioningEnabled>{on}</IsVersioningEnabled>")
    });
    format!("<StorageServiceProperties>{policy}{versioning}</StorageServiceProperties>")
}

fn key_xml(key: &DelegationKey) -> Option<String> {
    let fields = [
        ("SignedOid", &*key.object_id),
        ("SignedTid", &key.tenant_id),
        ("SignedStart", &key.start),
        ("SignedExpiry", &key.expiry),
        ("SignedService", &key.service),
        ("SignedVersion", &key.version),
        ("Value", key.value.expose()),
    ];
    let fields = fields.map(|(name, value)| Some(format!("<{name}>{}</{name}>", text(value)?)));
    let fields = fields.into_iter().collect::<Option<String>>()?;
    Some(format!("<UserDelegationKey>{fields}</UserDelegationKey>"))
}

fn marker(next: Option<&str>) -> Option<String> {
    Some(format!(
        "<NextMarker>{}</NextMarker>",
        text(next.unwrap_or_default())?
    ))
}

/// Text as XML says it; nothing if it cannot, for a NUL has no spelling there.
fn text(text: &str) -> Option<String> {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\0' => return None,
            'a'..='z' | 'A'..='Z' | '0'..='9' => escaped.push(character),
            other => {
                write!(escaped, "&#x{:x};", u32::from(other)).expect("a string takes all");
            }
        }
    }
    Some(escaped)
}

fn percent(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn date(time: Timestamp) -> Option<String> {
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()
}
