//! A part of a chunk table, as bytes. Little-endian, ascending, no run overlaps another.
//!
//! ```text
//! 0    magic `SRCHUNKS` │ version u16 │ 6 zero bytes │ disk size u64 │ chunk size u32 │ 4 zero bytes
//! 32   run header: kind u8 (1 zero, 2 touched, 3 hashes) │ 3 zero │ count u32 │ first chunk u64; hashes follow
//! …    end: kind 0, all else zero
//! ```
//! A part's BLAKE3 stands in the manifest. A reader may act on runs as they come, but must not call anything complete
//! before [`Parser::finish`] has found the hash right.

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;

use super::{HASH, Run, States, chunks};
use crate::replica::Digest;
use crate::replica::manifest::TableRef;
use crate::units::{ByteRange, CHUNK, to_u64, to_usize};

const MAGIC: &[u8; 8] = b"SRCHUNKS";
const VERSION: u16 = 1;
const HEADER: usize = 32;
const RUN: usize = 16;
/// Hashes in one run: what a reader must hold at once is 128 KiB.
const HASHES_MAX: usize = 4096;

/// A part that is not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("chunk table {blob} is damaged at offset {offset}: {what}")]
    Damaged {
        blob: String,
        offset: u64,
        what: String,
    },
    #[error("chunk table {blob} has the BLAKE3 {found}, replica.json says {expected}")]
    Hash {
        blob: String,
        expected: Digest,
        found: Digest,
    },
    #[error("chunk table {blob} is not there, although replica.json names it")]
    Missing { blob: String },
}

impl Error {
    /// The part that it is about.
    pub fn blob(&self) -> &str {
        match self {
            Error::Damaged { blob, .. } | Error::Hash { blob, .. } | Error::Missing { blob } => {
                blob
            }
        }
    }
}

/// Writes a part: push runs, take bytes whenever it suits, finish.
#[derive(Debug)]
pub struct Writer {
    pending: BytesMut,
    hasher: blake3::Hasher,
    length: u64,
    /// Runs of one kind are joined here until another kind or a gap comes.
    open: Option<OpenRun>,
}

#[derive(Debug)]
struct OpenRun {
    kind: u8,
    first: u64,
    count: u32,
    hashes: BytesMut,
}

impl Writer {
    /// A part about a disk of `disk_size` bytes.
    pub fn new(disk_size: u64) -> Self {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&disk_size.to_le_bytes());
        let chunk = u32::try_from(CHUNK).expect("64 KiB fits in 32 bits");
        header[24..28].copy_from_slice(&chunk.to_le_bytes());
        let mut writer = Writer {
            pending: BytesMut::new(),
            hasher: blake3::Hasher::new(),
            length: 0,
            open: None,
        };
        writer.put(&header);
        writer
    }

    /// Appends a run, which must begin at or after the end of the one before.
    pub fn push(&mut self, run: &Run) {
        match &run.states {
            States::Zero(count) => self.extend(1, run.first, *count, &[]),
            States::Touched(count) => self.extend(2, run.first, *count, &[]),
            States::Hashes(hashes) => {
                let mut first = run.first;
                for piece in hashes.chunks(HASHES_MAX * HASH) {
                    let count = to_u64(piece.len() / HASH);
                    self.extend(3, first, count, piece);
                    first += count;
                }
            }
        }
    }

    /// What has been written since the last call.
    pub fn take(&mut self) -> Bytes {
        self.pending.split().freeze()
    }

    /// Bytes that [`Writer::take`] would give now.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Ends the part: the last bytes, the length of all, and their BLAKE3.
    pub fn finish(mut self) -> (Bytes, u64, Digest) {
        self.close();
        self.put(&[0; RUN]);
        (
            self.pending.freeze(),
            self.length,
            self.hasher.finalize().into(),
        )
    }

    fn extend(&mut self, kind: u8, mut first: u64, mut count: u64, hashes: &[u8]) {
        while count > 0 {
            let fits = match &self.open {
                Some(open) if open.kind == kind && open.first + u64::from(open.count) == first => {
                    Self::room(open)
                }
                Some(_) | None => 0,
            };
            if fits == 0 {
                self.close();
                self.open = Some(OpenRun {
                    kind,
                    first,
                    count: 0,
                    hashes: BytesMut::new(),
                });
                continue;
            }
            let taken = count.min(fits);
            let open = self
                .open
                .as_mut()
                .expect("there is room only in an open run");
            open.count += u32::try_from(taken).expect("room is counted in 32 bits");
            if kind == 3 {
                let from = hashes.len() - to_usize(count) * HASH;
                open.hashes
                    .extend_from_slice(&hashes[from..from + to_usize(taken) * HASH]);
            }
            first += taken;
            count -= taken;
        }
    }

    fn room(open: &OpenRun) -> u64 {
        let most = if open.kind == 3 {
            HASHES_MAX as u64
        } else {
            u64::from(u32::MAX)
        };
        most - u64::from(open.count)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.count == 0 {
            return;
        }
        let mut header = [0; RUN];
        header[0] = open.kind;
        header[4..8].copy_from_slice(&open.count.to_le_bytes());
        header[8..16].copy_from_slice(&open.first.to_le_bytes());
        self.put(&header);
        self.put(&open.hashes);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.hasher.update(bytes);
        self.length += to_u64(bytes.len());
    }
}

/// Reads a part: feed bytes as they arrive, take runs until there is none, finish.
#[derive(Debug)]
pub struct Parser {
    expected: TableRef,
    chunks: u64,
    disk_size: u64,
    pending: BytesMut,
    hasher: blake3::Hasher,
    /// Bytes fed and bytes understood.
    fed: u64,
    offset: u64,
    next: u64,
    ended: bool,
}

