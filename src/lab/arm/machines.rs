//! Virtual machines: made of disks and adapters that exist, started, stopped, deleted.
//!
//! ```text
//! PUT ──► running ── powerOff ──► stopped ── start ──► running
//!            └────── deallocate ──► deallocated ── start ──► running        cores count while it is not deallocated
//! DELETE: its disks and adapters are free, or go with it where `deleteOption` says so
//! ```

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::lab::arm::catalog::SizeOffer;
use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::creation::{blank, keep};
use crate::lab::arm::jobs::{Change, Job};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::key;
use crate::lab::arm::serve::Answered;

const MACHINE: &str = "microsoft.compute/virtualmachines";

/// What a machine's body attaches.
struct Parts {
    /// Disk, and whether it goes with the machine.
    disks: Vec<(String, bool)>,
    adapters: Vec<(String, bool)>,
}

pub(crate) fn put(cloud: &Cloud, inner: &mut Inner, id: &str, body: &Value) -> Refusable<Answered> {
    let size = size_of(cloud, body)?;
    let parts = parts(body)?;
    if to_u64(parts.disks.len()).saturating_sub(1) > size.data_disks_max {
        let message = format!(
            "The size {} takes at most {} data disks.",
            size.name, size.data_disks_max
        );
        return Err(Refusal::new(409, "MaxNumberOfDisksExceeded", message));
    }
    if to_u64(parts.adapters.len()) > size.interfaces_max || parts.adapters.is_empty() {
        return Err(Refusal::invalid(format!(
            "The size {} takes 1 to {} network interfaces.",
            size.name, size.interfaces_max
        )));
    }
    check_disks(inner, id, body, &parts, size)?;
    check_adapters(inner, id, body, &parts)?;
    let there = inner.get(id).cloned();
    let runs = there.as_ref().is_some_and(allocated);
    if !runs {
        check_quota(cloud, inner, size)?;
    }
    let mut resource = blank(id, MACHINE, body);
    resource.power = Some(match there.and_then(|there| there.power) {
        Some(power) => power,
        None => "running".to_owned(),
    });
    resource.set("vmId", uuid::Uuid::new_v4().to_string());
    for (disk, _) in &parts.disks {
        let mut disk = inner.need(disk)?.clone();
        disk.body["managedBy"] = json!(id);
        disk.set("diskState", "Reserved");
        inner.put(disk)?;
    }
    for (adapter, _) in &parts.adapters {
        let mut adapter = inner.need(adapter)?.clone();
        adapter.set("virtualMachine", json!({ "id": id }));
        inner.put(adapter)?;
    }
    keep(cloud, inner, resource, 201)
}

fn to_u64(count: usize) -> u64 {
    crate::units::to_u64(count)
}

fn size_of<'a>(cloud: &'a Cloud, body: &Value) -> Refusable<&'a SizeOffer> {
    let name = body["properties"]["hardwareProfile"]["vmSize"].as_str();
    let name = name.ok_or_else(|| {
        Refusal::invalid("Required parameter 'hardwareProfile.vmSize' is missing (null).")
    })?;
    let size = cloud
        .options
        .sizes
        .iter()
        .find(|size| size.name.eq_ignore_ascii_case(name));
    match size {
        None => Err(Refusal::new(
            400,
            "InvalidParameter",
            format!("The value {name} provided for the VM size is not valid."),
        )),
        Some(size) if size.restricted => Err(Refusal::new(
            409,
            "SkuNotAvailable",
            format!(
                "The requested VM size {name} is currently not available in this location for this subscription."
            ),
        )),
        Some(size) => Ok(size),
    }
}

