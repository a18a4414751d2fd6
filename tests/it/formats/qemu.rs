//! qemu reads what we write, and we read what qemu writes: dynamic and fixed images of both formats, and dirty logs.
//!
//! qemu knows neither differencing images (it reads such VHDs wrongly without an error) nor sectors of 4096 bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use site_recovery::formats::create::Allocation;
use site_recovery::formats::info::{DiskKind, Format};
use site_recovery::formats::{self, Image, OpenOptions, vhd};
use site_recovery::lab::tools::debian;
use site_recovery::units::ByteRange;

use crate::formats::support::{
    CrashDisk, GIB, KIB, MIB, Numbers, SHAPES, Shape, assert_same, check_map, new_disk, open,
    open_writable, raw_allowed, read_all, u64_of, usize_of, write_file,
};
use crate::outside::{run, tool};

const SIZE: u64 = 7 * MIB + 4 * KIB;

fn qemu_img() -> Command {
    tool("qemu-img", debian::QEMU_UTILS)
}

fn qemu_io() -> Command {
    tool("qemu-io", debian::QEMU_UTILS)
}

/// What qemu calls a format.
fn name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Vhd => "vpc",
        Format::Vhdx => "vhdx",
    }
}

/// The shapes that qemu knows.
fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES
        .into_iter()
        .filter(|shape| shape.format != Format::Raw && shape.sector == 512)
}

/// Lets qemu compare an image with the bytes that it should hold.
fn qemu_agrees(image: &Path, format: Format, content: &[u8]) {
    let raw = image.with_extension("expected");
    write_file(&raw, content);
    run(qemu_img()
        .args(["compare", "-f", name(format), "-F", "raw"])
        .args([image, &raw]));
    if format == Format::Vhdx {
        run(qemu_img().args(["check", "-f", "vhdx"]).arg(image));
    }
}

/// Writes that start and end anywhere, in several blocks; returns what the disk then holds.
fn fill(mut write: impl FnMut(u64, &[u8])) -> Vec<u8> {
    let mut content = vec![0; usize_of(SIZE)];
    let mut numbers = Numbers(7);
    for (at, len) in [
        (0, 512),
        (700, 5000),
        (MIB - 100, 300),
        (3 * MIB, 2 * MIB),
        (SIZE - 9, 9),
    ] {
        let bytes = numbers.bytes(usize_of(len));
        write(at, &bytes);
        content[usize_of(at)..usize_of(at + len)].copy_from_slice(&bytes);
    }
    content
}

#[test]
fn qemu_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    for shape in shapes() {
        // Given: an image of ours, flushed and never closed
        let path = folder
            .path()
            .join(format!("{:?}-{:?}", shape.format, shape.allocation));
        let mut image = formats::create(&path, &shape.options(SIZE)).unwrap();
        let mut content = fill(|at, bytes| image.write_at(at, bytes).unwrap());
        image
            .write_zeroes(ByteRange::at(3 * MIB + 512, MIB).unwrap())
            .unwrap();
        content[usize_of(3 * MIB + 512)..usize_of(4 * MIB + 512)].fill(0);
        image.close().unwrap();
        // Then: qemu reads the same
        qemu_agrees(&path, shape.format, &content);
    }
}

#[test]
fn we_read_what_qemu_writes() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let mut content = vec![0; usize_of(SIZE)];
    fill(|at, bytes| content[usize_of(at)..][..bytes.len()].copy_from_slice(bytes));
    write_file(&raw, &content);
    for (format, options, kind) in [
        (
            Format::Vhd,
            "subformat=dynamic,force_size=on",
            DiskKind::Dynamic,
        ),
        (
            Format::Vhd,
            "subformat=fixed,force_size=on",
            DiskKind::Fixed,
        ),
        (
            Format::Vhdx,
            "subformat=dynamic,block_size=1M",
            DiskKind::Dynamic,
        ),
        (
            Format::Vhdx,
            "subformat=dynamic,block_state_zero=off",
            DiskKind::Dynamic,
        ),
        (Format::Vhdx, "subformat=fixed,log_size=2M", DiskKind::Fixed),
    ] {
        // Given: an image that qemu made
        let path = folder.path().join(options);
        let convert = ["convert", "-f", "raw", "-O", name(format), "-o", options];
        run(qemu_img().args(convert).args([&raw, &path]));
        // Then: it holds what qemu was given, however it is opened
        let image = formats::open(&path, &OpenOptions::default()).unwrap();
        assert_eq!((image.info().format, image.info().kind), (format, kind));
        assert_same(&read_all(&image).unwrap(), &content, options);
        check_map(&image, &content);
        // And: what we write into it, qemu reads
        let mut image = formats::open_writable(&path, &OpenOptions::default()).unwrap();
        let mut changed = content.clone();
        for at in [MIB + 300, 6 * MIB - 17] {
            let bytes = Numbers(at).bytes(70_000);
            image.write_at(at, &bytes).unwrap();
            changed[usize_of(at)..][..bytes.len()].copy_from_slice(&bytes);
        }
        image.close().unwrap();
        qemu_agrees(&path, format, &changed);
    }
}

