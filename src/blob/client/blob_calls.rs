//! The requests about blobs of any kind and block blobs (Blob Service REST: operations on containers, blobs and block
//! blobs). Pure: from arguments to a [`Call`].

use bytes::Bytes;
use http::Method;

use crate::blob::client::call::Call;
use crate::blob::error::Operation;
use crate::blob::names::{BLOCKS_MAX, BlobRef, BlockId, Invalid, PUT_MAX};
use crate::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, PutOptions,
};
use crate::units::{ByteRange, MIB, to_u64};

/// Items of a listing that are asked for at a time, and the bytes that they can need at most: a name of 1,024
/// characters, 8 KiB of metadata, properties.
const LIST_PAGE: u32 = 1000;
pub(crate) const LIST_MAX: u64 = 16 * MIB;
/// A block has at most 4,000 MiB in the service; ours are no longer than a whole body.
const BLOCK_MAX: u64 = PUT_MAX;

pub(crate) fn put(container: &str, blob: &str, body: Bytes, options: &PutOptions) -> Call {
    let size = to_u64(body.len());
    Call::new(Operation::PutBlob, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-blob-content-type", content_type(options))
        .condition(&options.condition)
        .metadata(&options.metadata)
        .check(at_most(size, PUT_MAX, "one request writes at most 256 MiB"))
        .body(body)
}

pub(crate) fn put_block(container: &str, blob: &str, block: BlockId, body: Bytes) -> Call {
    let size = to_u64(body.len());
    Call::new(Operation::PutBlock, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .query("comp", "block")
        .query("blockid", block.encoded())
        .check(at_most(size, BLOCK_MAX, "a block has at most 256 MiB"))
        .body(body)
}

pub(crate) fn put_block_list(
    container: &str,
    blob: &str,
    blocks: &[BlockId],
    options: &PutOptions,
) -> Call {
    let count = to_u64(blocks.len());
    let ids: String = blocks
        .iter()
        .map(|block| format!("<Latest>{}</Latest>", block.encoded()))
        .collect();
    let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{ids}</BlockList>");
    Call::new(Operation::PutBlockList, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .query("comp", "blocklist")
        .header("content-type", "application/xml")
        .header("x-ms-blob-content-type", content_type(options))
        .condition(&options.condition)
        .metadata(&options.metadata)
        .check(at_most(
            count,
            u64::from(BLOCKS_MAX),
            "a blob has at most 50000 blocks",
        ))
        .body(list.into())
}

pub(crate) fn get(container: &str, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Call {
    let call = Call::new(Operation::GetBlob, Method::GET, &[200, 206])
        .container(container)
        .blob(&blob.name);
    let call = of_snapshot(call, blob);
    match range {
        None => call.limit(limit),
        Some(range) => call
            .check(not_empty(range))
            .check(at_most(
                range.len(),
                limit,
                "the range is longer than its own limit",
            ))
            .header("x-ms-range", inclusive(range))
            .limit(range.len()),
    }
}

pub(crate) fn properties(container: &str, blob: &BlobRef) -> Call {
    let call = Call::new(Operation::GetProperties, Method::HEAD, &[200])
        .container(container)
        .blob(&blob.name);
    of_snapshot(call, blob)
}

pub(crate) fn delete(
    container: &str,
    blob: &BlobRef,
    condition: &Condition,
    snapshots: DeleteSnapshots,
) -> Call {
    let call = Call::new(Operation::DeleteBlob, Method::DELETE, &[202])
        .container(container)
        .blob(&blob.name)
        .existing(condition);
    let call = of_snapshot(call, blob);
    match (snapshots, &blob.snapshot) {
        (DeleteSnapshots::None, _) => call,
        (_, Some(_)) => call.check(Err(Invalid::new(
            "a delete",
            "a snapshot has no snapshots of its own",
        ))),
        (DeleteSnapshots::Include, None) => call.header("x-ms-delete-snapshots", "include"),
        (DeleteSnapshots::Only, None) => call.header("x-ms-delete-snapshots", "only"),
    }
}

pub(crate) fn list(container: &str, prefix: &str, include: Include, marker: Option<&str>) -> Call {
    let included: Vec<&str> = [
        (include.snapshots, "snapshots"),
        (include.metadata, "metadata"),
    ]
    .into_iter()
    .filter_map(|(wanted, name)| wanted.then_some(name))
    .collect();
    let call = Call::new(Operation::ListBlobs, Method::GET, &[200])
        .container(container)
        .query("restype", "container")
        .query("comp", "list")
        .query("maxresults", LIST_PAGE.to_string())
        .limit(LIST_MAX);
    let call = optional(call, "include", &included.join(","));
    let call = optional(call, "prefix", prefix);
    optional(call, "marker", marker.unwrap_or_default())
}

pub(crate) fn snapshot(
    container: &str,
    blob: &str,
    metadata: &Metadata,
    condition: &Condition,
) -> Call {
    Call::new(Operation::Snapshot, Method::PUT, &[201])
        .container(container)
        .blob(blob)
        .query("comp", "snapshot")
        .existing(condition)
        .metadata(metadata)
        .only_if_not_done()
}

pub(crate) fn lease(container: &str, blob: &str, action: LeaseAction) -> Call {
    let call = Call::new(Operation::Lease, Method::PUT, &[200, 201, 202])
        .container(container)
        .blob(blob)
        .query("comp", "lease");
    match action {
        LeaseAction::Acquire { id, lasting } => {
            let seconds = lasting.map_or(-1, |lasting| {
                i64::try_from(lasting.as_secs()).unwrap_or(i64::MAX)
            });
            let rule = "a lease lasts 15 to 60 seconds, or without end";
            let allowed = seconds == -1 || (15..=60).contains(&seconds);
            call.header("x-ms-lease-action", "acquire")
                .header("x-ms-lease-duration", seconds.to_string())
                .header("x-ms-proposed-lease-id", id.hyphenated().to_string())
                .check(if allowed {
                    Ok(())
                } else {
                    Err(Invalid::new(format!("{seconds} seconds"), rule))
                })
        }
        LeaseAction::Renew { id } => call
            .header("x-ms-lease-action", "renew")
            .header("x-ms-lease-id", id.hyphenated().to_string()),
        LeaseAction::Release { id } => call
            .header("x-ms-lease-action", "release")
            .header("x-ms-lease-id", id.hyphenated().to_string()),
        LeaseAction::Break => call
            .header("x-ms-lease-action", "break")
            .header("x-ms-lease-break-period", "0"),
    }
}

/// `source_url` is the URL of `source` without its snapshot.
pub(crate) fn copy_from(
    container: &str,
    blob: &str,
    source: &CopySource,
    source_url: Result<String, Invalid>,
    condition: &Condition,
) -> Call {
    let call = Call::new(Operation::CopyBlob, Method::PUT, &[202])
        .container(container)
        .blob(blob)
        .condition(condition)
        .only_if_not_done();
    match (source_url, &source.blob.snapshot) {
        (Err(why), _) => call.check(Err(why)),
        (Ok(url), None) => call.header("x-ms-copy-source", url),
        (Ok(url), Some(snapshot)) => {
            call.header("x-ms-copy-source", format!("{url}?snapshot={snapshot}"))
        }
    }
}

/// Adds a query parameter that is left out when it is empty.
pub(crate) fn optional(call: Call, name: &'static str, value: &str) -> Call {
    if value.is_empty() {
        call
    } else {
        call.query(name, value)
    }
}

/// Directs a call to the snapshot that `blob` names, if it names one.
pub(crate) fn of_snapshot(call: Call, blob: &BlobRef) -> Call {
    match &blob.snapshot {
        Some(snapshot) => call.query("snapshot", snapshot.as_str()),
        None => call,
    }
}

/// `bytes=first-last`, both inclusive. `range` is not empty.
pub(crate) fn inclusive(range: ByteRange) -> String {
    format!("bytes={}-{}", range.start(), range.end().saturating_sub(1))
}

pub(crate) fn not_empty(range: ByteRange) -> Result<(), Invalid> {
    if range.is_empty() {
        Err(Invalid::new(
            format!("bytes {range}"),
            "a range of no bytes cannot be asked for",
        ))
    } else {
        Ok(())
    }
}

pub(crate) fn at_most(found: u64, most: u64, rule: &'static str) -> Result<(), Invalid> {
    if found <= most {
        Ok(())
    } else {
        Err(Invalid::new(found.to_string(), rule))
    }
}

fn content_type(options: &PutOptions) -> &'static str {
    options.content_type.unwrap_or("application/octet-stream")
}
