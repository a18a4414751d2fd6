//! Listings of blobs and containers (`EnumerationResults`).

use jiff::Timestamp;

use crate::blob::answer::{BlobKind, ContainerProperties, Listed};
use crate::blob::date;
use crate::blob::names::{ETag, SnapshotId};
use crate::blob::parameters::Metadata;
use crate::blob::xml::{Malformed, Step, number, walk};

/// One page, without the date that its answer's headers carry.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<Item> {
    pub items: Vec<Item>,
    pub next: Option<String>,
}

/// An item under construction.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    snapshot: Option<SnapshotId>,
    etag: Option<ETag>,
    length: Option<u64>,
    kind: Option<BlobKind>,
    last_modified: Option<Timestamp>,
    created: Option<Timestamp>,
    metadata: Metadata,
}

/// A listing of blobs.
///
/// # Errors
/// If it is malformed or an item lacks what every blob has.
pub fn blobs(xml: &[u8]) -> Result<Page<Listed>, Malformed> {
    page(xml, "Blob", Draft::blob)
}

/// A listing of containers.
///
/// # Errors
/// If it is malformed or an item lacks what every container has.
pub fn containers(xml: &[u8]) -> Result<Page<ContainerProperties>, Malformed> {
    page(xml, "Container", Draft::container)
}

fn page<Item>(
    xml: &[u8],
    element: &str,
    finish: fn(Draft) -> Result<Item, Malformed>,
) -> Result<Page<Item>, Malformed> {
    let mut items = Vec::new();
    let mut next = None;
    let mut root = false;
    let mut draft = Draft::default();
    walk(xml, &mut |step| {
        match step {
            Step::Open { parent: "", name } => root = name == "EnumerationResults",
            Step::Close {
                parent: "EnumerationResults",
                name: "NextMarker",
                text,
                ..
            } => {
                next = (!text.is_empty()).then(|| text.to_owned());
            }
            Step::Close {
                parent: "Blobs" | "Containers",
                name,
                ..
            } if name == element => {
                items.push(finish(std::mem::take(&mut draft))?);
            }
            Step::Close {
                parent,
                name,
                text,
                encoded,
            } if parent == element => {
                draft.set(name, text, encoded)?;
            }
            Step::Close {
                parent: "Properties",
                name,
                text,
                ..
            } => draft.set_property(name, text)?,
            Step::Close {
                parent: "Metadata",
                name,
                text,
                ..
            } => {
                draft
                    .metadata
                    .insert(name.to_ascii_lowercase(), text.to_owned());
            }
            Step::Open { .. } | Step::Close { .. } => {}
        }
        Ok(())
    })?;
    if root {
        Ok(Page { items, next })
    } else {
        Err(Malformed::new("no listing"))
    }
}

impl Draft {
    fn set(&mut self, name: &str, text: &str, encoded: bool) -> Result<(), Malformed> {
        match name {
            "Name" if encoded => self.name = Some(decode(text)?),
            "Name" => self.name = Some(text.to_owned()),
            "Snapshot" => self.snapshot = Some(text.parse().map_err(|_| wrong(name, text))?),
            _ => {}
        }
        Ok(())
    }

    fn set_property(&mut self, name: &str, text: &str) -> Result<(), Malformed> {
        match name {
            "Etag" => self.etag = Some(text.parse().map_err(|_| wrong(name, text))?),
            "Content-Length" => self.length = Some(number(name, text)?),
            "BlobType" => self.kind = Some(blob_kind(text).ok_or_else(|| wrong(name, text))?),
            "Last-Modified" => {
                self.last_modified = Some(date::parse(text).ok_or_else(|| wrong(name, text))?);
            }
            "Creation-Time" => {
                self.created = Some(date::parse(text).ok_or_else(|| wrong(name, text))?);
            }
            _ => {}
        }
        Ok(())
    }

    fn blob(self) -> Result<Listed, Malformed> {
        Ok(Listed {
            name: self.name.ok_or_else(|| missing("Name"))?,
            snapshot: self.snapshot,
            etag: self.etag.ok_or_else(|| missing("Etag"))?,
            length: self.length.ok_or_else(|| missing("Content-Length"))?,
            kind: self.kind.ok_or_else(|| missing("BlobType"))?,
            last_modified: self.last_modified.ok_or_else(|| missing("Last-Modified"))?,
            created: self.created,
            metadata: self.metadata,
        })
    }

