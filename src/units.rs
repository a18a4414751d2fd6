//! Sizes, ranges, sequence numbers and time: the quantities that everything else is said in.
//!
//! Arithmetic on what came from outside is checked here, so that no other module has to cast between integers.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Bytes in a kibibyte.
pub const KIB: u64 = 1 << 10;
/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;
/// The smallest unit that Azure page blobs and disks with 512-byte sectors address.
pub const SECTOR: u64 = 512;
/// The unit of the chunk table: what is hashed, compared and sent as one (DESIGN §4).
pub const CHUNK: u64 = 64 * KIB;

/// A half-open range of bytes, `start..end`, with `start <= end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawRange")]
pub struct ByteRange {
    start: u64,
    end: u64,
}

#[derive(Deserialize)]
struct RawRange {
    start: u64,
    end: u64,
}

impl TryFrom<RawRange> for ByteRange {
    type Error = &'static str;

    fn try_from(raw: RawRange) -> Result<Self, Self::Error> {
        ByteRange::new(raw.start, raw.end).ok_or("a range ends before it starts")
    }
}

impl ByteRange {
    /// `start..end`, or nothing if it would end before it starts.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end {
            Some(ByteRange { start, end })
        } else {
            None
        }
    }

    /// `start..start + len`, or nothing if that leaves 64 bits.
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(ByteRange { start, end }),
            None => None,
        }
    }

    /// `0..len`.
    pub const fn to(len: u64) -> Self {
        ByteRange { start: 0, end: len }
    }

    pub const fn start(self) -> u64 {
        self.start
    }

    pub const fn end(self) -> u64 {
        self.end
    }

    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part that both have; empty (at this range's start or end) where they do not meet.
    pub fn intersect(self, other: ByteRange) -> ByteRange {
        let start = other.start.clamp(self.start, self.end);
        let end = other.end.clamp(start, self.end);
        ByteRange { start, end }
    }

    pub const fn contains(self, other: ByteRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest range of whole `unit`s that covers this one; it saturates at the end of 64 bits.
    pub const fn align_out(self, unit: u64) -> ByteRange {
        let end = match self.end.checked_next_multiple_of(unit) {
            Some(end) => end,
            None => u64::MAX - u64::MAX % unit,
        };
        ByteRange {
            start: self.start - self.start % unit,
            end,
        }
    }

    /// The first `len` bytes, or all if there are fewer, and the rest.
    pub fn split_at(self, len: u64) -> (ByteRange, ByteRange) {
        let middle = self.start.saturating_add(len).min(self.end);
        (
            ByteRange {
                end: middle,
                ..self
            },
            ByteRange {
                start: middle,
                ..self
            },
        )
    }

    /// Cuts the range at every multiple of `unit`, in order.
    pub fn split_at_multiples(self, unit: u64) -> impl Iterator<Item = ByteRange> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let next = (at - at % unit).saturating_add(unit).min(self.end);
            let piece = ByteRange {
                start: at,
                end: next,
            };
            at = next;
            Some(piece)
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The place of a seal in the order of all that happened to a replica: 16 hexadecimal digits, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first seal.
    pub const ZERO: Sequence = Sequence(0);

    pub const fn new(value: u64) -> Self {
        Sequence(value)
    }

    pub const fn value(self) -> u64 {
        self.0
    }

    /// The sequence after this one.
    ///
    /// # Panics
    /// After 2⁶⁴ sequences, which no replica lives to see. The last one is no sequence when it is read, so that there is
    /// one after whatever was.
    #[must_use]
    pub const fn next(self) -> Self {
        Sequence(
            self.0
                .checked_add(1)
                .expect("a replica never reaches 2^64 sequences"),
        )
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A sequence number that is not 16 lower-case hexadecimal digits, or the last one of these.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a sequence: 16 lower-case hexadecimal digits, not all of them f")]
pub struct NotASequence(String);

impl FromStr for Sequence {
    type Err = NotASequence;

    fn from_str(text: &str) -> Result<Self, NotASequence> {
        let digits =
            text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(value) if digits && value < u64::MAX => Ok(Sequence(value)),
            Ok(_) | Err(_) => Err(NotASequence(text.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for Sequence {
    type Error = NotASequence;

    fn try_from(text: String) -> Result<Self, NotASequence> {
        text.parse()
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> String {
        sequence.to_string()
    }
}

/// Counts the owners of something: whoever holds a lower one has been replaced.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    pub const ZERO: Generation = Generation(0);

    pub const fn new(value: u64) -> Self {
        Generation(value)
    }

    pub const fn value(self) -> u64 {
        self.0
    }

    /// The generation of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where the present comes from; the code takes it as an argument so that tests can turn it.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A count of bytes as people read it: `1.5 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(GIB << 10, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        for (unit, name) in UNITS {
            if self.0 >= unit {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                return match tenths % 10 {
                    0 => write!(f, "{} {name}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Whether all bytes are zero; it stops early, and runs at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    const PIECE: usize = 256;
    let mut pieces = bytes.chunks_exact(PIECE);
    pieces.all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
        && pieces.remainder().iter().all(|byte| *byte == 0)
}

/// A length in memory as the 64 bits that files and peers speak.
pub const fn to_u64(length: usize) -> u64 {
    // Every platform that Rust's standard library runs on has at most 64 bits of address.
    length as u64
}

/// A length that is known to fit in memory, because it was checked against a bound before.
///
/// # Panics
/// If it does not fit; only a 32-bit build could see that.
pub const fn to_usize(length: u64) -> usize {
    assert!(
        length <= usize::MAX as u64,
        "a checked length fits in memory"
    );
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the line above has excluded it"
    )]
    let fits = length as usize;
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_sixteen_hexadecimal_digits_both_ways() {
        let sequence = Sequence::new(0x2a);
        assert_eq!(sequence.to_string(), "000000000000002a");
        assert_eq!("000000000000002a".parse::<Sequence>().unwrap(), sequence);
        for wrong in [
            "2a",
            "000000000000002A",
            "+00000000000002a",
            "000000000000002g",
            "ffffffffffffffff",
            "",
        ] {
            assert!(wrong.parse::<Sequence>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_that_ends_before_it_starts_does_not_deserialize() {
        assert!(serde_json::from_str::<ByteRange>(r#"{"start":2,"end":1}"#).is_err());
    }

    #[test]
    fn splitting_covers_the_range_and_cuts_at_multiples() {
        let pieces: Vec<_> = ByteRange::new(3, 21)
            .unwrap()
            .split_at_multiples(8)
            .collect();
        let expected = [(3, 8), (8, 16), (16, 21)].map(|(a, b)| ByteRange::new(a, b).unwrap());
        assert_eq!(pieces, expected);
    }

    #[test]
    fn ranges_that_do_not_meet_intersect_in_nothing() {
        let low = ByteRange::new(0, 10).unwrap();
        let high = ByteRange::new(20, 30).unwrap();
        assert!(low.intersect(high).is_empty());
        assert!(high.intersect(low).is_empty());
    }

    #[test]
    fn byte_counts_read_naturally() {
        let said: Vec<String> = [0, 1023, 1024, 1536, 3 * GIB / 2, 8191 * GIB]
            .map(|n| Bytes(n).to_string())
            .to_vec();
        assert_eq!(
            said,
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1.5 GiB", "7.9 TiB"]
        );
    }
}
