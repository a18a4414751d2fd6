//! What is known of an image file while nobody of ours writes it, and whether it still is what it was.
//!
//! | the record says | the file must have | else |
//! |---|---|---|
//! | at rest | the size, modification time and DataWriteGuid that it had | somebody changed it |
//! | written | a VHDX: one of the DataWriteGuids that we have given it | somebody changed it |
//! |         | a VHD: nothing, it has no such id                       | – |
//!
//! *At rest* is recorded when an image is closed, or opened and not yet written. *Written* is recorded before our first
//! change of it ([`crate::lab::hypervisor::witness`]), names the id before and the id after, and so is true of the file
//! whenever we are killed: our own writes raise no alarm, and the intent map has them. What stays unseen is who edits a
//! VHD between a kill and the next start; and a tool that writes into a VHDX there without giving it a new id, against
//! its specification. (Hyper-V's own change tracking knows no VHD at all.)

use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How an image file looks from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fingerprint {
    pub(crate) size: u64,
    pub(crate) modified: Timestamp,
    /// Of a VHDX.
    pub(crate) data_write: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum ImageState {
    AtRest(Fingerprint),
    Written {
        /// The DataWriteGuids that the file may have: none for a VHD.
        data_writes: Vec<Uuid>,
    },
}

impl Fingerprint {
    pub(crate) fn of(path: &Path, data_write: Option<Uuid>) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let modified = Timestamp::try_from(metadata.modified()?);
        Ok(Fingerprint {
            size: metadata.len(),
            // A time that no calendar has is as good as any other to see a change by.
            modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
            data_write,
        })
    }
}

impl ImageState {
    /// The state before a change that gives the file the id `next`, if it has ids.
    pub(crate) fn before_write(&self, next: Option<Uuid>) -> Self {
        let known = match self {
            ImageState::AtRest(found) => found.data_write.into_iter().collect(),
            ImageState::Written { data_writes } => data_writes.clone(),
        };
        let mut data_writes: Vec<Uuid> = known;
        if let Some(next) = next
            && !data_writes.contains(&next)
        {
            data_writes.push(next);
        }
        ImageState::Written { data_writes }
    }

    /// Whether the file is as we left it; else what says that it is not.
    pub(crate) fn check(&self, found: &Fingerprint) -> Result<(), String> {
        match self {
            ImageState::AtRest(left) if left == found => Ok(()),
            ImageState::AtRest(left) => Err(difference(left, found)),
            ImageState::Written { data_writes } => match found.data_write {
                Some(id) if !data_writes.contains(&id) => {
                    let known: Vec<_> = data_writes.iter().map(Uuid::to_string).collect();
                    let known = known.join(" or ");
                    Err(format!("its DataWriteGuid is {id}, expected {known}"))
                }
                _ => Ok(()),
            },
        }
    }
}

fn difference(left: &Fingerprint, found: &Fingerprint) -> String {
    if let (Some(left), Some(found)) = (left.data_write, found.data_write)
        && left != found
    {
        return format!("its DataWriteGuid was {left} and is {found}");
    }
    if left.size != found.size {
        return format!("its file had {} bytes and has {}", left.size, found.size);
    }
    format!(
        "its file was modified at {} and before at {}",
        found.modified, left.modified
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rest(size: u64, second: i64, id: Option<u128>) -> Fingerprint {
        Fingerprint {
            size,
            modified: Timestamp::from_second(second).unwrap(),
            data_write: id.map(Uuid::from_u128),
        }
    }

    #[test]
    fn an_image_at_rest_must_be_exactly_as_it_was() {
        let left = at_rest(10, 1, Some(1));
        let state = ImageState::AtRest(left.clone());
        assert_eq!(state.check(&left), Ok(()));
        for changed in [
            at_rest(11, 1, Some(1)),
            at_rest(10, 2, Some(1)),
            at_rest(10, 1, Some(2)),
        ] {
            assert!(state.check(&changed).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn our_own_writes_raise_no_alarm_whenever_we_were_killed() {
        let left = at_rest(10, 1, Some(1));
        let next = Some(Uuid::from_u128(2));
        let state = ImageState::AtRest(left).before_write(next);
        assert_eq!(state.check(&at_rest(10, 1, Some(1))), Ok(()));
        assert_eq!(state.check(&at_rest(99, 9, Some(2))), Ok(()));
        assert!(state.check(&at_rest(99, 9, Some(3))).is_err());
    }

    #[test]
    fn a_file_without_ids_that_was_being_written_is_believed() {
        let state = ImageState::AtRest(at_rest(10, 1, None)).before_write(None);
        assert_eq!(state.check(&at_rest(99, 9, None)), Ok(()));
    }
}