    fn container(self) -> Result<ContainerProperties, Malformed> {
        Ok(ContainerProperties {
            name: self.name.ok_or_else(|| missing("Name"))?,
            etag: self.etag.ok_or_else(|| missing("Etag"))?,
            last_modified: self.last_modified.ok_or_else(|| missing("Last-Modified"))?,
        })
    }
}

/// `BlockBlob`, `PageBlob`, `AppendBlob`, as listings and headers write it.
pub(crate) fn blob_kind(text: &str) -> Option<BlobKind> {
    match text {
        "BlockBlob" => Some(BlobKind::Block),
        "PageBlob" => Some(BlobKind::Page),
        "AppendBlob" => Some(BlobKind::Append),
        _ => None,
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, Malformed> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).ok_or_else(|| wrong("Name", text))?;
        let digit = |b: u8| {
            char::from(b)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
            return Err(wrong("Name", text));
        };
        bytes.push(high << 4 | low);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong("Name", text))
}

fn wrong(name: &str, text: &str) -> Malformed {
    Malformed::new(format!("`{}` as {name}", text.escape_debug()))
}

fn missing(name: &str) -> Malformed {
    Malformed::new(format!("an item without {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROPERTIES: &str = "<Properties><Creation-Time>Wed, 21 Jan 2026 10:00:00 GMT</Creation-Time>\
        <Last-Modified>Wed, 21 Jan 2026 10:00:01 GMT</Last-Modified><Etag>0x8D</Etag>\
        <Content-Length>1024</Content-Length><BlobType>PageBlob</BlobType></Properties>";

    fn listing(blobs: &str, tail: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><EnumerationResults><Prefix>x</Prefix><Blobs>{blobs}</Blobs>{tail}</EnumerationResults>"
        )
    }

    #[test]
    fn a_snapshot_with_metadata_is_read() {
        let xml = listing(
            &format!(
                "<Blob><Name>disks/a&amp;b.vhd</Name><Snapshot>2026-01-21T10:00:01.0000000Z</Snapshot>{PROPERTIES}\
                 <Metadata><Point>p1</Point></Metadata><OrMetadata/></Blob>\
                 <Blob><Name Encoded=\"true\">a%EF%BF%BEb</Name>{PROPERTIES}<Metadata/></Blob>"
            ),
            "<NextMarker>m2</NextMarker>",
        );
        let page = blobs(xml.as_bytes()).unwrap();
        assert_eq!(page.next.as_deref(), Some("m2"));
        assert_eq!(page.items[0].name, "disks/a&b.vhd");
        assert_eq!(
            page.items[0].snapshot.as_ref().unwrap().as_str(),
            "2026-01-21T10:00:01.0000000Z"
        );
        assert_eq!(page.items[0].metadata["point"], "p1");
        assert_eq!(
            (page.items[0].length, page.items[0].kind),
            (1024, BlobKind::Page)
        );
        assert_eq!(page.items[1].name, "a\u{fffe}b");
        assert_eq!(page.items[1].snapshot, None);
        assert!(page.items[1].metadata.is_empty());
    }

    #[test]
    fn an_empty_listing_has_no_next_page() {
        let page = blobs(listing("", "<NextMarker/>").as_bytes()).unwrap();
        assert_eq!(
            page,
            Page {
                items: vec![],
                next: None
            }
        );
    }

    #[test]
    fn listings_that_lack_or_garble_something_are_errors() {
        let no_name = listing(&format!("<Blob>{PROPERTIES}</Blob>"), "");
        let bad_length = listing(
            &format!(
                "<Blob><Name>a</Name>{}</Blob>",
                PROPERTIES.replace("1024", "-1")
            ),
            "",
        );
        let bad_snapshot = listing(
            &format!("<Blob><Name>a</Name><Snapshot>a b</Snapshot>{PROPERTIES}</Blob>"),
            "",
        );
        for xml in [no_name.as_str(), &bad_length, &bad_snapshot, "<Other/>"] {
            assert!(blobs(xml.as_bytes()).is_err(), "{xml}");
        }
    }

    #[test]
    fn percent_encoding_is_undone_and_checked() {
        assert_eq!(decode("a%20b%c3%A4").unwrap(), "a bä");
        for wrong in ["%", "%1", "%zz", "%ff", "%+1"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
