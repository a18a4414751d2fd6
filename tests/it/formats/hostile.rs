//! Images whose structures somebody has changed: an error or a disk, never a panic, and never without end.
//!
//! Most changes are made with right checksums, so that they get past the first check.

use std::sync::Arc;

use site_recovery::formats::file::ImageFile as _;
use site_recovery::formats::info::Format;
use site_recovery::formats::{Image, Kind, Merge, OpenOptions, Result};
use site_recovery::units::ByteRange;

use crate::formats::support::{
    CrashDisk, KIB, MIB, Numbers, SHAPES, Shape, new_child, new_disk, open, open_writable, u64_of,
    usize_of,
};

const SIZE: u64 = 6 * MIB + 512 * 8;
/// Changed images of each shape: some seconds in all.
const ROUNDS: u64 = 500;

/// A range of bytes that changes aim at.
type Target = (u64, u64);

const VHDX_TARGETS: [Target; 8] = [
    (0, 16),
    (64 * KIB, 80),
    (128 * KIB, 80),
    (192 * KIB, 80),
    (MIB, 200),
    (2 * MIB, 224),
    (2 * MIB + 64 * KIB, 400),
    (3 * MIB, 64),
];
const VHD_TARGETS: [Target; 5] = [(0, 88), (512, 64), (512 + 576, 48), (1536, 48), (2048, 64)];

/// A chain with a dirty log in its child (in a VHDX), the child first.
fn victim(shape: Shape) -> Vec<Arc<CrashDisk>> {
    let base = CrashDisk::new();
    new_disk(&base, shape, SIZE);
    let mut image = open_writable(std::slice::from_ref(&base)).unwrap();
    image
        .write_at(0, &Numbers(1).bytes(usize_of(2 * MIB)))
        .unwrap();
    let parent = image.image().info().clone();
    image.close().unwrap();
    let child = CrashDisk::new();
    new_child(&child, &parent, Some(shape.block_size())).unwrap();
    let chain = [child, base];
    let mut image = open_writable(&chain).unwrap();
    for at in [512, MIB + 1024, 5 * MIB] {
        image.write_at(at, &Numbers(at).bytes(3000)).unwrap();
    }
    image
        .write_zeroes(ByteRange::at(3 * MIB, 2 * MIB).unwrap())
        .unwrap();
    image.flush().unwrap();
    drop(image);
    vec![chain[0].crashed(|| true), Arc::clone(&chain[1])]
}

/// Values that break bounds.
fn awkward(numbers: &mut Numbers) -> u64 {
    let near = [
        0,
        1,
        512,
        4096,
        MIB,
        3 * MIB,
        4 * MIB,
        SIZE,
        1 << 31,
        1 << 32,
        64 << 40,
        1 << 63,
    ];
    let value = near[usize_of(numbers.below(u64_of(near.len())))];
    match numbers.below(5) {
        0 => value.wrapping_sub(1),
        1 => value + 1,
        2 => u64::MAX - value,
        3 => value << 20 | numbers.below(8),
        _ => value,
    }
}

/// Changes one thing of the file.
fn change(disk: &CrashDisk, targets: &[Target], numbers: &mut Numbers) {
    let size = disk.size().unwrap();
    let (start, len) = targets[usize_of(numbers.below(u64_of(targets.len())))];
    let at = start + numbers.below(len);
    let mut byte = [0];
    match numbers.below(12) {
        0..3 => {
            let bit = 1 << numbers.below(8);
            disk.read_at(at, &mut byte).unwrap();
            disk.write_at(at, &[byte[0] ^ bit]).unwrap();
        }
        3..9 => {
            // Fields lie at multiples of their size.
            let width = [1, 2, 4, 8][usize_of(numbers.below(4))];
            let mut bytes = awkward(numbers).to_le_bytes()[..width].to_vec();
            if numbers.below(2) == 0 {
                bytes.reverse();
            }
            disk.write_at(at / u64_of(width) * u64_of(width), &bytes)
                .unwrap();
        }
        9 => {
            let len = 1 + usize_of(numbers.below(40));
            disk.write_at(at, &numbers.bytes(len)).unwrap();
        }
        10 => disk.resize(numbers.below(size)).unwrap(),
        _ => {
            // One entry or structure over another.
            let mut bytes = [0; 32];
            disk.read_at(start + numbers.below(len) / 8 * 8, &mut bytes)
                .unwrap();
            disk.write_at(at / 8 * 8, &bytes).unwrap();
        }
    }
}

