//! What must hold for every virtual disk image that opens: VHD and VHDX, alone and in chains, for reading and writing.
//!
//! - An error names its file, is short, and is never the operating system's: memory does not fail.
//! - The same files open twice to the same disk, and reading changes none of them.
//! - A map covers the disk; its zeroes read as zeroes; reads in two parts are the read of the whole.
//! - A disk whose chain is complete reads everywhere: what opening has checked, reading can rely on.
//! - What is written reads back at once and after opening again; nothing beside it changes, and no parent does.
//! - A file that does not open for writing is as it was.

use std::sync::Arc;

use site_recovery::formats::extent::{Content, Extents};
use site_recovery::formats::info::{DiskKind, Format, ImageInfo};
use site_recovery::formats::{
    Error, Image, Kind, OpenOptions, Result, WritableImage, open_sources, open_sources_writable,
};
use site_recovery::report;
use site_recovery::units::{ByteRange, KIB, MIB, SECTOR, to_usize};

use super::input::Input;
use super::mend;
use super::sparse::{self, Open, Sparse};

/// Changes that one input makes to a disk.
const CHANGES_MAX: usize = 8;
/// The most bytes that one change writes, and the most zeroes.
const WRITE_MAX: u64 = 6000;
const ZEROES_MAX: u64 = 3 * MIB;
/// Bytes beside a change that are watched.
const BESIDE: u64 = 700;
/// Extents that are read, of each map, from its start and from its end.
const EXTENTS_READ: usize = 8;
/// Bytes that an error may have: it becomes a condition of a Kubernetes object, and a line of a log.
const SAID_MAX: usize = 4096;

/// The target `vhd`.
pub fn vhd(input: &[u8]) {
    run(input, Format::Vhd, mend::vhd);
}

/// The target `vhdx`.
pub fn vhdx(input: &[u8]) {
    run(input, Format::Vhdx, mend::vhdx);
}

fn run(bytes: &[u8], format: Format, mend: fn(&mut Sparse)) {
    let mut input = Input::new(bytes);
    let files = sparse::decode(&mut input);
    let mut mended = files.clone();
    mended.iter_mut().for_each(mend);
    check(&files, format, &input);
    if mended != files {
        check(&mended, format, &input);
    }
}

/// Checks the chain; if it is none, its child alone.
fn check(files: &[Sparse], format: Format, input: &Input<'_>) {
    let case = Case { files, format };
    if !case.check(input) && files.len() > 1 {
        let alone = Case {
            files: &files[..1],
            ..case
        };
        alone.check(input);
    }
}

/// Files, the child first, and what they are taken for.
#[derive(Clone, Copy)]
struct Case<'a> {
    files: &'a [Sparse],
    format: Format,
}

