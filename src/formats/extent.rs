//! Where the bytes of a disk are: runs inside one layer, and the extents that callers are told.

use crate::units::ByteRange;

/// What stands for a run of the disk in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the layer's own file, from this byte on.
    File(u64),
    /// Nowhere: it reads as zeroes.
    Zero,
    /// In the layer's parent.
    Parent,
}

/// A stretch of the disk that one layer keeps in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// At least one byte.
    pub(crate) len: u64,
    pub(crate) place: Place,
}

/// What an extent of the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes that must be read; they may still all be zero.
    Data,
    /// Zeroes, without reading anything.
    Zero,
    /// What the parent holds; only where one layer is looked at alone.
    Parent,
}

impl From<Place> for Content {
    fn from(place: Place) -> Self {
        match place {
            Place::File(_) => Content::Data,
            Place::Zero => Content::Zero,
            Place::Parent => Content::Parent,
        }
    }
}

/// A range of the disk with one kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub range: ByteRange,
    pub content: Content,
}

/// The extents of a window, as far as one call went: the caller asks again from `covered`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Ascending, without gaps, from the window's start to `covered`; neighbours differ in content.
    pub extents: Vec<Extent>,
    /// More than the window's start, unless the window is empty; at most its end.
    pub covered: u64,
}

/// Extents that one call returns at most: a page of work for the caller, 128 KiB for us.
const EXTENTS_MAX: usize = 4096;
/// Table look-ups of one call: each covers up to a table's page of equal entries, so this is some milliseconds.
const LOOKUPS_MAX: usize = 1 << 16;

impl Extents {
    /// Walks `window` with `run`, which tells the content at an offset and how far it goes (at least one byte, at most
    /// the length that it is given).
    pub(crate) fn walk<E>(
        window: ByteRange,
        mut run: impl FnMut(u64, u64) -> Result<(Content, u64), E>,
    ) -> Result<Extents, E> {
        let mut found = Extents {
            extents: Vec::new(),
            covered: window.start(),
        };
        for _ in 0..LOOKUPS_MAX {
            if found.covered == window.end() {
                break;
            }
            let (content, len) = run(found.covered, window.end() - found.covered)?;
            if !found.push(content, len) {
                break;
            }
        }
        Ok(found)
    }

    /// Adds `len` bytes; false if there is no room for one more extent.
    fn push(&mut self, content: Content, len: u64) -> bool {
        let end = self.covered + len;
        let extend = |start| ByteRange::new(start, end).expect("extents grow upwards");
        let full = self.extents.len() == EXTENTS_MAX;
        match self.extents.last_mut() {
            Some(last) if last.content == content => last.range = extend(last.range.start()),
            Some(_) if full => return false,
            Some(_) | None => self.extents.push(Extent {
                range: extend(self.covered),
                content,
            }),
        }
        self.covered = end;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_extent() {
        let window = ByteRange::new(10, 100).unwrap();
        let walked = Extents::walk(window, |offset, left| {
            let content = if offset < 50 {
                Content::Data
            } else {
                Content::Zero
            };
            Ok::<_, ()>((content, left.min(10)))
        });
        let extent = |a, b, content| Extent {
            range: ByteRange::new(a, b).unwrap(),
            content,
        };
        let expected = Extents {
            extents: vec![
                extent(10, 50, Content::Data),
                extent(50, 100, Content::Zero),
            ],
            covered: 100,
        };
        assert_eq!(walked, Ok(expected));
    }

    #[test]
    fn a_call_ends_when_it_has_enough_and_says_how_far_it_came() {
        let window = ByteRange::to(1 << 40);
        let walked = Extents::walk(window, |offset, _| {
            let odd = offset / 512 % 2 == 1;
            Ok::<_, ()>((if odd { Content::Data } else { Content::Zero }, 512))
        });
        let walked = walked.unwrap();
        assert_eq!(walked.extents.len(), EXTENTS_MAX);
        assert_eq!(walked.covered, 512 * 4096);
    }

    #[test]
    fn an_empty_window_is_covered_at_once() {
        let nothing = ByteRange::new(7, 7).unwrap();
        let walked = Extents::walk(nothing, |_, _| {
            Err::<(Content, u64), _>("no look-up is needed")
        });
        assert_eq!(walked.map(|extents| extents.covered), Ok(7));
    }
}