/// Makes the checksums of a structure right again; its own field is `field`.
fn repair(disk: &CrashDisk, at: u64, len: usize, field: usize, sum: fn(&[u8]) -> [u8; 4]) {
    let mut bytes = vec![0; len];
    if disk.read_at(at, &mut bytes).unwrap() == len {
        bytes[field..field + 4].fill(0);
        disk.write_at(at + u64_of(field), &sum(&bytes)).unwrap();
    }
}

fn vhd_sum(bytes: &[u8]) -> [u8; 4] {
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    (!sum).to_be_bytes()
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    });
    (!crc).to_le_bytes()
}

fn repair_all(disk: &CrashDisk, format: Format) {
    if format == Format::Vhd {
        repair(disk, 0, 512, 64, vhd_sum);
        repair(disk, 512, 1024, 36, vhd_sum);
        return;
    }
    repair(disk, 64 * KIB, 4096, 4, crc32c);
    repair(disk, 128 * KIB, 4096, 4, crc32c);
    repair(disk, 192 * KIB, usize_of(64 * KIB), 4, crc32c);
    let mut entry = [0; 12];
    disk.read_at(MIB, &mut entry).unwrap();
    let length = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
    repair(
        disk,
        MIB,
        usize_of(u64::from(length).clamp(4096, MIB)),
        4,
        crc32c,
    );
}

/// Uses an image as callers do, for a bounded time.
fn exercise(image: &Image, numbers: &mut Numbers) -> Result<()> {
    let mut done = 0;
    for _ in 0..20 {
        let window = ByteRange::new(done, image.size()).unwrap();
        let found = image.map(window)?;
        assert!(found.covered > done || window.is_empty());
        done = found.covered;
    }
    let mut buffer = vec![0; usize_of(64 * KIB)];
    for _ in 0..10 {
        let len = numbers.below(64 * KIB).min(image.size());
        let at = numbers.below(image.size() - len + 1);
        image.read_at(at, &mut buffer[..usize_of(len)])?;
    }
    Ok(())
}

/// Opens a changed chain for writing; what could be written can be opened again.
fn exercise_writer(disks: &[Arc<CrashDisk>], numbers: &mut Numbers) -> Result<()> {
    let mut image = open_writable(disks)?;
    for _ in 0..6 {
        let at = numbers.below(image.size());
        let len = numbers.below(9000).min(image.size() - at);
        image.write_at(at, &numbers.bytes(usize_of(len)))?;
        let len = numbers.below(3 * MIB).min(image.size() - at);
        image.write_zeroes(ByteRange::at(at, len).unwrap())?;
    }
    image.close()?;
    let again = open(disks).unwrap_or_else(|e| panic!("what we wrote does not open: {e}"));
    exercise(&again, numbers)
}

