//! The text of a tracking cursor: from which generation of which disk's tracking changes are counted.
//!
//! ```text
//! 1/<tracking id>/<generation>/<slot>/<size>      1 is the version of this text
//! ```

use std::fmt;

use uuid::Uuid;

use crate::host::TrackingCursor;
use crate::ids::DiskSlot;

const VERSION: &str = "1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) tracking: Uuid,
    /// The first generation whose changes count.
    pub(crate) generation: u64,
    pub(crate) slot: DiskSlot,
    pub(crate) size: u64,
}

impl Cursor {
    /// The cursor that a text stands for, if it is one of ours.
    pub(crate) fn parse(cursor: &TrackingCursor) -> Option<Self> {
        let mut parts = cursor.as_str().split('/');
        let mut next = || parts.next();
        let version = next()?;
        let cursor = Cursor {
            tracking: next()?.parse().ok()?,
            generation: next()?.parse().ok()?,
            slot: next()?.parse().ok()?,
            size: next()?.parse().ok()?,
        };
        (version == VERSION && next().is_none()).then_some(cursor)
    }

    pub(crate) fn opaque(&self) -> TrackingCursor {
        TrackingCursor::new(self.to_string())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor {
            tracking,
            generation,
            slot,
            size,
        } = self;
        write!(f, "{VERSION}/{tracking}/{generation}/{slot}/{size}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let cursor = Cursor {
            tracking: Uuid::from_u128(7),
            generation: 3,
            slot: "scsi:0:1".parse().unwrap(),
            size: 1 << 30,
        };
        assert_eq!(Cursor::parse(&cursor.opaque()), Some(cursor.clone()));
        let text = cursor.to_string();
        for wrong in [
            String::new(),
            text.replacen('1', "2", 1),
            format!("{text}/"),
            text.replace("scsi", "nvme"),
        ] {
            assert_eq!(Cursor::parse(&TrackingCursor::new(wrong)), None);
        }
    }
}
