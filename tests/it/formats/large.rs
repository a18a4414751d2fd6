//! The largest disks that the formats have, as sparse files.

use site_recovery::formats::create::{Allocation, CreateOptions};
use site_recovery::formats::extent::Content;
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, Kind, OpenOptions};
use uuid::Uuid;

use crate::formats::support::{GIB, MIB, created, map_all};

fn options(format: Format, size: u64, block_size: Option<u32>) -> CreateOptions {
    let id = Uuid::from_u128(1);
    CreateOptions {
        block_size,
        ..CreateOptions::new(format, Allocation::Dynamic, size, id, created())
    }
}

#[test]
fn a_sector_at_either_end_of_the_largest_disks_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (format, size, block_size)) in [
        (Format::Vhd, 2040 * GIB, None),
        (Format::Vhdx, 8000 * GIB, None),
        (Format::Vhdx, 8000 * GIB, Some(1 << 20)),
        (Format::Vhdx, 64 << 40, None),
    ]
    .into_iter()
    .enumerate()
    {
        // Given: a disk with its first and last sector written
        let path = folder.path().join(format!("{number}"));
        let mut image = formats::create(&path, &options(format, size, block_size)).unwrap();
        image.write_at(0, &[1; 512]).unwrap();
        image.write_at(size - 512, &[2; 512]).unwrap();
        image.close().unwrap();
        // Then: they are there, and the map shows two blocks and nothing between them
        let image = formats::open(&path, &OpenOptions::default()).unwrap();
        let mut sector = [0; 512];
        image.read_at(size - 512, &mut sector).unwrap();
        assert_eq!(sector, [2; 512]);
        let contents: Vec<_> = map_all(&image).unwrap().iter().map(|e| e.content).collect();
        let block = u64::from(image.info().block_size.unwrap());
        assert_eq!(image.info().allocated, 2 * block);
        assert_eq!(contents.first(), Some(&Content::Data));
        assert_eq!(contents.last(), Some(&Content::Data));
        let zero = contents.iter().filter(|&&content| content == Content::Zero);
        assert_eq!(zero.count() + 2, contents.len(), "{format} of {size}");
    }
}

#[test]
fn larger_disks_than_a_format_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("too-large");
    for (format, size) in [
        (Format::Vhd, 2040 * GIB + 512),
        (Format::Vhdx, (64 << 40) + 512),
    ] {
        let error = formats::create(&path, &options(format, size, None))
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    }
    for (format, size, block_size) in [
        (Format::Vhd, 0, None),
        (Format::Vhd, MIB + 1, None),
        (Format::Vhd, MIB, Some(3 << 20)),
        (Format::Vhdx, 0, None),
        (Format::Vhdx, MIB + 1, None),
        (Format::Vhdx, MIB, Some(1 << 19)),
        (Format::Vhdx, MIB, Some(1 << 29)),
    ] {
        let error = formats::create(&path, &options(format, size, block_size))
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
