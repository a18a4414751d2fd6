//! What a verification found. Data only; it is what `--json` prints.

use serde::Serialize;

use crate::datapath::content::compare::Compared;
use crate::datapath::inspect::pending::Waiting;
use crate::ids::{DiskId, RecoveryPointId, ReplicaId};
use crate::report::Code;
use crate::units::Sequence;

/// Findings of a kind that are kept; all are counted.
const FINDINGS_MAX: usize = 1000;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub replica: ReplicaId,
    pub applied: Sequence,
    pub points: usize,
    /// Snapshots of all points that are as they should be.
    pub snapshots: u64,
    /// Parts of chunk tables that were read.
    pub tables: u64,
    /// The point whose content was compared.
    pub point: Option<RecoveryPointId>,
    pub disks: Vec<DiskReport>,
    pub inbox: InboxReport,
    #[serde(flatten)]
    pub findings: Findings,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskReport {
    pub disk: DiskId,
    /// Bytes.
    pub size: u64,
    /// Nothing if it could not be compared.
    pub compared: Option<Compared>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxReport {
    /// What is in it; nothing if it cannot be listed.
    pub waiting: Option<Waiting>,
    /// Seals that follow what was applied, and whose logs are right.
    pub seals: u64,
    pub logs: u64,
    /// Seals of a chain that was retired.
    pub retired: u64,
    /// Why it cannot be listed.
    pub unreadable: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// What is not as it should be.
    pub damage: Vec<Finding>,
    pub damage_count: usize,
    /// What went away while it was looked at, as it may.
    pub gone: Vec<Finding>,
    pub gone_count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// A blob, or a disk at a recovery point.
    pub object: String,
    pub what: String,
}

impl Findings {
    pub fn is_sound(&self) -> bool {
        self.damage_count == 0
    }

    pub(super) fn damage(&mut self, code: Code, object: &str, what: impl Into<String>) {
        self.damage_count += 1;
        keep(&mut self.damage, Some(code), object, what.into());
    }

    pub(super) fn gone(&mut self, object: &str, what: &str) {
        self.gone_count += 1;
        keep(&mut self.gone, None, object, what.to_owned());
    }
}

fn keep(findings: &mut Vec<Finding>, code: Option<Code>, object: &str, what: String) {
    if findings.len() < FINDINGS_MAX {
        findings.push(Finding {
            code,
            object: object.to_owned(),
            what,
        });
    }
}
