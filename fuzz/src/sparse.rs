//! Files that are mostly zeroes, as an input says them; and such a file for the parsers, with a budget.
//!
//! ```text
//! 0   number of files, less one (of its two lowest bits); then each file:
//!       size u64 │ pieces u16 │ each piece: offset u64 │ length u16 │ bytes
//!     what follows the files: what the target does with them
//! ```
//! Little-endian. A VHDX has four MiB at least, most of it zeroes: as an input it has two KiB. A later piece lies over an
//! earlier one; what lies behind the file's end is left out.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use site_recovery::formats::file::ImageFile;
use site_recovery::formats::source::Source;
use site_recovery::units::{MIB, to_u64, to_usize};

use super::input::Input;

const PAGE: u64 = 4096;
/// Bytes that may be read from, and written to, one file: an input that needs more is left alone, for it would only
/// take time. It holds a log of 16 MiB, or the table of a disk of 2 TiB.
const BUDGET: u64 = 32 * MIB;
/// Zeroes inside of a piece that cost less than a piece of their own.
const GAP: usize = 16;
/// Files of one input: a child, its parent, and the parent's.
const FILES_MAX: usize = 3;

/// A file of which only the pages are kept that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    pages: BTreeMap<u64, Box<[u8]>>,
    size: u64,
}

impl Sparse {
    /// A file of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut file = Sparse {
            size: to_u64(bytes.len()),
            ..Sparse::default()
        };
        file.put(0, bytes);
        file
    }

    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Cuts the file, or grows it with zeroes.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.pages.split_off(&size.div_ceil(PAGE));
            if let Some(last) = self.pages.get_mut(&(size / PAGE)) {
                last[to_usize(size % PAGE)..].fill(0);
            }
        }
        self.size = size;
    }

    /// The `len` bytes from `offset`; behind the end they are zero.
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Puts bytes into the file; what lies behind its end is left out.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let len = self.size.saturating_sub(offset).min(to_u64(bytes.len()));
        let mut rest = &bytes[..to_usize(len)];
        let mut at = offset;
        while !rest.is_empty() {
            let within = to_usize(at % PAGE);
            let (piece, after) = rest.split_at(rest.len().min(to_usize(PAGE) - within));
            let zero = piece.iter().all(|&byte| byte == 0);
            // A page that is not there is zero already.
            if !zero || self.pages.contains_key(&(at / PAGE)) {
                let page = self.pages.entry(at / PAGE);
                let page = page.or_insert_with(|| vec![0; to_usize(PAGE)].into_boxed_slice());
                page[within..within + piece.len()].copy_from_slice(piece);
            }
            at += to_u64(piece.len());
            rest = after;
        }
    }

    /// Fills `buffer` with what there is from `offset`, and zeroes.
    fn read(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let end = offset.saturating_add(to_u64(buffer.len()));
        for (&number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            let source = &page[to_usize(from - start)..to_usize(to - start)];
            buffer[to_usize(from - offset)..to_usize(to - offset)].copy_from_slice(source);
        }
    }

    /// The whole file, if it has at most `max` bytes.
    pub fn bytes(&self, max: u64) -> Option<Vec<u8>> {
        (self.size <= max).then(|| self.get(0, to_usize(self.size)))
    }

    /// Whether both hold the same, however they came to it.
    pub fn same(&self, other: &Sparse) -> bool {
        let zero = vec![0; to_usize(PAGE)].into_boxed_slice();
        let covers = |one: &Sparse, other: &Sparse| {
            one.pages
                .iter()
                .all(|(number, page)| page == other.pages.get(number).unwrap_or(&zero))
        };
        self.size == other.size && covers(self, other) && covers(other, self)
    }

    fn decode(input: &mut Input<'_>) -> Self {
        let mut file = Sparse {
            size: input.u64(),
            ..Sparse::default()
        };
        for _ in 0..input.u16() {
            if input.is_empty() {
                break;
            }
            let (offset, len) = (input.u64(), usize::from(input.u16()));
            file.put(offset, input.bytes(len));
        }
        file
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for (&number, page) in &self.pages {
            for (at, byte) in (number * PAGE..).zip(page.iter()) {
                if *byte == 0 {
                    continue;
                }
                match pieces.last_mut() {
                    Some((start, bytes)) if at - *start <= to_u64(bytes.len() + GAP) => {
                        bytes.resize(to_usize(at - *start), 0);
                        bytes.push(*byte);
                    }
                    Some(_) | None => pieces.push((at, vec![*byte])),
                }
            }
        }
        let count = u16::try_from(pieces.len()).expect("seeds have few pieces");
        out.extend(self.size.to_le_bytes());
        out.extend(count.to_le_bytes());
        for (offset, bytes) in pieces {
            let len = u16::try_from(bytes.len()).expect("seeds have short pieces");
            out.extend(offset.to_le_bytes());
            out.extend(len.to_le_bytes());
            out.extend(bytes);
        }
    }
}

/// The files of an input; at least one.
pub fn decode(input: &mut Input<'_>) -> Vec<Sparse> {
    let count = usize::from(input.u8() & 3).min(FILES_MAX - 1) + 1;
    (0..count).map(|_| Sparse::decode(input)).collect()
}

/// The input that says these files, followed by `rest`.
pub fn encode(files: &[Sparse], rest: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(files.len() - 1).expect("an input has at most three files")];
    files.iter().for_each(|file| file.encode(&mut out));
    out.extend(rest);
    out
}

/// A file that parsers read and write.
#[derive(Debug)]
pub struct Open {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Sparse,
    /// Bytes that may still be moved.
    left: u64,
}

impl Open {
    pub fn new(file: &Sparse) -> Arc<Self> {
        let state = State {
            file: file.clone(),
            left: BUDGET,
        };
        Arc::new(Open {
            state: Mutex::new(state),
        })
    }

    pub fn source(self: &Arc<Self>, name: &str) -> Source {
        Source::new(name, Arc::clone(self) as Arc<dyn ImageFile>)
    }

    /// The file as it is now.
    pub fn file(&self) -> Sparse {
        self.lock().file.clone()
    }

    /// Whether an operation has failed because the budget was used up; nothing else fails.
    pub fn exhausted(&self) -> bool {
        self.lock().left == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spend(&mut self, len: usize) -> io::Result<()> {
        let left = self.left.checked_sub(to_u64(len));
        self.left = left.unwrap_or(0);
        left.map(drop)
            .ok_or_else(|| io::Error::other("the budget is used up"))
    }
}

impl ImageFile for Open {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().file.size())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let left = state.file.size().saturating_sub(offset);
        let len = to_usize(left.min(to_u64(buffer.len())));
        state.spend(len)?;
        state.file.read(offset, &mut buffer[..len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.spend(data.len())?;
        let end = offset.checked_add(to_u64(data.len()));
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        if state.file.size() < end {
            state.file.resize(end);
        }
        state.file.put(offset, data);
        Ok(data.len())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.lock().file.resize(size);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