fn survives_changes(shape: Shape, targets: &[Target]) {
    let victim = victim(shape);
    let mut opened = 0;
    let mut kinds = Vec::new();
    for round in 0..ROUNDS {
        let mut numbers = Numbers(round);
        let mut chain: Vec<_> = victim.iter().map(|disk| disk.copy()).collect();
        let which = usize_of(numbers.below(3).min(1));
        for _ in 0..=numbers.below(2) {
            change(&chain[1 - which], targets, &mut numbers);
        }
        if numbers.below(5) > 0 {
            repair_all(&chain[1 - which], shape.format);
        }
        let outcome = open(&chain).and_then(|image| exercise(&image, &mut numbers));
        match outcome {
            Ok(()) => opened += 1,
            Err(error) => {
                assert!(!error.path().as_os_str().is_empty());
                assert_ne!(error.kind(), Kind::Io, "memory does not fail: {error}");
                kinds.push(error.kind());
            }
        }
        chain.iter_mut().for_each(|disk| *disk = disk.copy());
        if let Err(error) = exercise_writer(&chain, &mut numbers) {
            assert_ne!(error.kind(), Kind::Io, "memory does not fail: {error}");
        }
    }
    // The changes are neither all harmless nor all fatal, and fatal in different ways.
    assert!(opened > 20, "{shape:?}: only {opened} opened");
    for kind in [
        Kind::Corrupt,
        Kind::Truncated,
        Kind::Checksum,
        Kind::Unsupported,
    ] {
        assert!(kinds.contains(&kind), "{shape:?}: no change was {kind:?}");
    }
}

#[test]
fn a_changed_vhd_is_an_error_or_a_disk() {
    survives_changes(SHAPES[1], &VHD_TARGETS);
    survives_changes(SHAPES[2], &VHD_TARGETS);
}

#[test]
fn a_changed_vhdx_is_an_error_or_a_disk() {
    survives_changes(SHAPES[3], &VHDX_TARGETS);
    survives_changes(SHAPES[4], &VHDX_TARGETS);
}

#[test]
fn a_changed_vhdx_of_large_sectors_is_an_error_or_a_disk() {
    survives_changes(SHAPES[6], &VHDX_TARGETS);
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_disk() {
    for shape in [SHAPES[2], SHAPES[4]] {
        let victim = victim(shape);
        let size = victim[0].size().unwrap();
        let mut numbers = Numbers(3);
        for size in (0..600).chain((0..300).map(|_| numbers.next() % size)) {
            let child = victim[0].copy();
            child.resize(size).unwrap();
            let chain = [child, Arc::clone(&victim[1])];
            if let Ok(image) = open(&chain) {
                let _ = exercise(&image, &mut Numbers(size));
            }
        }
    }
}

#[test]
fn random_bytes_are_no_image() {
    for seed in 0..2000 {
        let mut numbers = Numbers(seed);
        let len = usize_of(numbers.below(8192));
        let mut bytes = numbers.bytes(len);
        let marks: [&[u8]; 3] = [b"vhdxfile", b"conectix", b""];
        let mark = marks[usize_of(numbers.below(3))];
        let at = if numbers.below(2) == 0 {
            0
        } else {
            len.saturating_sub(512)
        };
        let end = (at + mark.len()).min(len);
        bytes[at..end].copy_from_slice(&mark[..end - at]);
        let disk = CrashDisk::of(&bytes);
        let image = open(&[disk]);
        // Only where raw is allowed, and the file claims to be nothing else.
        assert!(image.is_err() || image.unwrap().info().format == Format::Raw);
    }
}

/// A chain whose child has a log to apply, over a disk that is not its parent.
fn with_a_wrong_parent(shape: Shape) -> [Arc<CrashDisk>; 2] {
    let other = CrashDisk::new();
    new_disk(&other, shape, SIZE);
    [victim(shape)[0].copy(), other]
}

#[test]
fn a_child_over_a_wrong_parent_is_not_changed_by_opening_it_for_writing() {
    let shape = SHAPES[4];
    let alone = open(&[victim(shape)[0].copy()]).unwrap();
    assert!(
        alone.info().log_replayed,
        "there is a log that opening could apply"
    );
    let chain = with_a_wrong_parent(shape);
    let before = chain.each_ref().map(|disk| disk.bytes());
    let refused = open_writable(&chain).map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::BrokenChain);
    let sources = chain.each_ref().map(|disk| disk.source("disk"));
    let [child, parent] = sources;
    let refused = Merge::open_sources(child, vec![parent], &OpenOptions::default());
    assert_eq!(refused.map(drop).unwrap_err().kind(), Kind::BrokenChain);
    assert!(before == chain.each_ref().map(|disk| disk.bytes()));
}
