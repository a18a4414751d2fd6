//! Fields that are there and that this version does not act upon: said, never silently ignored.

use crate::api::hyperv_site::HyperVSiteSpec;
use crate::api::protected_vm::ProtectedVM;

/// The reason of the event that names them.
pub const REASON: &str = "FieldNotSupportedYet";

/// Fields of a site that differ from their defaults and have no effect.
pub fn of_site(spec: &HyperVSiteSpec) -> Vec<&'static str> {
    let fields = [
        (
            spec.hosts.iter().any(|host| host.cluster.is_some()),
            "hosts[].cluster",
        ),
        (spec.azure.subscription_id.is_some(), "azure.subscriptionID"),
        (spec.azure.resource_group.is_some(), "azure.resourceGroup"),
        (spec.azure.network.is_some(), "azure.network"),
        (spec.azure.test_network.is_some(), "azure.testNetwork"),
    ];
    set(&fields)
}

/// Fields of a VM that ask for something and have no effect.
pub fn of_vm(vm: &ProtectedVM) -> Vec<&'static str> {
    set(&[(vm.spec.target.is_some(), "target")])
}

fn set(fields: &[(bool, &'static str)]) -> Vec<&'static str> {
    fields
        .iter()
        .filter_map(|(set, name)| set.then_some(*name))
        .collect()
}
