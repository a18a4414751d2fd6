//! Whole listings, page by page, up to a bound: what lists more than its caller is ready for is an error, never a cut
//! list that looks whole. Who does not need the whole takes [`Pages`], and holds one page at a time.

use crate::blob::answer::{ContainerProperties, ListPage, Listed, PageRange};
use crate::blob::error::{Error, Operation};
use crate::blob::names::{BlobRef, SnapshotId};
use crate::blob::parameters::Include;
use crate::blob::{Account, Container, Kind, Result};
use crate::units::{ByteRange, to_u64};

/// All blobs whose names begin with `prefix`, and the service's time of the first page: what was written after it may
/// be missing.
///
/// # Errors
/// [`Kind::TooLarge`] if there are more than `most`.
pub async fn blobs(
    container: &dyn Container,
    prefix: &str,
    include: Include,
    most: u64,
) -> Result<ListPage<Listed>> {
    let name = container.name();
    let mut pages = Pages::new(container, prefix, include);
    let mut whole = pages.first().await?;
    loop {
        within(Operation::ListBlobs, name, whole.items.len(), most)?;
        match pages.next().await? {
            Some(items) => whole.items.extend(items),
            None => return Ok(whole),
        }
    }
}

/// A listing of any length, one page after the other. What is deleted or written meanwhile may be missing or not; all
/// else is listed once.
pub struct Pages<'a> {
    container: &'a dyn Container,
    prefix: &'a str,
    include: Include,
    next: Next,
}

enum Next {
    First,
    After(String),
    None,
}

impl<'a> Pages<'a> {
    /// The blobs whose names begin with `prefix`.
    pub const fn new(container: &'a dyn Container, prefix: &'a str, include: Include) -> Self {
        Pages {
            container,
            prefix,
            include,
            next: Next::First,
        }
    }

    /// The next page, in the order of names; nothing after the last. A page may be empty.
    ///
    /// # Errors
    /// If it cannot be read, or does not lead on.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>> {
        let marker = match &self.next {
            Next::First => return Ok(Some(self.first().await?.items)),
            Next::After(marker) => marker.clone(),
            Next::None => return Ok(None),
        };
        let page = self
            .container
            .list(self.prefix, self.include, Some(&marker))
            .await?;
        let name = self.container.name();
        advanced(Operation::ListBlobs, name, &marker, page.next.as_deref())?;
        self.next = page.next.map_or(Next::None, Next::After);
        Ok(Some(page.items))
    }

    async fn first(&mut self) -> Result<ListPage<Listed>> {
        let mut page = self.container.list(self.prefix, self.include, None).await?;
        self.next = page.next.take().map_or(Next::None, Next::After);
        Ok(page)
    }
}

/// All containers whose names begin with `prefix`.
///
/// # Errors
/// [`Kind::TooLarge`] if there are more than `most`.
pub async fn containers(
    account: &dyn Account,
    prefix: &str,
    most: u64,
) -> Result<Vec<ContainerProperties>> {
    let name = account.endpoint().to_string();
    let mut whole = account.list_containers(prefix, None).await?;
    while let Some(marker) = whole.next.take() {
        within(Operation::ListContainers, &name, whole.items.len(), most)?;
        let page = account.list_containers(prefix, Some(&marker)).await?;
        advanced(
            Operation::ListContainers,
            &name,
            &marker,
            page.next.as_deref(),
        )?;
        whole.items.extend(page.items);
        whole.next = page.next;
    }
    within(Operation::ListContainers, &name, whole.items.len(), most)?;
    Ok(whole.items)
}

/// All ranges of `window`, as [`Container::page_ranges`] has them; neighbours of one kind are joined over pages too.
///
/// # Errors
/// [`Kind::TooLarge`] if there are more than `most`: ask for smaller windows. [`Kind::Malformed`] if a page does not
/// follow on the one before.
pub async fn pages(
    container: &dyn Container,
    blob: &BlobRef,
    window: ByteRange,
    previous: Option<&SnapshotId>,
    most: u64,
) -> Result<Vec<PageRange>> {
    let object = format!("{}/{blob}", container.name());
    let mut whole: Vec<PageRange> = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = container
            .page_ranges(blob, Some(window), previous, marker.as_deref())
            .await?;
        for range in page.ranges {
            if !append(&mut whole, range) {
                return Err(Error::new(
                    Operation::GetPageRanges,
                    object,
                    Kind::Malformed,
                ));
            }
        }
        within(Operation::GetPageRanges, &object, whole.len(), most)?;
        let Some(next) = page.next else {
            return Ok(whole);
        };
        if let Some(marker) = &marker {
            advanced(Operation::GetPageRanges, &object, marker, Some(&next))?;
        }
        marker = Some(next);
    }
}

/// Adds `next` at the end; `false` if it does not lie there.
fn append(whole: &mut Vec<PageRange>, next: PageRange) -> bool {
    let Some(last) = whole.last_mut() else {
        whole.push(next);
        return true;
    };
    let joins = last.range.end() == next.range.start() && last.kind == next.kind;
    match ByteRange::new(last.range.start(), next.range.end()) {
        Some(joined) if joins => last.range = joined,
        Some(_) if last.range.end() <= next.range.start() => whole.push(next),
        Some(_) | None => return false,
    }
    true
}

fn within(operation: Operation, object: &str, found: usize, most: u64) -> Result<()> {
    if to_u64(found) > most {
        Err(Error::new(
            operation,
            object,
            Kind::TooLarge { limit: most },
        ))
    } else {
        Ok(())
    }
}

/// A page that names itself as the next one would be read for ever.
fn advanced(operation: Operation, object: &str, marker: &str, next: Option<&str>) -> Result<()> {
    if next == Some(marker) {
        Err(Error::new(operation, object, Kind::Malformed))
    } else {
        Ok(())
    }
}
