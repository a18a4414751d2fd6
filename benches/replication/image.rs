//! The disk that is copied: a dynamic VHDX whose data lies as on a disk in use, the same for the same arguments.
//!
//! ```text
//! two thirds of the data   runs of 4 to 32 MiB with small gaps, from the beginning: system and programs
//! the rest                 runs of 256 KiB to 8 MiB, scattered over what is left of the disk
//! ```

use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use site_recovery::formats::create::{Allocation, CreateOptions};
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, WritableImage};
use site_recovery::units::{ByteRange, KIB, MIB, to_usize};
use uuid::Uuid;

/// File systems place data in multiples of it.
const CLUSTER: u64 = 4 * KIB;
const PIECE: u64 = MIB;
/// Words of the compressible text.
const WORDS: usize = 512;

/// What the data is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content {
    /// Nothing makes it smaller.
    Random,
    /// Words in random order, which compress to about a third.
    Compressible,
}

impl Content {
    pub(crate) const ALL: [Content; 2] = [Content::Random, Content::Compressible];
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Content::Random => "random",
            Content::Compressible => "compressible",
        })
    }
}

pub(crate) struct Image {
    pub(crate) path: PathBuf,
    /// Bytes that the guest sees.
    pub(crate) size: u64,
}

impl Image {
    pub(crate) fn make(
        path: PathBuf,
        content: Content,
        size: u64,
        data: u64,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(data <= size / 2, "the data must fit on half of the disk");
        let identifier = Uuid::from_u128(0x0f8f_ad5b_d9cb_469f_a165_7086_7728_950e);
        let options = CreateOptions::new(
            Format::Vhdx,
            Allocation::Dynamic,
            size,
            identifier,
            Timestamp::UNIX_EPOCH,
        );
        let mut image = formats::create(&path, &options).context("cannot make the image")?;
        let mut random = StdRng::seed_from_u64(4);
        let runs = layout(size, data, &mut random);
        let mut source = Source::new(content, random);
        for run in runs {
            write(&mut image, run, &mut source)?;
        }
        image.close()?;
        Ok(Image { path, size })
    }
}

fn write(image: &mut WritableImage, run: ByteRange, source: &mut Source) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    for piece in run.split_at_multiples(PIECE) {
        buffer.resize(to_usize(piece.len()), 0);
        source.fill(&mut buffer);
        image.write_at(piece.start(), &buffer)?;
    }
    Ok(())
}

/// Where the data lies; ascending.
fn layout(size: u64, data: u64, random: &mut StdRng) -> Vec<ByteRange> {
    let mut runs = Vec::new();
    let (mut at, mut left) = (MIB, data);
    let mut place = |at: u64, length: u64, left: &mut u64| {
        let length = length.min(*left).min(size - at);
        *left -= length;
        runs.extend(ByteRange::at(at, length));
        at + length
    };
    while left > data / 3 {
        at = place(at, clusters(random, 4 * MIB, 32 * MIB), &mut left);
        at += clusters(random, CLUSTER, MIB);
    }
    // On average the runs and the gaps between them fill what is left of the disk.
    let gap = (8 * MIB + 256 * KIB) / 2 * (size - at - left) / left.max(1);
    while left > 0 && at < size {
        at = place(at, clusters(random, 256 * KIB, 8 * MIB), &mut left);
        at += clusters(random, gap / 2, gap);
    }
    runs
}

fn clusters(random: &mut StdRng, least: u64, most: u64) -> u64 {
    random.random_range(least..=most).next_multiple_of(CLUSTER)
}

/// Where the bytes come from.
struct Source {
    content: Content,
    random: StdRng,
    words: Vec<Vec<u8>>,
}

impl Source {
    fn new(content: Content, mut random: StdRng) -> Self {
        let word = |random: &mut StdRng| {
            let length = random.random_range(3..=10);
            let mut word: Vec<u8> = (0..length)
                .map(|_| random.random_range(b'a'..=b'z'))
                .collect();
            word.push(b' ');
            word
        };
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        Source {
            content,
            random,
            words,
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        if self.content == Content::Random {
            self.random.fill(buffer);
            return;
        }
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = &self.words[self.random.random_range(0..WORDS)];
            let length = word.len().min(rest.len());
            let (here, after) = rest.split_at_mut(length);
            here.copy_from_slice(&word[..length]);
            rest = after;
        }
    }
}