fn parts(body: &Value) -> Refusable<Parts> {
    let properties = &body["properties"];
    if !properties["osProfile"].is_null() {
        return Err(Refusal::invalid(
            "Parameter 'osProfile' is not allowed with an OS disk that is attached.",
        ));
    }
    let goes = |value: &Value| value["deleteOption"].as_str() == Some("Delete");
    let disk = |disk: &Value, what: &str| {
        if disk["createOption"].as_str() != Some("Attach") {
            return Err(Refusal::invalid(format!(
                "{what}: createOption must be Attach here."
            )));
        }
        let id = disk["managedDisk"]["id"].as_str();
        let id = id.ok_or_else(|| {
            Refusal::invalid(format!("{what}: 'managedDisk.id' is missing (null)."))
        })?;
        Ok((id.to_owned(), goes(disk)))
    };
    let profile = &properties["storageProfile"];
    let os = &profile["osDisk"];
    if os["osType"].as_str().is_none() {
        return Err(Refusal::invalid(
            "Required parameter 'osDisk.osType' is missing (null).",
        ));
    }
    let mut disks = vec![disk(os, "osDisk")?];
    let mut luns = BTreeSet::new();
    for data in profile["dataDisks"].as_array().into_iter().flatten() {
        let lun = data["lun"].as_u64().filter(|lun| *lun < 64);
        if !lun.is_some_and(|lun| luns.insert(lun)) {
            return Err(Refusal::invalid(
                "dataDisks: a 'lun' is missing, out of range or used twice.",
            ));
        }
        disks.push(disk(data, "dataDisks")?);
    }
    let adapters = properties["networkProfile"]["networkInterfaces"].as_array();
    let adapters: Vec<(String, bool)> = adapters
        .into_iter()
        .flatten()
        .filter_map(|adapter| {
            Some((
                adapter["id"].as_str()?.to_owned(),
                goes(&adapter["properties"]),
            ))
        })
        .collect();
    Ok(Parts { disks, adapters })
}

fn check_disks(
    inner: &Inner,
    id: &str,
    body: &Value,
    parts: &Parts,
    size: &SizeOffer,
) -> Refusable<()> {
    for (place, (disk_id, _)) in parts.disks.iter().enumerate() {
        let disk = inner.need(disk_id)?;
        if !disk.succeeded() {
            return Err(Refusal::new(
                409,
                "Conflict",
                format!("Disk '{disk_id}' is not in a state to be attached."),
            ));
        }
        if let Some(other) = disk.machine().filter(|other| key(other) != key(id)) {
            let message =
                format!("Disk '{disk_id}' cannot be attached: it is attached to VM '{other}'.");
            return Err(Refusal::new(409, "ConflictingUserInput", message));
        }
        if disk.grant.is_some() {
            let message = format!(
                "Disk '{disk_id}' cannot be attached: it has an active shared access signature."
            );
            return Err(Refusal::new(409, "ConflictingUserInput", message));
        }
        if disk.body["location"] != body["location"] || (disk.body["zones"] != body["zones"]) {
            return Err(Refusal::invalid(format!(
                "Disk '{disk_id}' is in another region or zone than the VM."
            )));
        }
        let generation = disk.text("/properties/hyperVGeneration").unwrap_or("V1");
        if place == 0
            && !size
                .generations
                .split(',')
                .any(|offered| offered == generation)
        {
            let message = format!(
                "The size {} cannot boot Hypervisor Generation '{generation}'.",
                size.name
            );
            return Err(Refusal::new(
                400,
                "BadRequestHyperVGenerationNotSupported",
                message,
            ));
        }
    }
    let different: BTreeSet<String> = parts.disks.iter().map(|(disk, _)| key(disk)).collect();
    match different.len() == parts.disks.len() {
        true => Ok(()),
        false => Err(Refusal::invalid("A disk is attached twice.")),
    }
}

fn check_adapters(inner: &Inner, id: &str, body: &Value, parts: &Parts) -> Refusable<()> {
    for (adapter_id, _) in &parts.adapters {
        let adapter = inner.need(adapter_id)?;
        if let Some(other) = adapter.machine().filter(|other| key(other) != key(id)) {
            let message =
                format!("Network Interface '{adapter_id}' is in use by virtual machine '{other}'.");
            return Err(Refusal::new(400, "NicInUse", message));
        }
        if adapter.body["location"] != body["location"] {
            return Err(Refusal::invalid(format!(
                "'{adapter_id}' is in another region than the VM."
            )));
        }
    }
    Ok(())
}

/// Whether it has a host, and counts.
fn allocated(machine: &Resource) -> bool {
    machine
        .power
        .as_deref()
        .is_some_and(|power| power != "deallocated")
}

/// What is used of a quota.
pub(crate) fn used(cloud: &Cloud, inner: &Inner, name: &str) -> u64 {
    let machines = || inner.resources.values().filter(|one| one.kind == MACHINE);
    let sizes = || {
        machines().filter(|one| allocated(one)).filter_map(|one| {
            let name = one.text("/properties/hardwareProfile/vmSize")?;
            cloud
                .options
                .sizes
                .iter()
                .find(|size| size.name.eq_ignore_ascii_case(name))
        })
    };
    match name {
        "cores" => sizes().map(|size| size.cpus).sum(),
        "virtualMachines" => to_u64(machines().count()),
        "PublicIPAddresses" => {
            let addresses = inner.resources.values();
            to_u64(
                addresses
                    .filter(|one| one.kind == "microsoft.network/publicipaddresses")
                    .count(),
            )
        }
        family => sizes()
            .filter(|size| size.family == family)
            .map(|size| size.cpus)
            .sum(),
    }
}

