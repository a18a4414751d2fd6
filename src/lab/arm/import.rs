//! A managed disk from a page blob: the blob is read as it is, and refused where Azure refuses it.
//!
//! Refused at once: no account, an account that is not there or in another region, a URL of a blob snapshot or of another
//! account. Refused in the end, because the blob has to be read: not there, no page blob, a size that is not whole MiB
//! and a footer, a footer that is none, of a disk that is not fixed, or of another size.

use std::sync::Arc;

use serde_json::Value;

use crate::blob::Container;
use crate::blob::answer::{BlobKind, PageKind};
use crate::blob::names::BlobRef;
use crate::lab::arm::cloud::Cloud;
use crate::lab::arm::jobs::{self, Import};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::key;
use crate::lab::arm::{content, disks};
use crate::report;
use crate::units::{ByteRange, MIB};

const FOOTER: u64 = 512;
/// What is read at once.
const PIECE: u64 = 4 * MIB;

/// Why a blob is refused: code and message.
type Why = (&'static str, String);

/// What of a body can be judged without reading the blob.
pub(crate) fn check(cloud: &Cloud, body: &Value) -> Refusable<Import> {
    let creation = &body["properties"]["creationData"];
    let missing =
        |name: &str| Refusal::invalid(format!("Required parameter '{name}' is missing (null)."));
    let text = |name: &str| creation[name].as_str().filter(|text| !text.is_empty());
    let uri = text("sourceUri").ok_or_else(|| missing("creationData.sourceUri"))?;
    let account =
        text("storageAccountId").ok_or_else(|| missing("creationData.storageAccountId"))?;
    if uri
        .split_once('?')
        .is_some_and(|(_, query)| query.contains("snapshot="))
    {
        return Err(Refusal::invalid(
            "The source URI is that of a blob snapshot; a managed disk is imported from a blob.",
        ));
    }
    let storage = cloud
        .options
        .storage
        .iter()
        .find(|storage| key(&storage.id) == key(account));
    let Some(storage) = storage else {
        return Err(Refusal::new(
            404,
            "ResourceNotFound",
            format!("The storage account '{account}' was not found."),
        ));
    };
    if body["location"].as_str() != Some(&storage.location) {
        return Err(Refusal::invalid(format!(
            "The storage account '{account}' is in '{}' and not in the disk's region.",
            storage.location
        )));
    }
    let base = format!("{}/", storage.account.endpoint());
    let blob = uri
        .split('?')
        .next()
        .unwrap_or_default()
        .strip_prefix(&base);
    let Some((container, blob)) = blob.and_then(|blob| blob.split_once('/')) else {
        return Err(Refusal::invalid(format!(
            "The source URI is not of the storage account '{account}'."
        )));
    };
    Ok(Import {
        account: storage.id.clone(),
        container: container.to_owned(),
        blob: blob.to_owned(),
        done: false,
    })
}

/// Reads the blob of a job, and lets the job go on or fail.
pub(crate) async fn run(cloud: &Arc<Cloud>, job: &str) {
    let Some((import, file)) = cloud.with(|inner| {
        let job = inner.jobs.get(job)?;
        let file = inner.get(&job.resource)?.file.clone()?;
        Some((job.import.clone()?, inner.file(&file)))
    }) else {
        return;
    };
    let storage = cloud
        .options
        .storage
        .iter()
        .find(|storage| storage.id == import.account);
    let read = match storage {
        Some(storage) => {
            let container = storage.account.container(&import.container);
            copy(container.as_ref(), &import.blob, &file).await
        }
        None => Err((
            "ResourceNotFound",
            "The storage account is gone.".to_owned(),
        )),
    };
    let done = cloud.with(|inner| -> Refusable<()> {
        // It may have been deleted meanwhile.
        let Some(mut job) = inner.jobs.get(job).cloned() else {
            return Ok(());
        };
        match read {
            Ok(bytes) => {
                if let Some(mut resource) = inner.get(&job.resource).cloned() {
                    disks::size(&mut resource, bytes);
                    inner.put(resource)?;
                }
            }
            Err((code, message)) => jobs::fail(inner, &mut job, code.to_owned(), message)?,
        }
        if let Some(import) = &mut job.import {
            import.done = true;
        }
        inner.put_job(job)
    });
    if let Err(refusal) = done {
        tracing::error!(why = refusal.message, "an import is not kept");
    }
}

/// Copies the disk that a page blob holds: its size.
async fn copy(container: &dyn Container, blob: &str, file: &std::path::Path) -> Result<u64, Why> {
    let failed = |error: crate::blob::Error| match error.is_not_found() {
        true => (
            "DiskBlobNotFound",
            format!("The blob '{blob}' was not found."),
        ),
        false => ("InternalServerError", report::chain(&error)),
    };
    let io = |error: std::io::Error| ("InternalServerError", error.to_string());
    let head = BlobRef::head(blob);
    let properties = container.properties(&head).await.map_err(failed)?;
    if properties.kind != BlobKind::Page {
        return Err((
            "InvalidBlobType",
            format!("The blob '{blob}' is no page blob."),
        ));
    }
    let length = properties.length;
    let size = length.saturating_sub(FOOTER);
    if size == 0 || !size.is_multiple_of(MIB) {
        let message = format!(
            "The blob '{blob}' has {length} bytes: only whole MiB of disk and a footer of {FOOTER} bytes are supported."
        );
        return Err(("InvalidVhd", message));
    }
    let range = |start, end| ByteRange::new(start, end).expect("a part of the blob");
    let footer = container
        .get(&head, Some(range(size, length)), FOOTER)
        .await
        .map_err(failed)?;
    check_footer(&footer.bytes, size).map_err(|why| {
        (
            "InvalidVhd",
            format!("The blob '{blob}' is no fixed VHD: {why}."),
        )
    })?;

    content::create(file, size).map_err(io)?;
    let mut marker = None;
    loop {
        let page = container
            .page_ranges(&head, None, None, marker.as_deref())
            .await
            .map_err(failed)?;
        for written in page
            .ranges
            .iter()
            .filter(|one| one.kind == PageKind::Written)
        {
            let mut at = written.range.start();
            let end = written.range.end().min(size);
            while at < end {
                let piece = range(at, end.min(at + PIECE));
                let got = container
                    .get(&head, Some(piece), PIECE)
                    .await
                    .map_err(failed)?;
                content::write(file, at, &got.bytes).map_err(io)?;
                at = piece.end();
            }
        }
        marker = page.next;
        if marker.is_none() {
            return Ok(size);
        }
    }
}

/// What Azure looks at in the last 512 bytes.
fn check_footer(footer: &[u8], size: u64) -> Result<(), &'static str> {
    let number = |at: usize, length: usize| {
        let bytes = footer.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte)),
        )
    };
    if footer.get(..8) != Some(b"conectix") {
        return Err("its footer lacks the cookie 'conectix'");
    }
    let sum = footer
        .iter()
        .enumerate()
        .filter(|(at, _)| !(64..68).contains(at));
    let sum: u32 = sum.map(|(_, byte)| u32::from(*byte)).sum();
    if number(64, 4) != Some(u64::from(!sum)) {
        return Err("the checksum of its footer is wrong");
    }
    if number(60, 4) != Some(2) {
        return Err("it is not of fixed size");
    }
    match number(48, 8) == Some(size) {
        true => Ok(()),
        false => Err("its footer says another size"),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::formats::vhd::fixed_footer;

    #[test]
    fn only_the_footer_of_a_fixed_disk_of_this_size_is_taken() {
        let good = fixed_footer(MIB, Uuid::nil(), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(check_footer(&good, MIB), Ok(()));
        assert!(check_footer(&good, 2 * MIB).is_err());
        assert!(check_footer(&[0; 512], MIB).is_err());
        assert!(check_footer(&[], MIB).is_err());
        for at in [0, 48, 60, 64, 300] {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(check_footer(&bad, MIB).is_err(), "byte {at}");
        }
    }
}