impl Case<'_> {
    fn options(self) -> OpenOptions {
        OpenOptions {
            format: Some(self.format),
            ..OpenOptions::default()
        }
    }

    /// Checks all that must hold; whether the files open.
    fn check(self, input: &Input<'_>) -> bool {
        let chain = Chain::new(self.files);
        let opened = chain.open(&self.options());
        let disk = opened.as_ref().ok().map(|image| Disk::of(image, &chain));
        if let Err(error) = &opened {
            judge(error, &chain);
        }
        if let (Ok(image), Some(disk)) = (&opened, &disk) {
            check_infos(image, self.files);
            disk.check_map(image, &chain);
            disk.check_reads(image, &chain, input.clone());
            self.check_again(image, disk);
        }
        assert!(chain.unchanged(self.files, 0), "reading has changed a file");
        self.check_writing(disk.as_ref(), input.clone());
        opened.is_ok()
    }

    /// Opens once more, and as the format that the files are found to be.
    fn check_again(self, image: &Image, disk: &Disk) {
        let infos = |image: &Image| image.layers().cloned().collect::<Vec<ImageInfo>>();
        let chain = Chain::new(self.files);
        let again = chain.open(&self.options());
        let again = again.expect("what opened once opens again");
        assert_eq!(infos(&again), infos(image));
        let window = disk.range(0, 4 * KIB);
        let (first, second) = (read(image, window), read(&again, window));
        assert_eq!(first.ok(), second.ok(), "two openings read differently");
        let found = Chain::new(self.files).open(&OpenOptions::default());
        if let Ok(found) = found
            && found.info().format == self.format
        {
            assert_eq!(infos(&found), infos(image));
        }
    }

    /// Opens for writing, changes the disk, and looks at it again. `disk` is what opened for reading.
    fn check_writing(self, disk: Option<&Disk>, mut input: Input<'_>) {
        let chain = Chain::new(self.files);
        let image = match chain.open_writable(&self.options()) {
            Ok(image) => image,
            Err(error) => {
                judge(&error, &chain);
                let unchanged = chain.exhausted() || chain.unchanged(self.files, 0);
                assert!(unchanged, "not opened for writing, but changed: {error}");
                return;
            }
        };
        let disk = disk.expect("what opens for writing opens for reading");
        let changes = Change::decode(&mut input, disk.size);
        // What the disk held before, as a reader saw it.
        let reader = Chain::new(self.files);
        let before = reader.open(&self.options());
        let before = before.expect("what opened once opens again");
        let Some(shadow) = Shadow::of(&before, disk, &reader, &changes) else {
            return;
        };
        let written = write(image, &chain, &self.options(), shadow, &changes);
        assert!(chain.unchanged(self.files, 1), "a parent has changed");
        if let Err(error) = written {
            judge(&error, &chain);
            let expected = match error.kind() {
                Kind::TooLarge => true,
                Kind::BrokenChain => !disk.complete,
                Kind::Io => chain.exhausted(),
                _ => false,
            };
            assert!(
                expected,
                "a disk that was checked cannot be written: {error}"
            );
        }
    }
}

/// The open files of a chain, the child's first.
struct Chain {
    files: Vec<Arc<Open>>,
}

impl Chain {
    fn new(files: &[Sparse]) -> Self {
        Chain {
            files: files.iter().map(Open::new).collect(),
        }
    }

    fn open(&self, options: &OpenOptions) -> Result<Image> {
        let mut sources = self.files.iter().map(|file| file.source("input"));
        let top = sources.next().expect("an input has a file");
        open_sources(top, sources.collect(), options)
    }

    fn open_writable(&self, options: &OpenOptions) -> Result<WritableImage> {
        let mut sources = self.files.iter().map(|file| file.source("input"));
        let top = sources.next().expect("an input has a file");
        open_sources_writable(top, sources.collect(), options)
    }

    fn exhausted(&self) -> bool {
        self.files.iter().any(|file| file.exhausted())
    }

    /// Whether the files from the one of number `first` on are as they were.
    fn unchanged(&self, before: &[Sparse], first: usize) -> bool {
        let now = self.files.iter().map(|file| file.file());
        now.zip(before)
            .skip(first)
            .all(|(now, before)| now.same(before))
    }
}

/// An error must say what it is about, briefly, and be one of ours.
fn judge(error: &Error, chain: &Chain) {
    let said = report::chain(error);
    assert!(!error.path().as_os_str().is_empty(), "no file: {said}");
    assert!(said.len() <= SAID_MAX, "{} bytes: {said}", said.len());
    match error.kind() {
        Kind::Io => assert!(chain.exhausted(), "memory does not fail: {said}"),
        Kind::NotFound | Kind::Denied | Kind::DiskFull | Kind::OutOfBounds => {
            panic!("nobody asked for this: {said}")
        }
        Kind::Truncated
        | Kind::Checksum
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::BrokenChain
        | Kind::TooLarge => {}
    }
}

fn check_infos(image: &Image, files: &[Sparse]) {
    for (info, file) in image.layers().zip(files) {
        let (size, sector) = (info.virtual_size, u64::from(info.logical_sector));
        assert!(size > 0 && size.is_multiple_of(SECTOR), "{info:?}");
        assert!(sector == 512 || sector == 4096, "{info:?}");
        assert_eq!(info.parent.is_some(), info.kind == DiskKind::Differencing);
        assert!(info.linkage().is_some(), "{info:?}");
        let block = info.block_size.map_or(SECTOR, u64::from);
        assert!(info.allocated <= size.next_multiple_of(block), "{info:?}");
        // Blocks do not overlap and lie in the file; only the disk's last may end behind it. A log may make it longer.
        if !info.log_replayed {
            assert!(info.allocated <= file.size() + block, "{info:?}");
        }
    }
}