#[test]
fn a_vhd_without_forced_size_has_the_size_that_its_footer_says() {
    // qemu rounds such a disk up to whole cylinders; the footer's current size has it, as Hyper-V reads it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rounded.vhd");
    run(qemu_img()
        .args(["create", "-f", "vpc"])
        .arg(&path)
        .arg("64M"));
    let image = formats::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(image.size(), 67_125_248);
}

/// An image whose changes are in its log and nowhere else, and what the disk holds.
fn dirty_log(folder: &Path) -> (PathBuf, Vec<u8>) {
    let disk = CrashDisk::new();
    new_disk(&disk, SHAPES[4], SIZE);
    let mut image = open_writable(std::slice::from_ref(&disk)).unwrap();
    let mut content = fill(|at, bytes| image.write_at(at, bytes).unwrap());
    image.flush().unwrap();
    // A second entry, in the other half of the log.
    let bytes = Numbers(99).bytes(4096);
    image.write_at(6 * MIB, &bytes).unwrap();
    content[usize_of(6 * MIB)..][..4096].copy_from_slice(&bytes);
    image.flush().unwrap();
    drop(image);
    let path = folder.join("dirty.vhdx");
    write_file(&path, &disk.crashed(|| false).bytes());
    (path, content)
}

#[test]
fn qemu_replays_our_log_to_what_we_read_through_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = dirty_log(folder.path());
    // Given: what we read without changing the file
    let before = std::fs::read(&path).unwrap();
    let image = formats::open(&path, &OpenOptions::default()).unwrap();
    assert!(image.info().log_replayed);
    assert_same(&read_all(&image).unwrap(), &content, "replayed in memory");
    assert!(
        std::fs::read(&path).unwrap() == before,
        "reading changes nothing"
    );
    // When: qemu replays the log
    run(qemu_img()
        .args(["check", "-r", "all", "-f", "vhdx"])
        .arg(&path));
    // Then: both read the same
    qemu_agrees(&path, Format::Vhdx, &content);
    let image = formats::open(&path, &OpenOptions::default()).unwrap();
    assert!(!image.info().log_replayed);
    assert_same(&read_all(&image).unwrap(), &content, "replayed by qemu");
}

#[test]
fn qemu_reads_an_image_whose_log_we_applied() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = dirty_log(folder.path());
    let image = formats::open_writable(&path, &OpenOptions::default()).unwrap();
    assert!(image.image().info().log_replayed);
    image.close().unwrap();
    qemu_agrees(&path, Format::Vhdx, &content);
}

/// Writes a pattern with qemu where blocks, chunks and pages of the table end, and checks it with us; and the reverse.
fn patterns_at(offsets: &[u64], path: &Path, format: Format) {
    for (&at, pattern) in offsets.iter().zip(1..) {
        let write = format!("write -P {pattern} {at} 8k");
        run(qemu_io().args(["-f", name(format), "-c", &write]).arg(path));
    }
    let mut image = formats::open_writable(path, &OpenOptions::default()).unwrap();
    for (&at, pattern) in offsets.iter().zip(1_u8..) {
        let mut bytes = vec![0; 8192];
        image.read_at(at, &mut bytes).unwrap();
        assert_same(&bytes, &[pattern; 8192], "what qemu wrote");
        image.write_at(at + 4096, &[pattern + 100; 8192]).unwrap();
    }
    image.close().unwrap();
    for (&at, pattern) in offsets.iter().zip(1..) {
        let reads = [
            format!("read -P {pattern} {at} 4k"),
            format!("read -P {} {} 8k", pattern + 100, at + 4096),
        ];
        for read in reads {
            let said = run(qemu_io().args(["-f", name(format), "-c", &read]).arg(path));
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains("failed"), "{read}: {said}");
        }
    }
}

