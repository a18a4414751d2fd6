//! A disk as its guest sees it: reads through all layers of a chain.
//!
//! Reading takes `&self` and keeps no cursor: any number of threads may read at once. Every stretch that lies in one
//! place is read with one call to the operating system, straight into the caller's buffer.

use crate::formats::chain::Chain;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::{Content, Extents, Place, Run};
use crate::formats::info::ImageInfo;
use crate::formats::layer::Layer;
use crate::units::{ByteRange, to_u64, to_usize};

/// A disk that is open for reading.
pub struct Image {
    chain: Chain,
}

/// Where a run of the disk was found.
struct Found {
    layer: usize,
    run: Run,
}

impl Image {
    pub(crate) const fn new(chain: Chain) -> Self {
        Image { chain }
    }

    pub(crate) const fn chain_mut(&mut self) -> &mut Chain {
        &mut self.chain
    }

    pub(crate) fn into_chain(self) -> Chain {
        self.chain
    }

    /// The topmost layer.
    pub fn info(&self) -> &ImageInfo {
        self.chain.top.info()
    }

    /// All layers, the child before its parent.
    pub fn layers(&self) -> impl Iterator<Item = &ImageInfo> {
        self.chain.layers().map(Layer::info)
    }

    /// Bytes that the guest sees.
    pub fn size(&self) -> u64 {
        self.chain.top.size()
    }

    /// Fills `buffer` from `offset` of the disk; any offset and length will do.
    ///
    /// # Errors
    /// [`Kind::OutOfBounds`] if the range leaves the disk; else if a file of the chain cannot be read, or has changed so
    /// that it makes no sense any more. What `buffer` holds is then unknown.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = self.range(offset, to_u64(buffer.len()))?;
        let mut pending = Piece::default();
        let mut done = 0;
        while done < buffer.len() {
            let at = range.start() + to_u64(done);
            let Found { layer, run } = self.find(at, range.end() - at)?;
            let end = done + to_usize(run.len);
            match run.place {
                Place::File(from) if pending.goes_on(layer, from, done) => pending.end = end,
                Place::File(from) => {
                    self.read_piece(&pending, buffer)?;
                    pending = Piece {
                        layer,
                        from,
                        start: done,
                        end,
                    };
                }
                Place::Zero => buffer[done..end].fill(0),
                Place::Parent => return Err(self.orphan(at)),
            }
            done = end;
        }
        self.read_piece(&pending, buffer)
    }

    /// The extents of `window`, as far as one call's work goes; nothing of the data is read.
    ///
    /// # Errors
    /// As for [`Image::read_at`].
    pub fn map(&self, window: ByteRange) -> Result<Extents> {
        let window = self.range(window.start(), window.len())?;
        Extents::walk(window, |offset, limit| {
            let found = self.find(offset, limit)?;
            match found.run.place {
                Place::Parent => Err(self.orphan(offset)),
                place => Ok((Content::from(place), found.run.len)),
            }
        })
    }

    /// The extents of `window` in the topmost layer alone.
    ///
    /// # Errors
    /// As for [`Image::read_at`].
    pub fn map_top(&self, window: ByteRange) -> Result<Extents> {
        let window = self.range(window.start(), window.len())?;
        Extents::walk(window, |offset, limit| {
            let run = self.chain.top.run_at(offset, limit)?;
            Ok((Content::from(run.place), run.len))
        })
    }

    /// The range, if it lies inside the disk.
    pub(crate) fn range(&self, offset: u64, len: u64) -> Result<ByteRange> {
        let inside = ByteRange::at(offset, len).filter(|range| range.end() <= self.size());
        inside.ok_or_else(|| {
            let detail = format!(
                "{len} bytes leave the disk, which has {} bytes",
                self.size()
            );
            Error::new(Kind::OutOfBounds, &self.info().path, detail).at(offset)
        })
    }

    /// The first layer that has the byte at `offset`, and the run there, at most `limit` bytes.
    fn find(&self, offset: u64, limit: u64) -> Result<Found> {
        let mut run = Run {
            len: limit,
            place: Place::Parent,
        };
        for (index, layer) in self.chain.layers().enumerate() {
            if offset >= layer.size() {
                // Behind the end of a smaller parent.
                run.place = Place::Zero;
                return Ok(Found { layer: index, run });
            }
            run = layer.run_at(offset, run.len.min(layer.size() - offset))?;
            if run.place != Place::Parent {
                return Ok(Found { layer: index, run });
            }
        }
        Ok(Found { layer: 0, run })
    }

    fn read_piece(&self, piece: &Piece, buffer: &mut [u8]) -> Result<()> {
        if piece.start == piece.end {
            return Ok(());
        }
        let layer = self
            .chain
            .layers()
            .nth(piece.layer)
            .unwrap_or(&self.chain.top);
        layer
            .source()
            .read_exact_at(piece.from, &mut buffer[piece.start..piece.end])
    }

    fn orphan(&self, offset: u64) -> Error {
        let detail = "this part of the disk is in the parent, which was not opened";
        Error::new(Kind::BrokenChain, &self.info().path, detail).at(offset)
    }
}

/// A part of the buffer whose bytes lie together in one file.
#[derive(Default)]
struct Piece {
    layer: usize,
    /// In the layer's file.
    from: u64,
    /// In the buffer.
    start: usize,
    end: usize,
}

impl Piece {
    /// Whether bytes at `from` of a layer's file, wanted at `start` of the buffer, follow this piece in both.
    fn goes_on(&self, layer: usize, from: u64, start: usize) -> bool {
        self.end > self.start
            && self.layer == layer
            && self.end == start
            && self.from + to_u64(self.end - self.start) == from
    }
}
