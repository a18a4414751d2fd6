//! Parents: where they are found, and what is said when they are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use site_recovery::formats::create::ChildOptions;
use site_recovery::formats::extent::{Content, Extent};
use site_recovery::formats::file::ImageFile as _;
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, Error, Kind, OpenOptions, Parents, vhd};
use site_recovery::report::Code;
use site_recovery::units::ByteRange;
use uuid::Uuid;

use crate::formats::support::{
    CrashDisk, KIB, MIB, SHAPES, Shape, created, new_child, new_disk, open, open_writable,
    raw_allowed, read_all, usize_of, write_file,
};
use crate::outside::run;

const SIZE: u64 = 2 * MIB;

/// The shapes of a base that has children, one of each format.
const BASES: [Shape; 2] = [SHAPES[2], SHAPES[4]];

fn child_options() -> ChildOptions {
    ChildOptions {
        block_size: None,
        identifier: Uuid::new_v4(),
        created: created(),
    }
}

/// A base of ones, and over it a child with a sector of twos; both in `folder`.
fn family(folder: &Path, shape: Shape) -> (PathBuf, PathBuf) {
    let (base, child) = (folder.join("base"), folder.join("child"));
    let mut image = formats::create(&base, &shape.options(SIZE)).unwrap();
    image.write_at(0, &vec![1; usize_of(SIZE)]).unwrap();
    image.close().unwrap();
    let mut image = formats::create_child(&child, &base, &child_options()).unwrap();
    image.write_at(4096, &[2; 512]).unwrap();
    image.close().unwrap();
    (base, child)
}

fn open_at(path: &Path) -> Result<formats::Image, Error> {
    formats::open(path, &OpenOptions::default())
}

fn with_parents(parents: Parents) -> OpenOptions {
    OpenOptions {
        parents,
        ..OpenOptions::default()
    }
}

fn is_family(image: &formats::Image) {
    let found = read_all(image).unwrap();
    assert_eq!(found[4096..4608], [2; 512]);
    assert!(
        found[..4096]
            .iter()
            .chain(&found[4608..])
            .all(|&byte| byte == 1)
    );
}

fn broken(outcome: Result<formats::Image, Error>, words: &[&str]) {
    let error = outcome.err().expect("the chain is broken");
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::BrokenChain, Code::BrokenDiskChain),
        "{error}"
    );
    for word in words {
        assert!(
            error.to_string().contains(word),
            "`{error}` does not say `{word}`"
        );
    }
}

#[test]
fn a_parent_is_found_in_another_folder_and_after_both_have_moved() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::create_dir_all(old.join("bases")).unwrap();
        let (base, _) = family(&old, shape);
        let moved = old.join("bases/base");
        fs::rename(base, &moved).unwrap();
        let child = old.join("second");
        formats::create_child(&child, &moved, &child_options())
            .unwrap()
            .close()
            .unwrap();
        assert_eq!(open_at(&child).unwrap().layers().count(), 2);
        // The tree as a whole
        fs::rename(&old, &new).unwrap();
        assert_eq!(open_at(&new.join("second")).unwrap().layers().count(), 2);
        // Both files in one folder, as an export leaves them
        fs::rename(new.join("bases/base"), new.join("base")).unwrap();
        assert_eq!(open_at(&new.join("second")).unwrap().layers().count(), 2);
        is_family(&open_at(&new.join("child")).unwrap());
    }
}

#[test]
fn a_caller_may_say_where_the_parent_is() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = family(folder.path(), shape);
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&base, &elsewhere).unwrap();
        broken(open_at(&child), &["child", "base is not there"]);
        let options = with_parents(Parents::At(vec![elsewhere]));
        is_family(&formats::open(&child, &options).unwrap());
    }
}

#[test]
fn a_vhdx_that_was_written_is_no_parent_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (base, child) = family(folder.path(), SHAPES[4]);
    let mut image = formats::open_writable(&base, &OpenOptions::default()).unwrap();
    let before = image.image().info().data_write.unwrap();
    image.write_at(0, &[9]).unwrap();
    let after = image.image().info().data_write.unwrap();
    image.close().unwrap();
    assert_ne!(before, after);
    let (before, after) = (before.to_string(), after.to_string());
    broken(
        open_at(&child),
        &["child", "base", "DataWriteGuid", &before, &after],
    );
}

