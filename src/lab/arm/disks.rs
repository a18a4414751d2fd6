//! Managed disks and their snapshots: imported, copied, read by signature.
//!
//! ```text
//! Import ── blob read ──► Unattached ── machine runs ──► Attached ── deallocated ──► Reserved
//!                           │  ▲ begin/endGetAccess
//!                           ▼  │
//!                         ActiveSAS        a snapshot is of the moment of its request, whoever writes
//! ```

use serde_json::{Value, json};

use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::content;
use crate::lab::arm::creation::{blank, keep};
use crate::lab::arm::import;
use crate::lab::arm::jobs::{Change, Job};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::serve::Answered;
use crate::units::GIB;

/// Signatures to one disk's snapshots at a time.
const SIGNATURES_MAX: usize = 5;
/// A signature lives sixty days at most.
const SECONDS_MAX: u64 = 60 * 24 * 3600;

pub(crate) fn put_disk(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    body: &Value,
) -> Refusable<Answered> {
    if let Some(there) = inner.get(id).cloned()
        && there.text("/properties/provisioningState") != Some("Failed")
    {
        return again(cloud, inner, there, body);
    }
    let creation = &body["properties"]["creationData"];
    check_sku(body)?;
    let mut resource = blank(id, "microsoft.compute/disks", body);
    let unique = uuid::Uuid::new_v4().to_string();
    resource.file = Some(unique.clone());
    resource.set("uniqueId", unique);
    resource.set("diskState", "Unattached");
    match creation["createOption"].as_str() {
        Some("Import") => {
            let import = import::check(cloud, body)?;
            let mut job = Job::new(id, Change::Make, cloud.takes());
            job.import = Some(import);
            let told = resource.body.clone();
            inner.put(resource)?;
            Ok(Answered::begun(202, Some(told), job))
        }
        Some("Copy") => {
            let source = copy_source(inner, creation)?;
            copy_bytes(inner, &source, &mut resource)?;
            keep(cloud, inner, resource, 202)
        }
        Some(other) => Err(Refusal::invalid(format!(
            "createOption '{other}' is not served here."
        ))),
        None => Err(Refusal::invalid(
            "Required parameter 'creationData.createOption' is missing (null).",
        )),
    }
}

/// A PUT of a disk that is there: nothing of where it came from can be changed.
fn again(
    cloud: &Cloud,
    inner: &mut Inner,
    mut there: Resource,
    body: &Value,
) -> Refusable<Answered> {
    let plain = |body: &Value| body["properties"]["creationData"].clone();
    if plain(body) != plain(&there.body) {
        return Err(Refusal::new(
            409,
            "PropertyChangeNotAllowed",
            "Changing property 'disk.creationData' is not allowed.",
        ));
    }
    there.body["tags"] = body["tags"].clone();
    if there.succeeded() {
        return keep(cloud, inner, there, 202);
    }
    // It is still being made: the job that makes it goes on.
    let told = there.body.clone();
    let job = inner
        .jobs
        .values()
        .find(|job| job.resource.eq_ignore_ascii_case(&there.id) && job.result.is_none());
    let job = job.cloned();
    inner.put(there)?;
    Ok(Answered {
        status: 202,
        body: Some(told),
        job,
    })
}

fn check_sku(body: &Value) -> Refusable<()> {
    const SKUS: [&str; 7] = [
        "Standard_LRS",
        "StandardSSD_LRS",
        "StandardSSD_ZRS",
        "Premium_LRS",
        "Premium_ZRS",
        "PremiumV2_LRS",
        "UltraSSD_LRS",
    ];
    match body["sku"]["name"].as_str() {
        None => Ok(()),
        Some(name) if SKUS.contains(&name) => {
            let zonal = body["zones"]
                .as_array()
                .is_some_and(|zones| !zones.is_empty());
            match name.ends_with("_ZRS") && zonal {
                true => Err(Refusal::invalid(
                    "A zone-redundant disk cannot be in a zone.",
                )),
                false => Ok(()),
            }
        }
        Some(name) => Err(Refusal::invalid(format!(
            "The value '{name}' of parameter 'sku.name' is not valid."
        ))),
    }
}

