//! GET: resources, lists of them, operations, and what the region offers.

use serde_json::{Value, json};

use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::jobs::{Change, State};
use crate::lab::arm::machines;
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::{key, name_of};
use crate::lab::arm::serve::Answered;

pub(crate) fn group(inner: &Inner, id: &str) -> Refusable<Answered> {
    let missing = || {
        let message = format!("Resource group '{}' could not be found.", name_of(id));
        Refusal::new(404, "ResourceGroupNotFound", message)
    };
    Ok(Answered::of(
        inner.get(id).ok_or_else(missing)?.body.clone(),
    ))
}

pub(crate) fn resource(inner: &Inner, id: &str, expand: Option<&str>) -> Refusable<Answered> {
    if let Some(found) = inner.get(id) {
        let mut told = found.body.clone();
        if found.power.is_some()
            && expand.is_some_and(|what| what.eq_ignore_ascii_case("instanceView"))
        {
            told["properties"]["instanceView"] = machines::view(found);
        }
        return Ok(Answered::of(told));
    }
    // A subnet may stand in its network.
    let lower = key(id);
    let subnet = lower.split_once("/subnets/").and_then(|(network, name)| {
        let subnets = inner
            .get(network)?
            .body
            .pointer("/properties/subnets")?
            .as_array()?;
        let mut subnets = subnets.iter();
        subnets.find(|one| {
            one["name"]
                .as_str()
                .is_some_and(|other| other.eq_ignore_ascii_case(name))
        })
    });
    let mut told = subnet.cloned().ok_or_else(|| Refusal::not_found(id))?;
    told["id"] = json!(id);
    Ok(Answered::of(told))
}

/// The status of an operation; with `monitor`, its result once there is one.
pub(crate) fn operation(inner: &Inner, id: &str, monitor: bool) -> Refusable<Answered> {
    let missing = || {
        Refusal::new(
            404,
            "NotFound",
            format!("The operation '{id}' was not found."),
        )
    };
    let job = inner.jobs.get(id).ok_or_else(missing)?;
    if !monitor {
        let mut told = job.told();
        // Who polls is told the signature's URL, and no more.
        if let Some(output) = told
            .pointer_mut("/properties/output")
            .and_then(Value::as_object_mut)
        {
            output.remove("signature");
        }
        return Ok(Answered::of(told));
    }
    match (&job.state, job.change) {
        (State::InProgress, _) => Ok(Answered {
            status: 202,
            body: None,
            job: None,
        }),
        (State::Failed { code, message }, _) => Err(Refusal::new(409, code, message)),
        (State::Succeeded, Change::Grant) => {
            let access = job
                .result
                .as_ref()
                .map_or(Value::Null, |result| result["accessSAS"].clone());
            Ok(Answered::of(json!({ "accessSAS": access })))
        }
        (State::Succeeded, Change::Make) => {
            let made = inner.get(&job.resource).map(|one| one.body.clone());
            Ok(Answered::of(made.unwrap_or(Value::Null)))
        }
        (State::Succeeded, _) => Ok(Answered {
            status: 200,
            body: None,
            job: None,
        }),
    }
}

pub(crate) fn all(inner: &Inner, group: &str, kind: &str) -> Answered {
    let prefix = format!("{}/", key(group));
    let found = inner
        .resources
        .iter()
        .filter(|(id, one)| id.starts_with(&prefix) && one.kind == kind);
    let found: Vec<Value> = found.map(|(_, one)| one.body.clone()).collect();
    Answered::of(json!({ "value": found }))
}

/// `tagName eq 'x' and tagValue eq 'y'`, the one filter that is used.
pub(crate) fn tagged(inner: &Inner, group: &str, filter: Option<&str>) -> Refusable<Answered> {
    let literals: Vec<String> = filter.map(literals).unwrap_or_default();
    let (name, value) = match literals.as_slice() {
        [] => (None, None),
        [name, value] => (Some(name), Some(value)),
        _ => {
            return Err(Refusal::new(
                400,
                "InvalidFilterInQueryString",
                "Invalid $filter.",
            ));
        }
    };
    let prefix = format!("{}/", key(group));
    let has = |one: &Resource| match name {
        None => true,
        Some(name) => one.body["tags"][name].as_str() == value.map(String::as_str),
    };
    let found = inner
        .resources
        .iter()
        .filter(|(id, one)| id.starts_with(&prefix) && has(one));
    let brief = |one: &Resource| {
        json!({
            "id": one.id, "name": name_of(&one.id), "type": one.kind,
            "location": one.body["location"], "tags": one.body["tags"],
        })
    };
    let found: Vec<Value> = found.map(|(_, one)| brief(one)).collect();
    Ok(Answered::of(json!({ "value": found })))
}

/// Texts in quotes; a doubled quote is one.
fn literals(filter: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = filter;
    while let Some((_, after)) = rest.split_once('\'') {
        let mut text = String::new();
        rest = after;
        while let Some((part, after)) = rest.split_once('\'') {
            text.push_str(part);
            rest = after;
            match rest.strip_prefix('\'') {
                Some(after) => {
                    text.push('\'');
                    rest = after;
                }
                None => break,
            }
        }
        found.push(text);
    }
    found
}

pub(crate) fn sizes(cloud: &Cloud, filter: Option<&str>) -> Answered {
    let location = filter.map(literals).and_then(|all| all.into_iter().next());
    let location = location.unwrap_or_else(|| "westeurope".to_owned());
    let sizes: Vec<Value> = cloud
        .options
        .sizes
        .iter()
        .map(|size| size.told(&location))
        .collect();
    Answered::of(json!({ "value": sizes }))
}

pub(crate) fn usages(cloud: &Cloud, inner: &Inner, compute: bool) -> Answered {
    let quotas = cloud
        .options
        .quotas
        .iter()
        .filter(|quota| quota.compute == compute);
    let told: Vec<Value> = quotas
        .map(|quota| quota.told(machines::used(cloud, inner, &quota.name)))
        .collect();
    Answered::of(json!({ "value": told }))
}

/// All: what may not be done is asked for as a fault.
pub(crate) fn permissions() -> Answered {
    Answered::of(json!({ "value": [{ "actions": ["*"], "notActions": [] }] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_literal_is_doubled() {
        assert_eq!(
            literals("tagName eq 'a' and tagValue eq 'b''c'"),
            ["a", "b'c"]
        );
        assert_eq!(literals("location eq 'westeurope'"), ["westeurope"]);
        assert!(literals("").is_empty());
    }
}
