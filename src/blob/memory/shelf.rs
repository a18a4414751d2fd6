//! What a container in memory holds, and what each request makes of it. No right is looked at here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::blob::answer::{
    BlobKind, Got, LeaseState, ListPage, Listed, PageKind, PageRange, PageRanges, Properties,
    Stored,
};
use crate::blob::error::{Error, Kind, Operation};
use crate::blob::names::{BlobRef, BlockId, ETag, SequenceNumber, SnapshotId};
use crate::blob::parameters::{Condition, DeleteSnapshots, Include, Metadata, PutOptions};
use crate::transport::refusal::Refusal;
use crate::units::{ByteRange, Clock, SECTOR, to_u64, to_usize};

/// Items of one page of a listing: few, so that every reader of lists meets more than one.
const LIST_PAGE: usize = 16;
/// Stands after every snapshot of a blob, as the blob itself does in lists.
const HEAD: &str = "~";

/// Why a request is refused.
pub(super) struct Failed(pub(super) Kind);

impl Failed {
    pub(super) fn of(self, operation: Operation, object: String) -> Error {
        let (status, code) = match self.0 {
            Kind::NotFound => (404, "BlobNotFound"),
            Kind::AlreadyExists => (409, "BlobAlreadyExists"),
            Kind::Conflict => (409, "SnapshotsPresent"),
            Kind::Changed => (412, "ConditionNotMet"),
            Kind::Fenced => (412, "SequenceNumberConditionNotMet"),
            Kind::SignatureRefused => (403, "AuthorizationPermissionMismatch"),
            _ => (400, "InvalidInput"),
        };
        Error::new(operation, object, self.0).refused(Refusal {
            status,
            code: Some(code.to_owned()),
            ..Refusal::default()
        })
    }
}

type Result<T> = std::result::Result<T, Failed>;

#[derive(Clone)]
enum Content {
    Block(Bytes),
    Page {
        /// Shared with the snapshots that were taken of it.
        bytes: Arc<Vec<u8>>,
        /// Numbers of the pages that were written and not cleared.
        written: Arc<BTreeSet<u64>>,
        sequence_number: SequenceNumber,
    },
}

#[derive(Clone)]
struct Blob {
    content: Content,
    etag: ETag,
    modified: Timestamp,
    created: Timestamp,
    metadata: Metadata,
}

impl Blob {
    fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Block(bytes) => bytes,
            Content::Page { bytes, .. } => bytes,
        }
    }

    const fn kind(&self) -> BlobKind {
        match self.content {
            Content::Block(_) => BlobKind::Block,
            Content::Page { .. } => BlobKind::Page,
        }
    }
}

/// Blobs by name and snapshot; [`HEAD`] for the blob itself.
pub(super) struct Shelf {
    clock: Arc<dyn Clock>,
    blobs: BTreeMap<(String, String), Blob>,
    blocks: BTreeMap<(String, BlockId), Bytes>,
    /// Counts changes: tags and snapshots are made of it.
    changes: u64,
}

