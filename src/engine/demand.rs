//! `resync.json`: which disks have to be compared with their replica, and why.
//!
//! ```text
//! demanded ──► the copy's point is named, before anything of it is sealed ──► everything of it is sealed: removed
//! ```
//! So a restart knows whether the copy that storage tells of is the one that was demanded, or one from before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::ids::{DiskId, FrozenPointId};
use crate::report::{Code, Fault};

/// A comparison that is demanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    pub disks: BTreeSet<DiskId>,
    pub reason: Fault,
    /// The point that is compared, once there is one.
    pub point: Option<FrozenPointId>,
}

impl Demand {
    /// What of it is about `disks`, if anything is: one that is not replicated any more needs no comparison.
    pub fn within(mut self, disks: &BTreeSet<DiskId>) -> Option<Self> {
        self.disks.retain(|disk| disks.contains(disk));
        (!self.disks.is_empty()).then_some(self)
    }
}

/// Demands that `disks` be compared, beside those that are demanded already.
///
/// # Errors
/// If it cannot be written down.
pub fn add(
    folder: &Path,
    disks: impl IntoIterator<Item = DiskId>,
    reason: Fault,
) -> Result<Demand, durable::Error> {
    let disks: BTreeSet<DiskId> = disks.into_iter().collect();
    let demand = match read(folder, &disks)? {
        Some(known) => Demand {
            disks: known.disks.union(&disks).cloned().collect(),
            reason: known.reason,
            point: None,
        },
        None => Demand {
            disks,
            reason,
            point: None,
        },
    };
    durable::write_record(&path(folder), &demand)?;
    Ok(demand)
}

/// The demand, if there is one. One that cannot be read demands `all` disks.
///
/// # Errors
/// If it is not known whether there is one.
pub fn read(folder: &Path, all: &BTreeSet<DiskId>) -> Result<Option<Demand>, durable::Error> {
    match durable::read_record(&path(folder)) {
        Err(error @ (durable::Error::Damaged { .. } | durable::Error::Content { .. })) => {
            Ok(Some(Demand {
                disks: all.clone(),
                reason: Fault::of(Code::AgentStateDamaged, &error),
                point: None,
            }))
        }
        read => read,
    }
}

/// Names the point that is compared.
///
/// # Errors
/// If it cannot be written down.
pub fn begin(
    folder: &Path,
    demand: &Demand,
    point: &FrozenPointId,
) -> Result<Demand, durable::Error> {
    let begun = Demand {
        point: Some(point.clone()),
        ..demand.clone()
    };
    durable::write_record(&path(folder), &begun)?;
    Ok(begun)
}

/// Everything that was demanded is sealed.
///
/// # Errors
/// If it cannot be removed.
pub fn end(folder: &Path) -> Result<(), durable::Error> {
    durable::remove(&path(folder))
}

fn path(folder: &Path) -> PathBuf {
    folder.join("resync.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(number: u8) -> DiskId {
        DiskId::from_random(number.into())
    }

    fn lost() -> Fault {
        Fault::new(Code::TrackingLost, "the host crashed")
    }

    #[test]
    fn a_second_demand_adds_its_disks_and_voids_the_point_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = add(folder.path(), [disk(1)], lost()).unwrap();
        begin(folder.path(), &first, &"p".parse().unwrap()).unwrap();
        add(
            folder.path(),
            [disk(2)],
            Fault::new(Code::DiskChangedOffline, "mounted"),
        )
        .unwrap();
        let all = [disk(1), disk(2)].into();
        let demand = read(folder.path(), &all).unwrap().unwrap();
        assert_eq!((demand.disks, demand.reason), (all, lost()));
        assert_eq!(demand.point, None);
    }

    #[test]
    fn a_disk_that_is_not_replicated_any_more_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let both = add(folder.path(), [disk(1), disk(2)], lost()).unwrap();
        let left = both.clone().within(&[disk(2), disk(3)].into()).unwrap();
        assert_eq!(left.disks, [disk(2)].into());
        assert_eq!(both.within(&[disk(3)].into()), None);
    }

    #[test]
    fn a_demand_that_cannot_be_read_demands_all_disks() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(path(folder.path()), "torn").unwrap();
        let all: BTreeSet<DiskId> = [disk(1), disk(2)].into();
        let demand = read(folder.path(), &all).unwrap().unwrap();
        assert_eq!((demand.disks, demand.point), (all, None));
    }
}