#[test]
fn opening_for_writing_without_writing_keeps_a_parent_a_parent() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = family(folder.path(), shape);
        let before = fs::read(&base).unwrap();
        formats::open_writable(&base, &OpenOptions::default())
            .unwrap()
            .close()
            .unwrap();
        assert!(
            fs::read(&base).unwrap() == before,
            "{shape:?}: nothing was written"
        );
        is_family(&open_at(&child).unwrap());
    }
}

#[test]
fn another_disk_in_the_parents_place_is_not_believed_and_not_touched() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = family(folder.path(), shape);
        fs::remove_file(&base).unwrap();
        let mut options = shape.options(SIZE);
        options.identifier = Uuid::from_u128(99);
        formats::create(&base, &options).unwrap().close().unwrap();
        let before = fs::read(&base).unwrap();
        broken(open_at(&child), &["child", "base has the"]);
        let merge = formats::merge(&child, &OpenOptions::default());
        assert_eq!(merge.err().unwrap().kind(), Kind::BrokenChain);
        assert!(fs::read(&base).unwrap() == before);
    }
}

#[test]
fn a_parent_of_another_format_or_that_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (base, child) = family(folder.path(), SHAPES[4]);
    write_file(&base, &vec![7; usize_of(MIB)]);
    broken(open_at(&child), &["base cannot be used"]);
    fs::remove_file(&base).unwrap();
    fs::create_dir(&base).unwrap();
    broken(open_at(&child), &["base cannot be used"]);
    fs::remove_dir(&base).unwrap();
    // Opening a pipe would wait for its other end.
    run(Command::new("mkfifo").arg(&base));
    broken(open_at(&child), &["base cannot be used"]);
}

#[test]
fn a_file_that_is_its_own_ancestor_is_refused() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = family(folder.path(), shape);
        fs::remove_file(&base).unwrap();
        // The same file by another name: paths differ, the file does not.
        fs::hard_link(&child, &base).unwrap();
        broken(open_at(&child), &["is its child"]);
    }
}

#[test]
fn a_chain_ends_at_its_limit() {
    let base = CrashDisk::new();
    new_disk(&base, SHAPES[2], 512 * KIB);
    let mut disks = vec![base];
    for _ in 0..128 {
        let options = with_parents(Parents::Ignored);
        let source = disks[0].source("parent");
        let parent = formats::open_sources(source, Vec::new(), &options).unwrap();
        let child = CrashDisk::new();
        new_child(&child, parent.info(), None).unwrap();
        disks.insert(0, child);
    }
    assert_eq!(open(&disks[1..]).unwrap().layers().count(), 128);
    broken(open(&disks), &["128 files"]);
}

#[test]
fn behind_the_end_of_a_smaller_parent_there_are_zeroes() {
    for shape in BASES {
        // Given: a child that is larger than its parent, as after a disk was grown
        let (base, child) = (CrashDisk::new(), CrashDisk::new());
        new_disk(&base, shape, SIZE);
        let mut image = open_writable(std::slice::from_ref(&base)).unwrap();
        image.write_at(0, &vec![1; usize_of(SIZE)]).unwrap();
        let mut parent = image.image().info().clone();
        image.close().unwrap();
        parent.virtual_size = SIZE + 3 * MIB;
        new_child(&child, &parent, None).unwrap();
        let disks = [child, base];
        // When: a sector on each side is written
        let mut image = open_writable(&disks).unwrap();
        image.write_at(SIZE - 512, &[2; 1024]).unwrap();
        image.flush().unwrap();
        // Then: the rest is the parent's before its end and zero behind it
        let found = read_all(&open(&disks).unwrap()).unwrap();
        let end = usize_of(SIZE);
        assert!(found[..end - 512].iter().all(|&byte| byte == 1));
        assert_eq!(found[end - 512..end + 512], [2; 1024]);
        assert!(found[end + 512..].iter().all(|&byte| byte == 0));
        // And: such a child cannot be merged into a parent that has no room for it
        let sources = vec![disks[1].source("base")];
        let merge = formats::Merge::open_sources(disks[0].source("child"), sources, &raw_allowed());
        assert_eq!(merge.err().unwrap().kind(), Kind::Unsupported);
    }
}

