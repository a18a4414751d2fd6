//! That what stands in storage is the disk, judged by a tool that is not ours. Not measured.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use site_recovery::blob::answer::PageKind;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::walk;
use site_recovery::units::{ByteRange, MIB};

use crate::image::Image;
use crate::stand::Copy;

/// Bytes that are read at a time, and as many times at once.
const PIECE: u64 = 4 * MIB;
const READS: usize = 4;
const RANGES_MAX: u64 = 1 << 20;

/// Reads the copy into a file and lets qemu-img compare it with the image.
pub(crate) async fn verify(copy: &Copy, image: &Image, folder: &Path) -> anyhow::Result<()> {
    let raw = folder.join("copy.raw");
    download(copy, image.size, &raw).await?;
    let mut compare = Command::new("qemu-img");
    compare
        .args(["compare", "-f", "raw", "-F", "vhdx"])
        .args([&raw, &image.path]);
    let output = tokio::task::spawn_blocking(move || compare.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success(),
        "the copy is not the disk: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What was never written reads as zeroes, in storage as in a file's holes.
pub(crate) async fn download(copy: &Copy, size: u64, path: &Path) -> anyhow::Result<()> {
    let file = File::create_new(path).context("cannot make a file for the copy")?;
    file.set_len(size)?;
    let disk = ByteRange::to(size);
    let ranges = walk::pages(copy.container.as_ref(), &copy.blob, disk, None, RANGES_MAX).await?;
    let pieces = ranges
        .iter()
        .filter(|range| range.kind == PageKind::Written)
        .flat_map(|range| range.range.split_at_multiples(PIECE));
    let reads = pieces.map(|piece| read(copy, piece, &file));
    futures::stream::iter(reads)
        .buffer_unordered(READS)
        .try_collect()
        .await
}

async fn read(copy: &Copy, piece: ByteRange, file: &File) -> anyhow::Result<()> {
    let blob: &BlobRef = &copy.blob;
    let got = copy.container.get(blob, Some(piece), PIECE).await?;
    Ok(file.write_all_at(&got.bytes, piece.start())?)
}
