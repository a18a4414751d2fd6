//! Which properties a type has: what is not among them is refused, as Azure refuses a misspelt one.

use serde_json::Value;

use crate::lab::arm::refusal::{Refusable, Refusal};

const ENVELOPE: &str =
    "location tags sku zones properties identity plan extendedLocation id name type etag kind";
const DISK: &str = "osType hyperVGeneration creationData diskSizeGB encryption networkAccessPolicy publicNetworkAccess \
    diskAccessId supportedCapabilities securityProfile purchasePlan encryptionSettingsCollection tier burstingEnabled \
    maxShares diskIOPSReadWrite diskMBpsReadWrite dataAccessAuthMode optimizedForFrequentAttach supportsHibernation \
    provisioningState diskState timeCreated uniqueId diskSizeBytes incremental";
const MACHINE: &str = "hardwareProfile storageProfile osProfile networkProfile diagnosticsProfile securityProfile \
    additionalCapabilities availabilitySet virtualMachineScaleSet proximityPlacementGroup priority evictionPolicy \
    billingProfile host hostGroup licenseType extensionsTimeBudget platformFaultDomain scheduledEventsProfile userData \
    capacityReservation applicationProfile provisioningState vmId instanceView timeCreated";
const INTERFACE: &str = "enableAcceleratedNetworking enableIPForwarding networkSecurityGroup ipConfigurations dnsSettings \
    workloadType nicType migrationPhase auxiliaryMode auxiliarySku disableTcpStateTracking provisioningState \
    virtualMachine primary macAddress resourceGuid";
const ADDRESS: &str = "publicIPAllocationMethod publicIPAddressVersion dnsSettings ddosSettings ipTags ipAddress \
    publicIPPrefix idleTimeoutInMinutes natGateway deleteOption linkedPublicIPAddress migrationPhase servicePublicIPAddress \
    provisioningState ipConfiguration resourceGuid";

/// Refuses a body that is no object, or has what its type has not.
pub(crate) fn check(kind: &str, body: &Value) -> Refusable<()> {
    let wrong = |message: String| Refusal::new(400, "InvalidRequestContent", message);
    let Value::Object(envelope) = body else {
        return Err(wrong("The request content is no object.".to_owned()));
    };
    known(ENVELOPE, envelope.keys(), kind)?;
    let properties = match envelope.get("properties") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(wrong("properties is no object.".to_owned())),
    };
    let of_type = match kind {
        "microsoft.compute/disks" | "microsoft.compute/snapshots" => DISK,
        "microsoft.compute/virtualmachines" => MACHINE,
        "microsoft.network/networkinterfaces" => INTERFACE,
        "microsoft.network/publicipaddresses" => ADDRESS,
        _ => return Ok(()),
    };
    known(of_type, properties.keys(), kind)
}

fn known<'a>(
    words: &str,
    mut names: impl Iterator<Item = &'a String>,
    kind: &str,
) -> Refusable<()> {
    let is_known = |name: &&String| words.split_whitespace().any(|word| word == name.as_str());
    match names.find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            400,
            "InvalidRequestContent",
            format!("Could not find member '{name}' on object of type '{kind}'."),
        )),
    }
}