#[test]
fn a_child_alone_shows_its_own_sectors_and_says_where_the_others_are() {
    for shape in BASES {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = family(folder.path(), shape);
        fs::remove_file(base).unwrap();
        let image = formats::open(&child, &with_parents(Parents::Ignored)).unwrap();
        let mut sector = [0; 512];
        image.read_at(4096, &mut sector).unwrap();
        assert_eq!(sector, [2; 512]);
        let extents = image.map_top(ByteRange::to(SIZE)).unwrap().extents;
        let extent = |start, end, content| Extent {
            range: ByteRange::new(start, end).unwrap(),
            content,
        };
        let expected = [
            extent(0, 4096, Content::Parent),
            extent(4096, 4608, Content::Data),
            extent(4608, SIZE, Content::Parent),
        ];
        assert_eq!(extents, expected);
        let error = image.read_at(0, &mut sector).unwrap_err();
        assert_eq!(error.kind(), Kind::BrokenChain, "never other data: {error}");
        assert_eq!(
            image.map(ByteRange::to(SIZE)).unwrap_err().kind(),
            Kind::BrokenChain
        );
    }
}

#[test]
fn bits_that_another_program_left_in_a_bitmap_do_not_show_when_a_block_becomes_partial() {
    // Given: a child whose block is the parent's, while all bits of its sectors are set
    let disks = [CrashDisk::new(), CrashDisk::new()];
    new_disk(&disks[1], SHAPES[4], SIZE);
    let mut image = open_writable(&disks[1..]).unwrap();
    image.write_at(0, &vec![1; usize_of(SIZE)]).unwrap();
    let parent = image.image().info().clone();
    image.close().unwrap();
    new_child(&disks[0], &parent, Some(1 << 20)).unwrap();
    let mut image = open_writable(&disks).unwrap();
    image.write_at(0, &vec![2; usize_of(MIB) - 512]).unwrap();
    image.close().unwrap();
    // The block table is at 3 MiB: the first entry is block 0.
    disks[0].write_at(3 * MIB, &[0; 8]).unwrap();
    // When: one sector is written
    let mut image = open_writable(&disks).unwrap();
    image.write_at(512, &[3; 512]).unwrap();
    image.close().unwrap();
    // Then: it alone is the child's
    let found = read_all(&open(&disks).unwrap()).unwrap();
    assert_eq!(found[512..1024], [3; 512]);
    assert!(
        found[..512]
            .iter()
            .chain(&found[1024..])
            .all(|&byte| byte == 1)
    );
}

#[test]
fn a_guest_cannot_make_its_fixed_disk_another_format() {
    // Given: a fixed VHD whose guest has written a whole VHDX, or VHD with a table, to the start of its disk
    for inner in [SHAPES[4], SHAPES[2]] {
        let disk = CrashDisk::new();
        new_disk(&disk, inner, SIZE);
        let mut bytes = disk.bytes();
        bytes.resize(bytes.len().next_multiple_of(usize_of(MIB)), 0);
        let size = u64::try_from(bytes.len()).unwrap();
        bytes.extend(vhd::fixed_footer(size, Uuid::from_u128(1), created()));
        let fixed = [CrashDisk::of(&bytes)];
        // Then: it is not taken for that
        let error = open(&fixed).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        // And: who knows better may say so, where the format itself tells the two apart
        let options = OpenOptions {
            format: Some(Format::Vhd),
            ..OpenOptions::default()
        };
        let known = formats::open_sources(fixed[0].source("known"), Vec::new(), &options);
        assert_eq!(known.is_ok(), inner.format == Format::Vhdx);
    }
}

#[test]
fn what_leaves_the_disk_is_refused_before_anything_is_touched() {
    for shape in SHAPES {
        let disk = [CrashDisk::new()];
        new_disk(&disk[0], shape, SIZE);
        let before = disk[0].bytes();
        let mut image = open_writable(&disk).unwrap();
        for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            let mut buffer = vec![0; len];
            let kind = |outcome: formats::Result<()>| outcome.unwrap_err().kind();
            assert_eq!(kind(image.read_at(offset, &mut buffer)), Kind::OutOfBounds);
            assert_eq!(kind(image.write_at(offset, &buffer)), Kind::OutOfBounds);
        }
        let outside = ByteRange::new(SIZE, SIZE + 1).unwrap();
        assert_eq!(
            image.write_zeroes(outside).unwrap_err().kind(),
            Kind::OutOfBounds
        );
        assert_eq!(
            image.image().map(outside).unwrap_err().kind(),
            Kind::OutOfBounds
        );
        image.read_at(SIZE, &mut []).unwrap();
        image.write_at(SIZE, &[]).unwrap();
        image.close().unwrap();
        assert!(disk[0].bytes() == before);
    }
}

#[test]
fn a_new_image_never_takes_the_place_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    write_file(&path, b"precious");
    for shape in SHAPES {
        assert!(formats::create(&path, &shape.options(SIZE)).is_err());
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}