impl Shelf {
    pub(super) const fn new(clock: Arc<dyn Clock>) -> Self {
        Shelf {
            clock,
            blobs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            changes: 0,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.blobs.contains_key(&head(name))
    }

    fn find(&self, blob: &BlobRef) -> Result<&Blob> {
        self.blobs.get(&key(blob)).ok_or(Failed(Kind::NotFound))
    }

    fn head_mut(&mut self, name: &str) -> Result<&mut Blob> {
        let found = self.blobs.get_mut(&head(name));
        found.ok_or(Failed(Kind::NotFound))
    }

    /// Whether `condition` holds for the blob as it is.
    fn check(&self, name: &str, condition: &Condition) -> Result<()> {
        match (condition, self.blobs.get(&head(name))) {
            (Condition::Absent, Some(_)) => Err(Failed(Kind::AlreadyExists)),
            (Condition::Matches(etag), Some(blob)) if blob.etag != *etag => {
                Err(Failed(Kind::Changed))
            }
            (Condition::Matches(_), None) => Err(Failed(Kind::Changed)),
            (Condition::Always | Condition::Absent | Condition::Matches(_), _) => Ok(()),
        }
    }

    fn next_tag(&mut self) -> ETag {
        self.changes += 1;
        let tag = format!("0x{:016X}", self.changes).parse();
        tag.expect("a hexadecimal number is a tag")
    }

    fn store(&mut self, name: &str, content: Content, metadata: Metadata) -> Stored {
        let (etag, now) = (self.next_tag(), self.clock.now());
        let blob = Blob {
            content,
            etag,
            modified: now,
            created: now,
            metadata,
        };
        let stored = stored(&blob, now);
        self.blobs.insert(head(name), blob);
        stored
    }

    /// Notes that a blob was changed.
    fn touch(&mut self, name: &str) -> Result<Stored> {
        let (etag, now) = (self.next_tag(), self.clock.now());
        let blob = self.head_mut(name)?;
        (blob.etag, blob.modified) = (etag, now);
        Ok(stored(blob, now))
    }

    pub(super) fn put(&mut self, name: &str, body: Bytes, options: &PutOptions) -> Result<Stored> {
        self.check(name, &options.condition)?;
        self.blocks.retain(|(of, _), _| of != name);
        Ok(self.store(name, Content::Block(body), options.metadata.clone()))
    }

    pub(super) fn put_block(&mut self, name: &str, block: BlockId, body: Bytes) {
        self.blocks.insert((name.to_owned(), block), body);
    }

    pub(super) fn put_block_list(
        &mut self,
        name: &str,
        blocks: &[BlockId],
        options: &PutOptions,
    ) -> Result<Stored> {
        self.check(name, &options.condition)?;
        let mut body = Vec::new();
        for block in blocks {
            let part = self.blocks.get(&(name.to_owned(), *block));
            body.extend_from_slice(part.ok_or(Failed(Kind::Refused))?);
        }
        self.put(name, body.into(), options)
    }

    pub(super) fn get(&self, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Result<Got> {
        let found = self.find(blob)?;
        let total_length = to_u64(found.bytes().len());
        let whole = ByteRange::to(total_length);
        let wanted = match range {
            Some(range) if range.is_empty() || range.start() >= total_length => {
                return Err(Failed(Kind::Refused));
            }
            Some(range) => whole.intersect(range),
            None => whole,
        };
        if wanted.len() > limit {
            return Err(Failed(Kind::TooLarge { limit }));
        }
        let part = to_usize(wanted.start())..to_usize(wanted.end());
        let bytes = match &found.content {
            Content::Block(bytes) => bytes.slice(part),
            Content::Page { bytes, .. } => Bytes::copy_from_slice(&bytes[part]),
        };
        Ok(Got {
            bytes,
            etag: found.etag.clone(),
            total_length,
            last_modified: found.modified,
            date: self.clock.now(),
        })
    }

    pub(super) fn properties(&self, blob: &BlobRef) -> Result<Properties> {
        let found = self.find(blob)?;
        let sequence_number = match &found.content {
            Content::Block(_) => None,
            Content::Page {
                sequence_number, ..
            } => Some(*sequence_number),
        };
        Ok(Properties {
            etag: found.etag.clone(),
            length: to_u64(found.bytes().len()),
            kind: found.kind(),
            sequence_number,
            metadata: found.metadata.clone(),
            lease: LeaseState::Available,
            copy: None,
            last_modified: found.modified,
            date: self.clock.now(),
        })
    }

    pub(super) fn delete(
        &mut self,
        blob: &BlobRef,
        condition: &Condition,
        snapshots: DeleteSnapshots,
    ) -> Result<bool> {
        if blob.snapshot.is_some() {
            return Ok(self.blobs.remove(&key(blob)).is_some());
        }
        if !self.has(&blob.name) {
            return Ok(false);
        }
        self.check(&blob.name, condition)?;
        let of_blob = |(name, snapshot): &(String, String)| *name == blob.name && snapshot != HEAD;
        match snapshots {
            DeleteSnapshots::None if self.blobs.keys().any(of_blob) => {
                return Err(Failed(Kind::Conflict));
            }
            DeleteSnapshots::None => {}
            DeleteSnapshots::Include | DeleteSnapshots::Only => {
                self.blobs.retain(|key, _| !of_blob(key));
            }
        }
        if snapshots != DeleteSnapshots::Only {
            self.blobs.remove(&head(&blob.name));
        }
        Ok(true)
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        include: Include,
        marker: Option<&str>,
    ) -> ListPage<Listed> {
        // Names have no control characters.
        let after = marker.and_then(|marker| marker.split_once('\n'));
        let after = after.map(|(name, snapshot)| (name.to_owned(), snapshot.to_owned()));
        let mut wanted = self.blobs.iter().filter(|(key, _)| {
            key.0.starts_with(prefix)
                && (include.snapshots || key.1 == HEAD)
                && after.as_ref().is_none_or(|after| *key > after)
        });
        let page: Vec<_> = wanted.by_ref().take(LIST_PAGE).collect();
        let last = page.last().map(|((name, at), _)| format!("{name}\n{at}"));
        let items = page.into_iter().map(|((name, at), blob)| Listed {
            name: name.clone(),
            snapshot: (at != HEAD).then(|| parsed(at)),
            etag: blob.etag.clone(),
            length: to_u64(blob.bytes().len()),
            kind: blob.kind(),
            last_modified: blob.modified,
            created: Some(blob.created),
            metadata: match include.metadata {
                true => blob.metadata.clone(),
                false => Metadata::new(),
            },
        });
        let items = items.collect();
        ListPage {
            items,
            next: wanted.next().and(last),
            date: self.clock.now(),
        }
    }

    pub(super) fn create_page_blob(
        &mut self,
        name: &str,
        size: u64,
        sequence_number: SequenceNumber,
        metadata: &Metadata,
        replaces: Option<&ETag>,
    ) -> Result<Stored> {
        let condition = replaces.map_or(Condition::Absent, |etag| Condition::Matches(etag.clone()));
        self.check(name, &condition)?;
        let content = Content::Page {
            bytes: Arc::new(vec![0; to_usize(size)]),
            written: Arc::default(),
            sequence_number,
        };
        Ok(self.store(name, content, metadata.clone()))
    }

    /// Writes `data` to whole pages, or clears them.
    pub(super) fn write_pages(
        &mut self,
        name: &str,
        range: ByteRange,
        data: Option<&[u8]>,
        fence: SequenceNumber,
    ) -> Result<()> {
        let Content::Page {
            bytes,
            written,
            sequence_number,
        } = &mut self.head_mut(name)?.content
        else {
            return Err(Failed(Kind::Conflict));
        };
        if range.end() > to_u64(bytes.len()) {
            return Err(Failed(Kind::Refused));
        }
        if *sequence_number != fence {
            return Err(Failed(Kind::Fenced));
        }
        let place = &mut Arc::make_mut(bytes)[to_usize(range.start())..to_usize(range.end())];
        let pages = range.start() / SECTOR..range.end() / SECTOR;
        let written = Arc::make_mut(written);
        match data {
            Some(data) => {
                place.copy_from_slice(data);
                written.extend(pages);
            }
            None => {
                place.fill(0);
                pages.for_each(|page| _ = written.remove(&page));
            }
        }
        self.touch(name).map(drop)
    }

    pub(super) fn page_ranges(
        &self,
        blob: &BlobRef,
        window: Option<ByteRange>,
    ) -> Result<PageRanges> {
        let found = self.find(blob)?;
        let Content::Page { written, .. } = &found.content else {
            return Err(Failed(Kind::Conflict));
        };
        let blob_length = to_u64(found.bytes().len());
        let window =
            ByteRange::to(blob_length).intersect(window.unwrap_or(ByteRange::to(u64::MAX)));
        let pages = written.range(window.start() / SECTOR..window.end().div_ceil(SECTOR));
        let mut ranges: Vec<PageRange> = Vec::new();
        for page in pages.filter_map(|page| ByteRange::at(page * SECTOR, SECTOR)) {
            match ranges.last_mut() {
                Some(last) if last.range.end() == page.start() => {
                    last.range = ByteRange::new(last.range.start(), page.end()).unwrap_or(page);
                }
                Some(_) | None => ranges.push(PageRange {
                    range: page,
                    kind: PageKind::Written,
                }),
            }
        }
        Ok(PageRanges {
            ranges,
            next: None,
            blob_length,
            etag: found.etag.clone(),
            date: self.clock.now(),
        })
    }

    pub(super) fn set_sequence_number(
        &mut self,
        name: &str,
        number: SequenceNumber,
    ) -> Result<SequenceNumber> {
        let Content::Page {
            sequence_number, ..
        } = &mut self.head_mut(name)?.content
        else {
            return Err(Failed(Kind::Conflict));
        };
        *sequence_number = number.max(*sequence_number);
        let now = *sequence_number;
        self.touch(name)?;
        Ok(now)
    }

    pub(super) fn resize(
        &mut self,
        name: &str,
        size: u64,
        condition: &Condition,
    ) -> Result<Stored> {
        self.find(&BlobRef::head(name))?;
        self.check(name, condition)?;
        let Content::Page { bytes, written, .. } = &mut self.head_mut(name)?.content else {
            return Err(Failed(Kind::Conflict));
        };
        Arc::make_mut(bytes).resize(to_usize(size), 0);
        Arc::make_mut(written).retain(|page| *page < size / SECTOR);
        self.touch(name)
    }

    pub(super) fn snapshot(
        &mut self,
        name: &str,
        metadata: &Metadata,
        condition: &Condition,
    ) -> Result<SnapshotId> {
        let mut taken = self.find(&BlobRef::head(name))?.clone();
        self.check(name, condition)?;
        if !metadata.is_empty() {
            taken.metadata.clone_from(metadata);
        }
        self.changes += 1;
        // The service's times have seven digits below the second, and no two snapshots of a blob the same.
        let (seconds, rest) = (self.changes / 10_000_000, self.changes % 10_000_000);
        let at = format!(
            "2026-01-01T{:02}:{:02}:{:02}.{rest:07}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        self.blobs.insert((name.to_owned(), at.clone()), taken);
        Ok(parsed(&at))
    }
}

fn head(name: &str) -> (String, String) {
    (name.to_owned(), HEAD.to_owned())
}

fn key(blob: &BlobRef) -> (String, String) {
    let at = blob.snapshot.as_ref().map_or(HEAD, SnapshotId::as_str);
    (blob.name.clone(), at.to_owned())
}

fn parsed(at: &str) -> SnapshotId {
    at.parse().expect("it was made as a time")
}

fn stored(blob: &Blob, date: Timestamp) -> Stored {
    Stored {
        etag: blob.etag.clone(),
        last_modified: blob.modified,
        date,
    }
}
