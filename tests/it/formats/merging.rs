//! Merging a child into its parent, offline and while the disk is in use.

use std::path::{Path, PathBuf};

use site_recovery::formats::create::ChildOptions;
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, Kind, Merge, OpenOptions};
use site_recovery::lab::tools::debian;
use site_recovery::units::ByteRange;
use uuid::Uuid;

use crate::formats::support::{
    MIB, Numbers, SHAPES, Shape, assert_same, created, read_all, usize_of,
};
use crate::outside::{run, tool};

const SIZE: u64 = 20 * MIB;

/// A chain of three files and what the disk holds; the top first.
fn chain(folder: &tempfile::TempDir, shape: Shape) -> (Vec<PathBuf>, Vec<u8>) {
    let mut content = vec![0; usize_of(SIZE)];
    let mut numbers = Numbers(11);
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in ["base", "middle", "top"] {
        let path = folder.path().join(name);
        let mut image = match paths.first() {
            None => formats::create(&path, &shape.options(SIZE)).unwrap(),
            Some(parent) => {
                let options = ChildOptions {
                    block_size: None,
                    identifier: Uuid::new_v4(),
                    created: created(),
                };
                formats::create_child(&path, parent, &options).unwrap()
            }
        };
        for _ in 0..12 {
            let at = numbers.below(SIZE - 3 * MIB);
            let len = usize_of(1 + numbers.below(2 * MIB));
            let bytes = numbers.bytes(len);
            image.write_at(at, &bytes).unwrap();
            content[usize_of(at)..][..len].copy_from_slice(&bytes);
        }
        let zero = ByteRange::at(numbers.below(SIZE - 4 * MIB), 3 * MIB).unwrap();
        image.write_zeroes(zero).unwrap();
        content[usize_of(zero.start())..usize_of(zero.end())].fill(0);
        image.close().unwrap();
        paths.insert(0, path);
    }
    (paths, content)
}

fn content_of(path: &Path) -> Vec<u8> {
    read_all(&formats::open(path, &OpenOptions::default()).unwrap()).unwrap()
}

#[test]
fn merged_offline_the_parent_is_the_whole_disk() {
    for shape in SHAPES.into_iter().filter(|shape| shape.has_children()) {
        let folder = tempfile::tempdir().unwrap();
        let (paths, content) = chain(&folder, shape);
        for (child, parent) in paths.iter().zip(&paths[1..]) {
            formats::merge(child, &OpenOptions::default()).unwrap();
            assert_same(&content_of(child), &content, "the child, still there");
            std::fs::remove_file(child).unwrap();
            assert_same(&content_of(parent), &content, "the parent");
        }
        if shape.format == Format::Vhdx && shape.sector == 512 {
            run(tool("qemu-img", debian::QEMU_UTILS)
                .args(["check", "-f", "vhdx"])
                .arg(&paths[2]));
        }
    }
}

#[test]
fn while_merging_both_ids_of_the_parent_are_recorded_before_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (paths, content) = chain(&folder, SHAPES[4]);
    let id = |path: &PathBuf| {
        let image = formats::open(path, &OpenOptions::default()).unwrap();
        image.info().data_write.unwrap()
    };
    let before = id(&paths[1]);
    // Given up in the middle, twice: the chain opens, and its links are the parent's ids
    for _ in 0..2 {
        let mut merge = Merge::open(&paths[0], &OpenOptions::default()).unwrap();
        merge.copy(ByteRange::to(9 * MIB)).unwrap();
        merge
            .write_at(4 * MIB + 1, &content[usize_of(4 * MIB) + 1..][..1000])
            .unwrap();
        merge.close().unwrap();
        let image = formats::open(&paths[0], &OpenOptions::default()).unwrap();
        let links = &image.info().parent.as_ref().unwrap().linkage;
        assert_eq!(links.len(), 2);
        assert_eq!(
            links[1],
            id(&paths[1]),
            "the parent has the id that was announced"
        );
        assert_ne!(links[1], before);
        assert_same(&read_all(&image).unwrap(), &content, "given up");
    }
    formats::merge(&paths[0], &OpenOptions::default()).unwrap();
    assert_same(&content_of(&paths[1]), &content, "begun again");
}

#[test]
fn a_guest_sees_one_disk_before_during_and_after() {
    for shape in [SHAPES[2], SHAPES[4], SHAPES[6]] {
        let folder = tempfile::tempdir().unwrap();
        let (paths, mut content) = chain(&folder, shape);
        let mut merge = Merge::open(&paths[0], &OpenOptions::default()).unwrap();
        let mut numbers = Numbers(2);
        let mut done = 0;
        while done < SIZE {
            done = merge.copy(ByteRange::new(done, SIZE).unwrap()).unwrap();
            let at = numbers.below(SIZE - 10_000);
            let bytes = numbers.bytes(9_999);
            merge.write_at(at, &bytes).unwrap();
            content[usize_of(at)..][..9_999].copy_from_slice(&bytes);
            let zero = ByteRange::at(numbers.below(SIZE - MIB), 300_000).unwrap();
            merge.write_zeroes(zero).unwrap();
            content[usize_of(zero.start())..usize_of(zero.end())].fill(0);
            merge.flush().unwrap();
        }
        let mut image = merge.finish().unwrap();
        assert_same(&read_all(image.image()).unwrap(), &content, "after");
        image.write_at(0, b"goes on").unwrap();
        content[..7].copy_from_slice(b"goes on");
        image.close().unwrap();
        assert_same(&content_of(&paths[1]), &content, "opened again");
    }
}

#[test]
fn a_disk_without_a_parent_cannot_be_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alone");
    formats::create(&path, &SHAPES[4].options(SIZE))
        .unwrap()
        .close()
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = formats::merge(&path, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(std::fs::read(&path).unwrap() == before);
}