fn check_quota(cloud: &Cloud, inner: &Inner, size: &SizeOffer) -> Refusable<()> {
    for quota in cloud.options.quotas.iter().filter(|quota| quota.compute) {
        let needed = match quota.name.as_str() {
            "virtualMachines" => 1,
            "cores" => size.cpus,
            family if family == size.family => size.cpus,
            _ => 0,
        };
        let used = used(cloud, inner, &quota.name);
        if needed > 0 && used + needed > quota.limit {
            let message = format!(
                "Operation could not be completed as it results in exceeding approved {} quota. Current limit: {}, used: {used}, required: {needed}.",
                quota.name, quota.limit
            );
            return Err(Refusal::new(409, "OperationNotAllowed", message));
        }
    }
    Ok(())
}

pub(crate) fn act(cloud: &Cloud, inner: &mut Inner, id: &str, action: &str) -> Refusable<Answered> {
    let machine = inner.need(id)?.clone();
    if !machine.succeeded() {
        return Err(Refusal::new(
            409,
            "Conflict",
            format!("Another operation on '{id}' is in progress."),
        ));
    }
    let (change, meanwhile) = match action {
        "start" => (Change::Start, "starting"),
        "poweroff" => (Change::PowerOff, "stopping"),
        "deallocate" => (Change::Deallocate, "deallocating"),
        _ => {
            return Err(Refusal::new(
                404,
                "InvalidAction",
                format!("'{action}' is no action of '{id}'."),
            ));
        }
    };
    if change == Change::Start && !allocated(&machine) {
        let size = size_of(cloud, &machine.body)?;
        check_quota(cloud, inner, size)?;
    }
    let mut machine = machine;
    machine.power = Some(meanwhile.to_owned());
    machine.set("provisioningState", "Updating");
    inner.put(machine)?;
    Ok(Answered::begun(
        202,
        None,
        Job::new(id, change, cloud.takes()),
    ))
}

/// A machine's disks are in this state from now on.
pub(crate) fn attached(inner: &mut Inner, machine: &Resource, state: &str) -> Refusable<()> {
    let Ok(parts) = parts(&machine.body) else {
        return Ok(());
    };
    for (disk, _) in parts.disks {
        if let Some(mut disk) = inner.get(&disk).cloned() {
            disk.set("diskState", state);
            inner.put(disk)?;
        }
    }
    Ok(())
}

/// A machine goes: what it was made of is free, or goes with it.
pub(crate) fn detach(inner: &mut Inner, machine: &Resource) -> Refusable<()> {
    let Ok(parts) = parts(&machine.body) else {
        return Ok(());
    };
    for (id, goes) in parts.disks {
        let Some(mut disk) = inner.get(&id).cloned() else {
            continue;
        };
        if goes {
            inner.remove(&id)?;
            continue;
        }
        disk.body["managedBy"] = Value::Null;
        disk.set("diskState", "Unattached");
        inner.put(disk)?;
    }
    for (id, goes) in parts.adapters {
        let Some(mut adapter) = inner.get(&id).cloned() else {
            continue;
        };
        adapter.properties().remove("virtualMachine");
        if goes {
            crate::lab::arm::network::release(inner, &adapter)?;
            inner.remove(&id)?;
            continue;
        }
        inner.put(adapter)?;
    }
    Ok(())
}

pub(crate) fn instance_view(inner: &Inner, id: &str) -> Refusable<Answered> {
    Ok(Answered::of(view(inner.need(id)?)))
}

/// Whether it runs, in Azure's words.
pub(crate) fn view(machine: &Resource) -> Value {
    let power = machine.power.as_deref().unwrap_or("unknown");
    let display = |code: String| json!({ "code": code, "level": "Info", "displayStatus": code });
    let provisioned = match machine.succeeded() {
        true => "ProvisioningState/succeeded",
        false => "ProvisioningState/updating",
    };
    json!({ "statuses": [display(provisioned.to_owned()), display(format!("PowerState/{power}"))] })
}