/// An open disk, as far as checks must know it.
struct Disk {
    size: u64,
    /// Whether all parents are there.
    complete: bool,
}

impl Disk {
    fn of(image: &Image, chain: &Chain) -> Self {
        let layers = image.layers();
        let last = layers.last().map(|info| info.kind);
        assert_eq!(image.layers().count(), chain.files.len());
        Disk {
            size: image.size(),
            complete: last != Some(DiskKind::Differencing),
        }
    }

    /// The part of `len` bytes from `start` that lies in the disk.
    fn range(&self, start: u64, len: u64) -> ByteRange {
        let start = start.min(self.size);
        let end = start.saturating_add(len).min(self.size);
        ByteRange::new(start, end).expect("both ends are in the disk")
    }

    /// The answer, where one must be given: a disk may only not be readable if its parent is missing.
    fn answer<T>(&self, answer: Result<T>, chain: &Chain) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                judge(&error, chain);
                let orphan = error.kind() == Kind::BrokenChain && !self.complete;
                assert!(orphan || chain.exhausted(), "it opened, but: {error}");
                None
            }
        }
    }

    /// Maps the start and the end of the disk, and reads what the map speaks of.
    fn check_map(&self, image: &Image, chain: &Chain) {
        let tail = self.size.saturating_sub(64 * MIB);
        for start in [0, tail] {
            let window = self.range(start, self.size);
            let Some(map) = self.answer(image.map(window), chain) else {
                continue;
            };
            check_extents(&map, window);
            if image.layers().count() == 1 && self.complete {
                let top = self.answer(image.map_top(window), chain);
                assert!(top.is_none_or(|top| top == map), "one layer, two maps");
            }
            let count = map.extents.len();
            let ends = map.extents.iter().enumerate();
            let ends = ends.filter(|(at, _)| *at < EXTENTS_READ || *at + EXTENTS_READ >= count);
            for (_, extent) in ends {
                let (start, end) = (extent.range.start(), extent.range.end());
                for part in [start, end.saturating_sub(SECTOR).max(start)] {
                    let part = self.range(part, SECTOR.min(end - part));
                    if let Some(bytes) = self.answer(read(image, part), chain) {
                        let zero = bytes.iter().all(|&byte| byte == 0);
                        assert!(zero || extent.content == Content::Data, "{extent:?}");
                    }
                }
            }
        }
    }

    /// Reads where the input says, as a whole and in two parts; and behind the end.
    fn check_reads(&self, image: &Image, chain: &Chain, mut input: Input<'_>) {
        for _ in 0..3 {
            let window = self.range(input.below(self.size), input.below(64 * KIB) + 1);
            let (first, second) = window.split_at(input.below(window.len()));
            let parts = [window, first, second].map(|part| self.answer(read(image, part), chain));
            if let [Some(whole), Some(first), Some(second)] = parts {
                assert_eq!(whole, [first, second].concat(), "{window}");
            }
        }
        for (start, len) in [(self.size, 1), (self.size - 1, 2), (u64::MAX, 1)] {
            let error = image.read_at(start, &mut vec![0; len]);
            assert_eq!(error.map_err(|e| e.kind()), Err(Kind::OutOfBounds));
        }
    }
}

fn check_extents(map: &Extents, window: ByteRange) {
    let mut at = window.start();
    let mut before = None;
    for extent in &map.extents {
        assert_eq!(extent.range.start(), at, "a gap");
        assert!(!extent.range.is_empty(), "an empty extent");
        assert_ne!(Some(extent.content), before, "two extents are one");
        (at, before) = (extent.range.end(), Some(extent.content));
    }
    assert_eq!(at, map.covered);
    assert!(map.covered > window.start() || window.is_empty());
    assert!(map.covered <= window.end());
}

