//! PUT and DELETE: what holds for every type, and then each type's own rules. A repeated PUT changes nothing but what it
//! says; a repeated DELETE finds nothing, which is success.

use serde_json::{Value, json};

use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::jobs::{Change, Job, State};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::{group_of, name_of};
use crate::lab::arm::serve::Answered;
use crate::lab::arm::{disks, machines, network, shape};

pub(crate) fn group(inner: &mut Inner, id: &str, body: &Value) -> Refusable<Answered> {
    if body["location"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::new(
            400,
            "LocationRequired",
            "The location property is required for this definition.",
        ));
    }
    let status = if inner.get(id).is_some() { 200 } else { 201 };
    let mut resource = blank(id, "resourcegroup", body);
    resource.set("provisioningState", "Succeeded");
    let told = resource.body.clone();
    inner.put(resource)?;
    Ok(Answered {
        status,
        body: Some(told),
        job: None,
    })
}

pub(crate) fn put(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    kind: &str,
    body: &Value,
) -> Refusable<Answered> {
    let group = group_of(id);
    if inner.get(&group).is_none() {
        let message = format!("Resource group '{}' could not be found.", name_of(&group));
        return Err(Refusal::new(404, "ResourceGroupNotFound", message));
    }
    shape::check(kind, body)?;
    check_name(id)?;
    if let Some(job) = under_way(inner, id) {
        let message = format!("Another operation ({job}) on '{id}' is in progress.");
        return Err(Refusal::new(409, "Conflict", message));
    }
    if !kind.ends_with("/subnets") && body["location"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::new(
            400,
            "LocationRequired",
            "The location property is required for this definition.",
        ));
    }
    match kind {
        "microsoft.compute/disks" => disks::put_disk(cloud, inner, id, body),
        "microsoft.compute/snapshots" => disks::put_snapshot(cloud, inner, id, body),
        "microsoft.compute/virtualmachines" => machines::put(cloud, inner, id, body),
        "microsoft.network/networkinterfaces" => network::put_interface(cloud, inner, id, body),
        "microsoft.network/publicipaddresses" => network::put_address(cloud, inner, id, body),
        "microsoft.network/virtualnetworks"
        | "microsoft.network/virtualnetworks/subnets"
        | "microsoft.network/networksecuritygroups"
        | "microsoft.compute/availabilitysets"
        | "microsoft.compute/diskencryptionsets" => keep(cloud, inner, blank(id, kind, body), 201),
        _ => Err(Refusal::new(
            404,
            "InvalidResourceType",
            format!("The resource type '{kind}' is not served here."),
        )),
    }
}

pub(crate) fn delete(cloud: &Cloud, inner: &mut Inner, id: &str) -> Refusable<Answered> {
    let Some(resource) = inner.get(id).cloned() else {
        return Ok(Answered {
            status: 204,
            body: None,
            job: None,
        });
    };
    let used = |code: &str, status, by: &str| {
        Err(Refusal::new(
            status,
            code,
            format!("'{id}' is attached to '{by}' and cannot be deleted."),
        ))
    };
    match (resource.kind.as_str(), resource.machine()) {
        ("microsoft.compute/disks", Some(machine)) => {
            return used("OperationNotAllowed", 409, machine);
        }
        ("microsoft.network/networkinterfaces", Some(machine)) => {
            return used("NicInUse", 400, machine);
        }
        _ => {}
    }
    if resource.grant.is_some() {
        let message =
            format!("'{id}' has an active shared access signature; call EndGetAccess first.");
        return Err(Refusal::new(409, "OperationNotAllowed", message));
    }
    if let Some(adapter) = resource.text("/properties/ipConfiguration/id") {
        return used("PublicIPAddressCannotBeDeleted", 400, adapter);
    }
    let going = inner.jobs.values().find(|job| {
        let same = job.resource.eq_ignore_ascii_case(id);
        same && job.state == State::InProgress && job.change == Change::Remove
    });
    if let Some(job) = going.cloned() {
        return Ok(Answered::begun(202, None, job));
    }
    let mut resource = resource;
    if resource.kind == "microsoft.network/networkinterfaces" {
        network::release(inner, &resource)?;
    }
    resource.set("provisioningState", "Deleting");
    inner.put(resource)?;
    // What was being made is not made any more.
    let made: Vec<String> = inner
        .jobs
        .values()
        .filter(|job| job.resource.eq_ignore_ascii_case(id) && job.state == State::InProgress)
        .map(|job| job.id.clone())
        .collect();
    for job in made {
        inner.remove_job(&job)?;
    }
    let job = Job::new(id, Change::Remove, cloud.takes());
    Ok(Answered::begun(202, None, job))
}

/// A resource as its body says, without anything of its own yet.
pub(crate) fn blank(id: &str, kind: &str, body: &Value) -> Resource {
    let mut body = body.clone();
    if let Some(object) = body.as_object_mut() {
        object.insert("id".to_owned(), json!(id));
        object.insert("name".to_owned(), json!(name_of(id)));
        object.insert("type".to_owned(), json!(kind));
    }
    let mut resource = Resource {
        id: id.to_owned(),
        kind: kind.to_owned(),
        body,
        file: None,
        power: None,
        grant: None,
    };
    resource.set("provisioningState", "Creating");
    resource
}

/// Keeps a resource that is being made, and the job that makes it.
pub(crate) fn keep(
    cloud: &Cloud,
    inner: &mut Inner,
    resource: Resource,
    status: u16,
) -> Refusable<Answered> {
    let status = match inner.get(&resource.id) {
        Some(_) if status == 201 => 200,
        Some(_) | None => status,
    };
    let job = Job::new(&resource.id, Change::Make, cloud.takes());
    let told = resource.body.clone();
    inner.put(resource)?;
    Ok(Answered::begun(status, Some(told), job))
}

/// What is going on with a resource and forbids anything else.
fn under_way(inner: &Inner, id: &str) -> Option<&'static str> {
    let mut jobs = inner.jobs.values();
    let job =
        jobs.find(|job| job.resource.eq_ignore_ascii_case(id) && job.state == State::InProgress)?;
    match job.change {
        // Made again while it is being made: Azure takes it for the same request.
        Change::Make => None,
        Change::Remove => Some("a deletion"),
        Change::Start | Change::PowerOff | Change::Deallocate => Some("a change of power"),
        Change::Grant | Change::Revoke => Some("a change of access"),
    }
}

fn check_name(id: &str) -> Refusable<()> {
    let name = name_of(id);
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if (1..=80).contains(&name.len()) && name.chars().all(known) && starts && ends {
        return Ok(());
    }
    Err(Refusal::new(
        400,
        "InvalidResourceName",
        format!("Resource name {name} is invalid."),
    ))
}
