//! Page range lists (`PageList`): `PageRange` and `ClearRange` interleaved, in the order of their offsets.
//!
//! A list that is out of order, overlaps, or leaves the blob is refused whole: a range that is lost here is data that
//! is lost in a recovery point.

use crate::blob::answer::{PageKind, PageRange};
use crate::blob::xml::{Malformed, Step, number, walk};
use crate::units::{ByteRange, SECTOR};

#[derive(Debug, PartialEq, Eq)]
pub struct Pages {
    pub ranges: Vec<PageRange>,
    pub next: Option<String>,
}

/// The ranges of a list about a blob of `blob_length` bytes; neighbours of one kind are joined.
///
/// # Errors
/// If it is malformed, not ascending, not of whole pages, or leaves the blob.
pub fn ranges(xml: &[u8], blob_length: u64) -> Result<Pages, Malformed> {
    let mut ranges = Vec::new();
    let mut next = None;
    let mut root = false;
    let (mut start, mut end) = (None, None);
    walk(xml, &mut |step| {
        match step {
            Step::Open { parent: "", name } => root = name == "PageList",
            Step::Close {
                parent: "PageRange" | "ClearRange",
                name: "Start",
                text,
                ..
            } => {
                start = Some(number("Start", text)?);
            }
            Step::Close {
                parent: "PageRange" | "ClearRange",
                name: "End",
                text,
                ..
            } => {
                end = Some(number("End", text)?);
            }
            Step::Close {
                parent: "PageList",
                name: "PageRange",
                ..
            } => {
                append(
                    &mut ranges,
                    range(start.take(), end.take(), blob_length)?,
                    PageKind::Written,
                )?;
            }
            Step::Close {
                parent: "PageList",
                name: "ClearRange",
                ..
            } => {
                append(
                    &mut ranges,
                    range(start.take(), end.take(), blob_length)?,
                    PageKind::Cleared,
                )?;
            }
            Step::Close {
                parent: "PageList",
                name: "NextMarker",
                text,
                ..
            } => {
                next = (!text.is_empty()).then(|| text.to_owned());
            }
            Step::Open { .. } | Step::Close { .. } => {}
        }
        Ok(())
    })?;
    if root {
        Ok(Pages { ranges, next })
    } else {
        Err(Malformed::new("no page list"))
    }
}

/// From first and last byte, both inclusive.
fn range(start: Option<u64>, end: Option<u64>, blob_length: u64) -> Result<ByteRange, Malformed> {
    let (Some(start), Some(last)) = (start, end) else {
        return Err(Malformed::new("a range without start or end"));
    };
    last.checked_add(1)
        .and_then(|end| ByteRange::new(start, end))
        .filter(|range| !range.is_empty() && range.end() <= blob_length)
        .filter(|range| range.start().is_multiple_of(SECTOR) && range.end().is_multiple_of(SECTOR))
        .ok_or_else(|| Malformed::new(format!("range {start}-{last} of {blob_length} bytes")))
}

fn append(ranges: &mut Vec<PageRange>, range: ByteRange, kind: PageKind) -> Result<(), Malformed> {
    if let Some(before) = ranges.last_mut() {
        if range.start() < before.range.end() {
            return Err(Malformed::new(format!(
                "range {range} after {}",
                before.range
            )));
        }
        let joined = ByteRange::new(before.range.start(), range.end());
        if let (true, Some(joined)) = (
            before.kind == kind && range.start() == before.range.end(),
            joined,
        ) {
            before.range = joined;
            return Ok(());
        }
    }
    ranges.push(PageRange { range, kind });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(xml: &str) -> Vec<(u64, u64, PageKind)> {
        ranges(xml.as_bytes(), 1 << 20)
            .unwrap()
            .ranges
            .iter()
            .map(|page| (page.range.start(), page.range.end(), page.kind))
            .collect()
    }

    #[test]
    fn interleaved_ranges_keep_their_order_and_kind() {
        let xml = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>\
            <PageRange><Start>0</Start><End>511</End></PageRange>\
            <ClearRange><Start>512</Start><End>1023</End></ClearRange>\
            <PageRange><Start>2048</Start><End>2559</End></PageRange>\
            <PageRange><Start>2560</Start><End>4095</End></PageRange>\
            <ClearRange><Start>4096</Start><End>8191</End></ClearRange>\
            <NextMarker>2!more</NextMarker></PageList>";
        let expected = [
            (0, 512, PageKind::Written),
            (512, 1024, PageKind::Cleared),
            (2048, 4096, PageKind::Written),
            (4096, 8192, PageKind::Cleared),
        ];
        assert_eq!(found(xml), expected);
        assert_eq!(
            ranges(xml.as_bytes(), 8192).unwrap().next.as_deref(),
            Some("2!more")
        );
    }

    #[test]
    fn a_blob_that_was_never_written_has_no_ranges() {
        assert_eq!(found("<PageList/>"), []);
        assert_eq!(found("<PageList><NextMarker/></PageList>"), []);
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let page = |start: &str, end: &str| {
            format!("<PageRange><Start>{start}</Start><End>{end}</End></PageRange>")
        };
        let hostile = [
            page("512", "511"),
            page("512", "0"),
            page("0", "18446744073709551615"),
            page("1", "512"),
            page("0", "512"),
            page("-512", "511"),
            page("0", "1048576"),
            page("", ""),
            "<PageRange><Start>0</Start></PageRange>".to_owned(),
            page("0", "1023") + &page("512", "1535"),
            page("1024", "1535") + &page("0", "511"),
        ];
        for inner in hostile {
            let xml = format!("<PageList>{inner}</PageList>");
            assert!(ranges(xml.as_bytes(), 1 << 20).is_err(), "{xml}");
        }
        assert!(ranges(b"<Error/>", 512).is_err());
        assert!(
            ranges(
                b"<PageList><PageRange><Start>0</Start><End>511</End></PageRange>",
                512
            )
            .is_err()
        );
    }

    #[test]
    fn a_start_without_end_does_not_borrow_the_end_of_the_range_before() {
        let xml = "<PageList><PageRange><Start>0</Start><End>511</End></PageRange><PageRange><Start>512</Start></PageRange></PageList>";
        assert!(ranges(xml.as_bytes(), 1 << 20).is_err());
    }
}
