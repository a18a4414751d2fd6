//! The requests about page blobs (Blob Service REST: operations on page blobs). Pure: from arguments to a [`Call`].

use bytes::Bytes;
use http::Method;

use crate::blob::client::blob_calls::{at_most, inclusive, of_snapshot, optional};
use crate::blob::client::call::Call;
use crate::blob::error::Operation;
use crate::blob::names::{
    BlobRef, ETag, PAGES_MAX, SequenceNumber, SnapshotId, check_page_blob_size, check_pages,
};
use crate::blob::parameters::{Condition, Metadata};
use crate::units::{ByteRange, MIB, to_u64};

/// Ranges of a page list that are asked for at a time: the most that the service gives.
const PAGE_LIST: u32 = 10_000;
/// An emulator gives the whole list whatever is asked for: half a million ranges.
pub(crate) const PAGE_LIST_MAX: u64 = 64 * MIB;

pub(crate) fn create(
    container: &str,
    blob: &str,
    size: u64,
    sequence_number: SequenceNumber,
    metadata: &Metadata,
    replaces: Option<&ETag>,
) -> Call {
    let condition = replaces.map_or(Condition::Absent, |etag| Condition::Matches(etag.clone()));
    Call::new(Operation::CreatePageBlob, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .header("x-ms-blob-type", "PageBlob")
        .header("x-ms-blob-content-length", size.to_string())
        .header("x-ms-blob-sequence-number", sequence_number.to_string())
        .header("x-ms-blob-content-type", "application/octet-stream")
        .condition(&condition)
        .metadata(metadata)
        .check(check_page_blob_size(size))
}

pub(crate) fn put_pages(
    container: &str,
    blob: &str,
    offset: u64,
    body: Bytes,
    fence: SequenceNumber,
) -> Call {
    let size = to_u64(body.len());
    page_call(
        Operation::PutPages,
        container,
        blob,
        ByteRange::at(offset, size),
        fence,
    )
    .header("x-ms-page-write", "update")
    .check(check_pages(offset, size))
    .check(at_most(
        size,
        PAGES_MAX,
        "one request writes at most 4 MiB of pages",
    ))
    .body(body)
}

pub(crate) fn clear_pages(
    container: &str,
    blob: &str,
    range: ByteRange,
    fence: SequenceNumber,
) -> Call {
    page_call(Operation::ClearPages, container, blob, Some(range), fence)
        .header("x-ms-page-write", "clear")
        .check(check_pages(range.start(), range.len()))
}

fn page_call(
    operation: Operation,
    container: &str,
    blob: &str,
    range: Option<ByteRange>,
    fence: SequenceNumber,
) -> Call {
    Call::new(operation, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .query("comp", "page")
        .header("x-ms-range", range.map(inclusive).unwrap_or_default())
        .header("x-ms-if-sequence-number-eq", fence.to_string())
        .paced()
}

pub(crate) fn page_ranges(
    container: &str,
    blob: &BlobRef,
    window: Option<ByteRange>,
    previous: Option<&SnapshotId>,
    marker: Option<&str>,
) -> Call {
    let call = Call::new(Operation::GetPageRanges, Method::GET, &[200])
        .container(container)
        .blob(&blob.name)
        .query("comp", "pagelist")
        .query("maxresults", PAGE_LIST.to_string())
        .limit(PAGE_LIST_MAX);
    let call = of_snapshot(call, blob);
    let call = optional(
        call,
        "prevsnapshot",
        previous.map_or("", SnapshotId::as_str),
    );
    let call = optional(call, "marker", marker.unwrap_or_default());
    match window {
        None => call,
        Some(window) => call
            .check(check_pages(window.start(), window.len()))
            .header("x-ms-range", inclusive(window)),
    }
}

pub(crate) fn set_sequence_number(container: &str, blob: &str, number: SequenceNumber) -> Call {
    Call::new(Operation::SetSequenceNumber, Method::PUT, &[200])
        .container(container)
        .blob(blob)
        .query("comp", "properties")
        .header("x-ms-sequence-number-action", "max")
        .header("x-ms-blob-sequence-number", number.to_string())
}

pub(crate) fn resize(container: &str, blob: &str, size: u64, condition: &Condition) -> Call {
    Call::new(Operation::Resize, Method::PUT, &[200])
        .container(container)
        .blob(blob)
        .query("comp", "properties")
        .header("x-ms-blob-content-length", size.to_string())
        .existing(condition)
        .check(check_page_blob_size(size))
}
