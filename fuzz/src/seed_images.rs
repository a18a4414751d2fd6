//! Seeds of the targets `vhd` and `vhdx`: images that the library has written, and such images broken by hand.
//!
//! The library draws GUIDs at random. Here they are replaced by numbered ones, so that the same seeds come out each time.

use std::sync::Arc;

use jiff::Timestamp;
use site_recovery::formats::create::{
    Allocation, ChildOptions, CreateOptions, NewParent, create_child_on, create_on,
};
use site_recovery::formats::info::{Format, ImageInfo, PathKind, RecordedPath};
use site_recovery::formats::{OpenOptions, WritableImage, open_sources, open_sources_writable};
use site_recovery::units::{ByteRange, KIB, MIB};
use uuid::Uuid;

use super::mend;
use super::sparse::{self, Open, Sparse};

/// A seed's name and bytes.
type Named = (&'static str, Vec<u8>);

/// Seeds of the target `vhd`.
pub fn vhd() -> Vec<Named> {
    let fixed = Maker::vhd(Allocation::Fixed, 8 * KIB).base(|disk| disk.write_at(700, b"fixed"));
    let maker = Maker::vhd(Allocation::Dynamic, 1200 * KIB);
    let dynamic = maker.base(|disk| disk.write_at(512 * KIB - 3, b"over two blocks"));
    let child = maker.child(&[&dynamic], |disk| disk.write_at(1024, b"of the child"));
    let grandchild = maker.child(&[&child, &dynamic], |disk| {
        disk.write_zeroes(ByteRange::at(MIB, 4096).expect("in the disk"))
    });
    let entry = |number: u64| 1536 + 4 * number;
    vec![
        ("fixed", input(&[&fixed])),
        ("dynamic", input(&[&dynamic])),
        ("child", input(&[&child, &dynamic])),
        ("grandchild", input(&[&grandchild, &child, &dynamic])),
        ("orphan", input(&[&child])),
        ("wrong-parent", input(&[&child, &fixed])),
        ("own-parent", input(&[&child, &child])),
        ("no-closing-footer", input(&[&cut(&dynamic, 512)])),
        ("cut-in-the-table", input(&[&resized(&dynamic, 1540)])),
        ("no-footer-copy", input(&[&patched(&dynamic, 0, &[0; 512])])),
        ("torn-copy", input(&[&patched(&dynamic, 100, b"torn")])),
        (
            "block-twice",
            input(&[&copied(&dynamic, entry(0), entry(1), 4)]),
        ),
        (
            "block-over-header",
            input(&[&patched(&dynamic, entry(0), &[0, 0, 0, 1])]),
        ),
        (
            "block-behind-end",
            input(&[&patched(&dynamic, entry(2), &[0, 0xff, 0, 0])]),
        ),
        (
            "last-sector-there-is",
            input(&[&patched(&dynamic, entry(2), &[0xff, 0xff, 0xff, 0xfe])]),
        ),
        ("two-terabytes", input(&[&sized(&dynamic, 2040 << 30)])),
        ("no-sector", input(&[&sized(&dynamic, 0)])),
        (
            "table-over-header",
            input(&[&patched(&dynamic, 512 + 16, &512_u64.to_be_bytes())]),
        ),
        (
            "table-beyond",
            input(&[&patched(&dynamic, 512 + 16, &(u64::MAX << 9).to_be_bytes())]),
        ),
        (
            "small-blocks",
            input(&[&patched(&dynamic, 512 + 32, &512_u32.to_be_bytes())]),
        ),
        (
            "long-path",
            input(&[&patched(&child, 512 + 576 + 8, &[0xff; 4]), &dynamic]),
        ),
        (
            "path-over-table",
            input(&[
                &patched(&child, 512 + 576 + 16, &1536_u64.to_be_bytes()),
                &dynamic,
            ]),
        ),
        ("both-formats", input(&[&patched(&fixed, 0, b"vhdxfile")])),
        ("both-kinds", input(&[&patched_from(&fixed, &dynamic, 512)])),
    ]
}

/// Seeds of the target `vhdx`.
#[expect(
    clippy::too_many_lines,
    reason = "a list of seeds is read line by line"
)]
pub fn vhdx() -> Vec<Named> {
    let maker = Maker::vhdx(Allocation::Dynamic, 3 * MIB + 4 * KIB);
    let dynamic = maker.base(|disk| disk.write_at(MIB - 3, b"over two blocks"));
    let empty = maker.base(|_| Ok(()));
    let fixed = Maker::vhdx(Allocation::Fixed, MIB).base(|disk| disk.write_at(700, b"fixed"));
    let large = Maker {
        sector: 4096,
        ..maker
    };
    let large = large.base(|disk| disk.write_at(4096, b"large sectors"));
    let child = maker.child(&[&dynamic], |disk| disk.write_at(1024, b"of the child"));
    let grandchild = maker.child(&[&child, &dynamic], |disk| {
        disk.write_zeroes(ByteRange::at(MIB, 4096).expect("in the disk"))
    });
    let dirty = maker.dirty(&[&child, &dynamic]);
    let (headers, table, items, blocks) = (64 * KIB, 2 * MIB, 2 * MIB + 64 * KIB, 3 * MIB);
    let both = |file: &Sparse, at: u64, bytes: &[u8]| {
        patched(&patched(file, headers + at, bytes), 2 * headers + at, bytes)
    };
    let regions = |file: &Sparse, at: u64, bytes: &[u8]| {
        patched(&patched(file, 192 * KIB + at, bytes), 256 * KIB + at, bytes)
    };
    vec![
        ("dynamic", input(&[&dynamic])),
        ("empty", input(&[&empty])),
        ("fixed", input(&[&fixed])),
        ("large-sectors", input(&[&large])),
        ("child", input(&[&child, &dynamic])),
        ("grandchild", input(&[&grandchild, &child, &dynamic])),
        ("dirty", input(&[&dirty, &dynamic])),
        ("orphan", input(&[&child])),
        ("wrong-parent", input(&[&child, &fixed])),
        ("own-parent", input(&[&child, &child])),
        (
            "torn-header",
            input(&[&patched(&dynamic, headers + 100, b"torn")]),
        ),
        (
            "log-at-the-end",
            input(&[&both(&dirty, 72, &(u64::MAX << 20).to_le_bytes()), &dynamic]),
        ),
        (
            "log-of-64-mib",
            input(&[&both(&dirty, 68, &(64_u32 << 20).to_le_bytes()), &dynamic]),
        ),
        (
            "log-of-another",
            input(&[&both(&dirty, 48, &[7; 16]), &dynamic]),
        ),
        (
            "log-over-headers",
            input(&[&patched(&dirty, MIB + 64 + 16, &[0; 8]), &dynamic]),
        ),
        (
            "log-beyond",
            input(&[&patched(&dirty, MIB + 56, &[0xff; 8]), &dynamic]),
        ),
        ("log-that-zeroes", input(&[&zeroing(&dirty), &dynamic])),
        ("last-sequence", input(&[&both(&dynamic, 8, &[0xff; 8])])),
        (
            "regions-overlap",
            input(&[&regions(&dynamic, 16 + 16, &table.to_le_bytes())]),
        ),
        (
            "region-beyond",
            input(&[&regions(&dynamic, 16 + 16, &(72_u64 << 40).to_le_bytes())]),
        ),
        ("no-region", input(&[&regions(&dynamic, 8, &[1])])),
        ("many-regions", input(&[&regions(&dynamic, 8, &[0xff; 4])])),
        (
            "item-twice",
            input(&[&copied(&dynamic, table + 32, table + 64, 16)]),
        ),
        (
            "item-outside",
            input(&[&patched(&dynamic, table + 32 + 16, &[0xff; 4])]),
        ),
        (
            "largest-disk",
            input(&[&patched(&dynamic, items + 8, &(64_u64 << 40).to_le_bytes())]),
        ),
        (
            "odd-blocks",
            input(&[&patched(&dynamic, items, &3_u32.to_le_bytes())]),
        ),
        (
            "block-twice",
            input(&[&copied(&dynamic, blocks, blocks + 16, 8)]),
        ),
        ("reserved-state", input(&[&patched(&dynamic, blocks, &[4])])),
        ("unmapped", input(&[&patched(&dynamic, blocks, &[3])])),
        (
            "no-bitmap",
            input(&[&patched(&child, blocks + 4096 * 8, &[0; 8]), &dynamic]),
        ),
        ("cut-in-the-table", input(&[&resized(&empty, blocks + 40)])),
        ("cut-in-a-block", input(&[&cut(&dynamic, 4096)])),
    ]
}

