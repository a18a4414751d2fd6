//! Fields that are there and that this version does not act upon: said, never silently ignored.

use crate::api::hyperv_site::{HyperVSiteSpec, Resynchronization};
use crate::api::policy::{RecoveryPoints, ReplicationPolicy};
use crate::api::protected_vm::{DeletionPolicy, ProtectedVMSpec};

/// The reason of the event that names them.
pub const REASON: &str = "FieldNotSupportedYet";

/// Fields of a site that differ from their defaults and have no effect.
pub fn of_site(spec: &HyperVSiteSpec) -> Vec<&'static str> {
    let policy = &spec.replication_policy;
    let defaults = ReplicationPolicy::default();
    let fields = [
        (
            policy.copy_frequency != defaults.copy_frequency,
            "replicationPolicy.copyFrequency",
        ),
        (
            policy.recovery_points != RecoveryPoints::default(),
            "replicationPolicy.recoveryPoints",
        ),
        (
            policy.app_consistent_frequency != defaults.app_consistent_frequency,
            "replicationPolicy.appConsistentFrequency",
        ),
        (
            spec.resynchronization != Resynchronization::default(),
            "resynchronization",
        ),
        (
            spec.bandwidth
                .as_ref()
                .is_some_and(|bandwidth| !bandwidth.schedule.is_empty()),
            "bandwidth.schedule",
        ),
        (spec.azure.network.is_some(), "azure.network"),
        (spec.azure.test_network.is_some(), "azure.testNetwork"),
        (spec.suspend, "suspend"),
    ];
    set(&fields)
}

/// Fields of a VM that differ from their defaults and have no effect.
pub fn of_vm(spec: &ProtectedVMSpec) -> Vec<&'static str> {
    let fields = [
        (spec.replication_policy.is_some(), "replicationPolicy"),
        (spec.target.is_some(), "target"),
        (spec.suspend, "suspend"),
        (
            spec.deletion_policy != DeletionPolicy::Retain,
            "deletionPolicy",
        ),
    ];
    set(&fields)
}

fn set(fields: &[(bool, &'static str)]) -> Vec<&'static str> {
    fields
        .iter()
        .filter_map(|(set, name)| set.then_some(*name))
        .collect()
}