fn read(image: &Image, range: ByteRange) -> Result<Vec<u8>> {
    let mut bytes = vec![0xee; to_usize(range.len())];
    image.read_at(range.start(), &mut bytes)?;
    Ok(bytes)
}

/// One change of a disk.
#[derive(Clone, Copy, Debug)]
enum Change {
    Write {
        range: ByteRange,
        fill: u8,
    },
    Zero {
        range: ByteRange,
    },
    Flush,
    /// Flushes, and opens the files again as a crash would leave them.
    Reopen,
}

impl Change {
    fn decode(input: &mut Input<'_>, size: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while !input.is_empty() && changes.len() < CHANGES_MAX {
            let kind = input.u8();
            let unit = [1, SECTOR, 4 * KIB, MIB][usize::from(kind >> 2 & 3)];
            let start = input.below(size) / unit * unit;
            let range = |most: u64, len: u64| {
                let end = start.saturating_add(len % most + 1).min(size);
                ByteRange::new(start, end).expect("the start is in the disk")
            };
            let len = input.below(ZEROES_MAX);
            changes.push(match kind & 3 {
                0 => Change::Write {
                    range: range(WRITE_MAX, len),
                    fill: kind | 1,
                },
                1 => Change::Zero {
                    range: range(ZEROES_MAX, len),
                },
                2 => Change::Flush,
                _ => Change::Reopen,
            });
        }
        changes
    }

    /// The bytes that it changes, and what they are then.
    const fn effect(self) -> Option<(ByteRange, u8)> {
        match self {
            Change::Write { range, fill } => Some((range, fill)),
            Change::Zero { range } => Some((range, 0)),
            Change::Flush | Change::Reopen => None,
        }
    }
}

/// What parts of a disk must hold: those that changes begin and end in, and some bytes beside.
struct Shadow {
    parts: Vec<(ByteRange, Vec<u8>)>,
}

impl Shadow {
    /// What `image` holds now; nothing if some of it is a missing parent's.
    fn of(image: &Image, disk: &Disk, chain: &Chain, changes: &[Change]) -> Option<Self> {
        let mut parts = Vec::new();
        for (range, _) in changes.iter().filter_map(|change| change.effect()) {
            for edge in [range.start(), range.end()] {
                let part = disk.range(edge.saturating_sub(BESIDE), WRITE_MAX + BESIDE);
                parts.push((part, disk.answer(read(image, part), chain)?));
            }
        }
        Some(Shadow { parts })
    }

    fn change(&mut self, range: ByteRange, fill: u8) {
        for (part, bytes) in &mut self.parts {
            let changed = part.intersect(range);
            let at = |offset: u64| to_usize(offset - part.start());
            bytes[at(changed.start())..at(changed.end())].fill(fill);
        }
    }

    fn compare(&self, image: &Image, when: &str) -> Result<()> {
        for (part, expected) in &self.parts {
            let found = read(image, *part)?;
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{part} differs there, {when}");
        }
        Ok(())
    }
}

/// Makes the changes, and compares after each, and when all is closed and opened again.
fn write(
    mut image: WritableImage,
    chain: &Chain,
    options: &OpenOptions,
    mut shadow: Shadow,
    changes: &[Change],
) -> Result<()> {
    shadow.compare(image.image(), "when it was opened for writing")?;
    for change in changes {
        match *change {
            Change::Write { range, fill } => {
                image.write_at(range.start(), &vec![fill; to_usize(range.len())])?;
            }
            Change::Zero { range } => image.write_zeroes(range)?,
            Change::Flush => image.flush()?,
            Change::Reopen => {
                image.flush()?;
                drop(image);
                image = chain.open_writable(options)?;
            }
        }
        if let Some((range, fill)) = change.effect() {
            shadow.change(range, fill);
        }
        shadow.compare(image.image(), &format!("after {change:?}"))?;
    }
    let allocated = image.image().info().allocated;
    image.close()?;
    let again = chain.open(options)?;
    assert_eq!(again.info().allocated, allocated);
    assert!(!again.info().log_replayed, "closing leaves no log");
    shadow.compare(&again, "when it was closed and opened again")
}