/// How seeds are made.
#[derive(Clone, Copy)]
struct Maker {
    format: Format,
    allocation: Allocation,
    size: u64,
    sector: u32,
    block: u32,
}

impl Maker {
    const fn vhd(allocation: Allocation, size: u64) -> Self {
        Maker {
            format: Format::Vhd,
            allocation,
            size,
            sector: 512,
            block: 512 << 10,
        }
    }

    const fn vhdx(allocation: Allocation, size: u64) -> Self {
        Maker {
            format: Format::Vhdx,
            allocation,
            size,
            sector: 512,
            block: 1 << 20,
        }
    }

    fn created() -> Timestamp {
        Timestamp::from_second(1_790_000_000).expect("a time of this century")
    }

    /// An image that `change` was made to.
    fn base(self, change: impl FnOnce(&mut WritableImage) -> Result) -> Sparse {
        let id = Uuid::from_u128(0xd15c);
        let options =
            CreateOptions::new(self.format, self.allocation, self.size, id, Self::created());
        let options = CreateOptions {
            logical_sector: self.sector,
            block_size: Some(self.block),
            ..options
        };
        let file = Open::new(&Sparse::default());
        create_on(&file.source("seed"), &options).expect("the options are legal");
        self.changed(&file, &[], 1, change)
    }