impl Parser {
    /// Expects the part that `expected` describes, of a disk of `disk_size` bytes or less: disks grow.
    pub fn new(expected: TableRef, disk_size: u64) -> Self {
        Parser {
            expected,
            chunks: chunks(disk_size),
            disk_size,
            pending: BytesMut::new(),
            hasher: blake3::Hasher::new(),
            fed: 0,
            offset: 0,
            next: 0,
            ended: false,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If there are more than the part has.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.fed += to_u64(bytes.len());
        if self.fed > self.expected.length {
            return Err(self.damaged(format!("it is longer than {} bytes", self.expected.length)));
        }
        self.hasher.update(bytes);
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// The next run, or nothing until more bytes are fed.
    ///
    /// # Errors
    /// If the bytes are no chunk table.
    pub fn next_run(&mut self) -> Result<Option<Run>, Error> {
        if self.offset == 0 && !self.read_header()? {
            return Ok(None);
        }
        if self.ended || self.pending.len() < RUN {
            return Ok(None);
        }
        let mut header = &self.pending[..RUN];
        let kind = header.get_u8();
        let reserved = header.get_uint(3);
        let count = u64::from(header.get_u32_le());
        let first = header.get_u64_le();
        if kind == 0 {
            self.end(reserved == 0 && count == 0 && first == 0)?;
            return Ok(None);
        }
        let end = first.checked_add(count).filter(|end| *end <= self.chunks);
        if reserved != 0 || count == 0 || first < self.next || end.is_none() {
            let expected = format!(
                "a run in {}..{}, found {count} at {first}",
                self.next, self.chunks
            );
            return Err(self.damaged(expected));
        }
        let Some(states) = self.states(kind, count)? else {
            return Ok(None);
        };
        self.next = first + count;
        Ok(Some(Run { first, states }))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// If bytes are missing or their hash is not the manifest's.
    pub fn finish(self) -> Result<(), Error> {
        if self.ended && !self.pending.is_empty() {
            return Err(self.damaged("bytes follow its end".to_owned()));
        }
        if !self.ended || self.fed != self.expected.length {
            return Err(self.damaged("it ends early".to_owned()));
        }
        let found = Digest::from(self.hasher.finalize());
        if found == self.expected.blake3 {
            return Ok(());
        }
        Err(Error::Hash {
            blob: self.expected.blob,
            expected: self.expected.blake3,
            found,
        })
    }

    /// Consumes a run's header, and its hashes once they are all there.
    fn states(&mut self, kind: u8, count: u64) -> Result<Option<States>, Error> {
        match kind {
            1 => {
                self.advance(RUN);
                Ok(Some(States::Zero(count)))
            }
            2 => {
                self.advance(RUN);
                Ok(Some(States::Touched(count)))
            }
            3 if count <= HASHES_MAX as u64 => {
                let length = to_usize(count) * HASH;
                if self.pending.len() < RUN + length {
                    return Ok(None);
                }
                self.advance(RUN);
                self.offset += to_u64(length);
                Ok(Some(States::Hashes(self.pending.split_to(length).freeze())))
            }
            other => Err(self.damaged(format!("a run of kind {other} with {count} chunks"))),
        }
    }

    fn read_header(&mut self) -> Result<bool, Error> {
        if self.pending.len() < HEADER {
            return Ok(false);
        }
        let mut header = &self.pending[8..HEADER];
        let version = header.get_u16_le();
        let reserved = header.get_uint(6);
        let (size, chunk) = (header.get_u64_le(), header.get_u32_le());
        if &self.pending[..8] != MAGIC || version != VERSION || reserved != 0 {
            return Err(self.damaged("it is no chunk table of version 1".to_owned()));
        }
        if size > self.disk_size || u64::from(chunk) != CHUNK {
            let what = format!("it is of a disk of {size} bytes in chunks of {chunk}");
            return Err(self.damaged(what));
        }
        self.chunks = chunks(size);
        self.advance(HEADER);
        Ok(true)
    }

    fn end(&mut self, clean: bool) -> Result<(), Error> {
        if !clean || self.pending.len() != RUN {
            return Err(self.damaged("bytes follow its end".to_owned()));
        }
        self.advance(RUN);
        self.ended = true;
        Ok(())
    }

    fn advance(&mut self, length: usize) {
        self.pending.advance(length);
        self.offset += to_u64(length);
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged {
            blob: self.expected.blob.clone(),
            offset: self.offset,
            what,
        }
    }
}

/// The runs of a part that `fetch` reads, `piece` bytes at a time. The last item is an error if the part's hash is
/// wrong.
pub fn runs<Fetch, Fetching, E>(
    expected: TableRef,
    disk_size: u64,
    piece: u64,
    fetch: Fetch,
) -> impl Stream<Item = Result<Run, E>>
where
    Fetch: FnMut(ByteRange) -> Fetching,
    Fetching: Future<Output = Result<Bytes, E>>,
    E: From<Error>,
{
    let unread = ByteRange::to(expected.length);
    let state = Some((Parser::new(expected, disk_size), unread, fetch));
    futures::stream::try_unfold(state, move |state| async move {
        let Some((mut parser, mut unread, mut fetch)) = state else {
            return Ok(None);
        };
        loop {
            if let Some(run) = parser.next_run()? {
                return Ok(Some((run, Some((parser, unread, fetch)))));
            }
            if unread.is_empty() {
                parser.finish()?;
                return Ok(None);
            }
            let (next, rest) = unread.split_at(piece);
            parser.feed(&fetch(next).await?)?;
            unread = rest;
        }
    })
}
