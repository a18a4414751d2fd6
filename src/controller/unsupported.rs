//! Fields that are there and that this version does not act upon: said, never silently ignored.

use kube::ResourceExt as _;

use crate::api::annotation;
use crate::api::hyperv_site::{HyperVSiteSpec, Resynchronization};
use crate::api::policy::ReplicationPolicy;
use crate::api::protected_vm::{DeletionPolicy, ProtectedVM};

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
        (
            spec.hosts.iter().any(|host| host.cluster.is_some()),
            "hosts[].cluster",
        ),
        (spec.azure.subscription_id.is_some(), "azure.subscriptionID"),
        (spec.azure.resource_group.is_some(), "azure.resourceGroup"),
        (spec.azure.network.is_some(), "azure.network"),
        (spec.azure.test_network.is_some(), "azure.testNetwork"),
        (spec.suspend, "suspend"),
    ];
    set(&fields)
}

/// Fields and annotations of a VM that ask for something and have no effect.
pub fn of_vm(vm: &ProtectedVM) -> Vec<&'static str> {
    let spec = &vm.spec;
    let asks = |annotation: &str| vm.annotations().contains_key(annotation);
    let fields = [
        (spec.replication_policy.is_some(), "replicationPolicy"),
        (spec.target.is_some(), "target"),
        (spec.suspend, "suspend (of a first copy that has begun)"),
        (asks(annotation::SYNC_NOW), annotation::SYNC_NOW),
        (asks(annotation::RESYNCHRONIZE), annotation::RESYNCHRONIZE),
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