    /// A child of the first of `parents`, that `change` was made to.
    fn child(
        self,
        parents: &[&Sparse],
        change: impl FnOnce(&mut WritableImage) -> Result,
    ) -> Sparse {
        let number = 0x10 * u128::try_from(parents.len()).expect("a few parents");
        let parent = self.info(parents);
        let new_parent = NewParent {
            linkage: parent.linkage().expect("both formats have ids"),
            modified: Self::created(),
            paths: vec![RecordedPath {
                kind: PathKind::Relative,
                text: ".\\parent".to_owned(),
            }],
        };
        let options = ChildOptions {
            block_size: Some(self.block),
            identifier: Uuid::from_u128(0xd15c + number),
            created: Self::created(),
        };
        let file = Open::new(&Sparse::default());
        create_child_on(&file.source("seed"), &parent, &new_parent, &options)
            .expect("the options are legal");
        self.changed(&file, parents, number, change)
    }

    /// The first of `files`, with a change in its log that is nowhere else.
    fn dirty(self, files: &[&Sparse]) -> Sparse {
        let file = Open::new(files[0]);
        let mut image = self.open(&file, &files[1..]);
        for at in [2 * MIB + 512, MIB] {
            image.write_at(at, b"in the log").expect("in the disk");
        }
        image.flush().expect("memory");
        drop(image);
        // The tables as they were: all that changed is in the log.
        let (mut dirty, log) = (file.file(), ByteRange::at(MIB, MIB).expect("small numbers"));
        let before = files[0].get(3 * MIB, 64 << 10);
        dirty.put(3 * MIB, &before);
        assert_ne!(dirty.get(log.start(), 4), [0; 4], "there is a log");
        numbered(dirty, 0x100)
    }

    fn changed(
        self,
        file: &Arc<Open>,
        parents: &[&Sparse],
        number: u128,
        change: impl FnOnce(&mut WritableImage) -> Result,
    ) -> Sparse {
        let mut image = self.open(file, parents);
        change(&mut image).expect("the change is in the disk");
        image.close().expect("memory");
        match self.format {
            Format::Vhdx => numbered(file.file(), number),
            Format::Vhd | Format::Raw => file.file(),
        }
    }