#[test]
fn blocks_behind_the_first_chunk_are_where_qemu_has_them() {
    let folder = tempfile::tempdir().unwrap();
    // A chunk of sectors of 512 bytes is 4 GiB.
    let offsets = [0, 4 * GIB - 8192, 6 * GIB, 8 * GIB - 8192, 9 * GIB - 16_384];
    for block in ["1M", "32M", "256M"] {
        let path = folder.path().join(format!("chunks-{block}.vhdx"));
        let options = format!("block_size={block}");
        run(qemu_img()
            .args(["create", "-f", "vhdx", "-o", &options])
            .arg(&path)
            .arg("9G"));
        patterns_at(&offsets, &path, Format::Vhdx);
    }
    let path = folder.path().join("large.vhd");
    run(qemu_img()
        .args(["create", "-f", "vpc", "-o", "force_size=on"])
        .arg(&path)
        .arg("9G"));
    patterns_at(&offsets, &path, Format::Vhd);
}

#[test]
fn a_page_blob_of_disk_and_footer_is_a_fixed_vhd_to_qemu_and_to_us() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob.vhd");
    let mut blob = Numbers(3).bytes(usize_of(2 * MIB));
    let content = blob.clone();
    let shape = SHAPES[1].options(u64_of(content.len()));
    blob.extend(vhd::fixed_footer(
        shape.size,
        shape.identifier,
        shape.created,
    ));
    write_file(&path, &blob);
    qemu_agrees(&path, Format::Vhd, &content);
    let image = formats::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(image.info().kind, DiskKind::Fixed);
    assert_same(&read_all(&image).unwrap(), &content, "the blob");
}

#[test]
fn a_flushed_vhd_is_whole_for_readers_that_believe_the_closing_footer() {
    let disk = CrashDisk::new();
    new_disk(&disk, SHAPES[2], SIZE);
    let mut image = open_writable(std::slice::from_ref(&disk)).unwrap();
    let content = fill(|at, bytes| image.write_at(at, bytes).unwrap());
    image.flush().unwrap();
    drop(image);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flushed.vhd");
    let mut bytes = disk.bytes();
    assert_eq!(bytes[bytes.len() - 512..], bytes[..512], "footer and copy");
    write_file(&path, &bytes);
    qemu_agrees(&path, Format::Vhd, &content);
    // Without the copy at the start, the closing footer is enough, and the next change puts the copy back.
    bytes[..512].fill(0);
    let disk = CrashDisk::of(&bytes);
    let mut image = open_writable(std::slice::from_ref(&disk)).unwrap();
    assert_same(
        &read_all(image.image()).unwrap(),
        &content,
        "by the closing footer",
    );
    image.write_at(0, &content[..512]).unwrap();
    image.flush().unwrap();
    assert_eq!(disk.bytes()[..8], *b"conectix");
    let image: Image = open(&[disk]).unwrap();
    assert_same(&read_all(&image).unwrap(), &content, "by the copy");
}

#[test]
fn a_raw_file_is_opened_only_where_raw_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    write_file(&path, &Numbers(1).bytes(5000));
    let error = formats::open(&path, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), formats::Kind::Unsupported, "{error}");
    assert_eq!(formats::open(&path, &raw_allowed()).unwrap().size(), 5000);
    let options = Shape {
        format: Format::Raw,
        allocation: Allocation::Fixed,
        sector: 512,
    };
    let created = folder.path().join("new.raw");
    let mut image = formats::create(&created, &options.options(SIZE)).unwrap();
    let content = fill(|at, bytes| image.write_at(at, bytes).unwrap());
    image.close().unwrap();
    assert_same(&std::fs::read(&created).unwrap(), &content, "a raw file");
}