pub(crate) fn put_snapshot(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    body: &Value,
) -> Refusable<Answered> {
    if let Some(there) = inner.get(id).cloned() {
        return again(cloud, inner, there, body);
    }
    let creation = &body["properties"]["creationData"];
    if creation["createOption"].as_str() != Some("Copy") {
        return Err(Refusal::invalid(
            "A snapshot is made with createOption Copy.",
        ));
    }
    if body["properties"]["incremental"].as_bool() != Some(true) {
        return Err(Refusal::invalid(
            "Only incremental snapshots are served here.",
        ));
    }
    let source = copy_source(inner, creation)?;
    if source.body["location"] != body["location"] {
        return Err(Refusal::invalid("A snapshot is in the region of its disk."));
    }
    let mut resource = blank(id, "microsoft.compute/snapshots", body);
    let unique = uuid::Uuid::new_v4().to_string();
    resource.file = Some(unique.clone());
    resource.set("uniqueId", unique);
    resource.set("diskState", "Unattached");
    resource.set("completionPercent", 100);
    let family = source
        .text("/properties/uniqueId")
        .unwrap_or_default()
        .to_owned();
    resource.set("incrementalSnapshotFamilyId", family);
    copy_bytes(inner, &source, &mut resource)?;
    keep(cloud, inner, resource, 202)
}

fn copy_source(inner: &Inner, creation: &Value) -> Refusable<Resource> {
    let Some(source) = creation["sourceResourceId"].as_str() else {
        return Err(Refusal::invalid(
            "Required parameter 'creationData.sourceResourceId' is missing (null).",
        ));
    };
    let source = inner.need(source)?.clone();
    match source.succeeded() {
        true => Ok(source),
        false => Err(Refusal::new(
            409,
            "Conflict",
            format!("'{}' is not yet there.", source.id),
        )),
    }
}

fn copy_bytes(inner: &Inner, source: &Resource, resource: &mut Resource) -> Refusable<()> {
    let file = |of: &Resource| of.file.as_deref().map(|file| inner.file(file));
    if let (Some(from), Some(to)) = (file(source), file(resource)) {
        let copied = content::copy(&from, &to);
        copied.map_err(|error| Refusal::internal(error.to_string()))?;
    }
    for property in ["diskSizeBytes", "diskSizeGB", "osType", "hyperVGeneration"] {
        let value = &source.body["properties"][property];
        if !value.is_null() {
            resource.set(property, value.clone());
        }
    }
    Ok(())
}

/// What a disk of this size says of it.
pub(crate) fn size(resource: &mut Resource, bytes: u64) {
    resource.set("diskSizeBytes", bytes);
    resource.set("diskSizeGB", bytes.div_ceil(GIB));
}

pub(crate) fn act(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    action: &str,
    body: &Value,
) -> Refusable<Answered> {
    let resource = inner.need(id)?.clone();
    match action {
        "begingetaccess" => grant(cloud, inner, &resource, body),
        "endgetaccess" => {
            let job = Job::new(id, Change::Revoke, cloud.takes());
            Ok(Answered::begun(202, None, job))
        }
        _ => Err(Refusal::new(
            404,
            "InvalidAction",
            format!("'{action}' is no action of '{id}'."),
        )),
    }
}

fn grant(cloud: &Cloud, inner: &Inner, resource: &Resource, body: &Value) -> Refusable<Answered> {
    let seconds = body["durationInSeconds"]
        .as_u64()
        .filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    let Some(seconds) = seconds else {
        return Err(Refusal::invalid("durationInSeconds is out of range."));
    };
    if body["access"].as_str() != Some("Read") {
        return Err(Refusal::invalid("Only read access is served here."));
    }
    let conflict = |message: String| Err(Refusal::new(409, "OperationNotAllowed", message));
    if !resource.succeeded() || resource.text("/properties/diskState") == Some("Attached") {
        return conflict(format!(
            "'{}' is attached to a machine that runs, or not yet there.",
            resource.id
        ));
    }
    if resource.text("/properties/networkAccessPolicy") == Some("DenyAll") {
        return conflict(format!(
            "'{}' denies all access by its network access policy.",
            resource.id
        ));
    }
    let family = |one: &Resource| {
        one.text("/properties/incrementalSnapshotFamilyId")
            .map(str::to_owned)
    };
    if let Some(own) = family(resource) {
        let granted = |one: &&Resource| one.grant.is_some() && one.id != resource.id;
        let others = inner.resources.values().filter(granted);
        if others
            .filter(|one| family(one).as_ref() == Some(&own))
            .count()
            >= SIGNATURES_MAX
        {
            return conflict(format!(
                "{SIGNATURES_MAX} snapshots of the disk have an active signature already."
            ));
        }
    }
    let signature = uuid::Uuid::new_v4().simple().to_string();
    let unique = resource.text("/properties/uniqueId").unwrap_or_default();
    let url = format!(
        "{}/md-{unique}/abcd?sv=2018-03-28&sr=b&sp=r&sig={signature}",
        cloud.url()
    );
    let mut job = Job::new(&resource.id, Change::Grant, cloud.takes());
    job.seconds = seconds;
    job.result = Some(json!({ "accessSAS": url, "signature": signature }));
    Ok(Answered::begun(202, None, job))
}