    fn open(self, file: &Arc<Open>, parents: &[&Sparse]) -> WritableImage {
        let parents = parents
            .iter()
            .map(|parent| Open::new(parent).source("parent"));
        let options = OpenOptions::default();
        open_sources_writable(file.source("seed"), parents.collect(), &options)
            .expect("what was made opens")
    }

    fn info(self, files: &[&Sparse]) -> ImageInfo {
        let mut sources = files.iter().map(|file| Open::new(file).source("parent"));
        let top = sources.next().expect("there is a parent");
        let image = open_sources(top, sources.collect(), &OpenOptions::default());
        image.expect("what was made opens").info().clone()
    }
}

type Result = site_recovery::formats::Result<()>;

/// A VHDX whose random GUIDs are replaced by numbered ones, in the headers and wherever the log repeats them.
fn numbered(mut file: Sparse, number: u128) -> Sparse {
    let mut guids: Vec<Vec<u8>> = Vec::new();
    for header in [64 * KIB, 128 * KIB] {
        for field in [16, 32, 48] {
            let guid = file.get(header + field, 16);
            if guid != [0; 16] && !guids.contains(&guid) {
                guids.push(guid);
            }
        }
    }
    let sectors = || (0..256).map(|sector| MIB + 4096 * sector);
    // A closed file's headers name no log any more, its old entries still do.
    for entry in sectors().filter(|entry| file.get(*entry, 4) == b"loge") {
        let guid = file.get(entry + 32, 16);
        if !guids.contains(&guid) {
            guids.push(guid);
        }
    }
    for place in [64 * KIB, 128 * KIB].into_iter().chain(sectors()) {
        for (guid, more) in guids.iter().zip(1..) {
            for field in [16, 32, 48] {
                if file.get(place + field, 16) == *guid {
                    let new = Uuid::from_u128(number << 64 | more);
                    file.put(place + field, &new.to_bytes_le());
                }
            }
        }
    }
    mend::vhdx(&mut file);
    file
}

/// The input of these files, with some reads and changes.
fn input(files: &[&Sparse]) -> Vec<u8> {
    let files: Vec<Sparse> = files.iter().copied().cloned().collect();
    let mut changes = Vec::new();
    for (kind, start, len) in [
        (4, 0, 600),
        (2, 0, 0),
        (0, MIB - 5, 4000),
        (3, 0, 0),
        (1, 600 * KIB, MIB),
    ] {
        changes.push(kind);
        changes.extend(u64::to_le_bytes(start));
        changes.extend(u64::to_le_bytes(len));
    }
    sparse::encode(&files, &changes)
}

fn patched(file: &Sparse, at: u64, bytes: &[u8]) -> Sparse {
    let mut file = file.clone();
    file.put(at, bytes);
    file
}

/// The first `len` bytes of `other` over those of `file`.
fn patched_from(file: &Sparse, other: &Sparse, len: usize) -> Sparse {
    patched(file, 0, &other.get(0, len))
}

fn copied(file: &Sparse, from: u64, to: u64, len: usize) -> Sparse {
    patched(file, to, &file.get(from, len))
}

fn resized(file: &Sparse, size: u64) -> Sparse {
    let mut file = file.clone();
    file.resize(size);
    file
}

fn cut(file: &Sparse, len: u64) -> Sparse {
    resized(file, file.size() - len)
}

/// A VHD whose footers say another size of the disk.
fn sized(file: &Sparse, size: u64) -> Sparse {
    let last = file.size() - 512;
    patched(
        &patched(file, 48, &size.to_be_bytes()),
        last + 48,
        &size.to_be_bytes(),
    )
}

/// A VHDX whose log zeroes what it would have written.
fn zeroing(file: &Sparse) -> Sparse {
    patched(
        &patched(file, MIB + 64, b"zero\0\0\0\0"),
        MIB + 64 + 8,
        &4096_u64.to_le_bytes(),
    )
}
