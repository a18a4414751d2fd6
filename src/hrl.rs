//! Hyper-V Replication Logs: what changed on one disk, as `[MS-HRL]` lays it out.
//!
//! ```text
//! 0      header, 4096 bytes: sizes, ids, EOLLocation = end of the last metadata block, 0 while the log is open
//! 4096   an empty metadata block
//!        data of block 1 │ metadata block 1 │ data of block 2 │ metadata block 2 │ …           ◄ EOLLocation
//! ```
//! A metadata block lists up to 127 records, oldest first, and says how far back the block before it lies; the data of
//! its records stands right before it, in the same order. All numbers are little-endian. The format is Microsoft's; two
//! things are ours, where the creator is [`CREATOR`]:
//!
//! - operation 2, *zero*: the range reads as zeroes from here on, and there is no data for it;
//! - the 16 reserved bytes of a block's header hold a hash of the block keyed with the log's id, so that the recovery of
//!   a torn log cannot take guest data for a block of ours.
//!
//! The format's own checksums are 32-bit byte sums. They are written and checked, and never relied upon: a log that
//! travels is named by its BLAKE3 in a seal.

pub mod error;
pub mod layout;
pub mod reader;
pub mod recover;
pub mod writer;

pub use error::Error;
pub use reader::{Content, LogReader, Record};
pub use recover::{Recovered, recover};
pub use writer::{Identity, LogWriter};

/// Who made a log that has our two additions.
pub const CREATOR: [u8; 4] = *b"srec";

#[cfg(test)]
mod tests;
