//! Adapters and addresses: an address is in its subnet, and only one has it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::lab::arm::cloud::{Cloud, Inner, Resource};
use crate::lab::arm::creation::{blank, keep};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::key;
use crate::lab::arm::serve::Answered;

const INTERFACE: &str = "microsoft.network/networkinterfaces";
/// Azure keeps the first four addresses of a subnet and the last.
const RESERVED: u32 = 4;

/// The addresses of a subnet.
#[derive(Clone, Copy)]
struct Prefix {
    first: u32,
    last: u32,
}

impl Prefix {
    fn read(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok().filter(|bits| (1..=29).contains(bits))?;
        let first = u32::from(address) & (u32::MAX << (32 - bits));
        let last = first | (u32::MAX >> bits);
        Some(Prefix { first, last })
    }

    fn usable(self) -> std::ops::Range<u32> {
        self.first + RESERVED..self.last
    }
}

pub(crate) fn put_address(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    body: &Value,
) -> Refusable<Answered> {
    let mut resource = blank(id, "microsoft.network/publicipaddresses", body);
    let quota = cloud
        .options
        .quotas
        .iter()
        .find(|quota| quota.name == "PublicIPAddresses");
    let count = crate::lab::arm::machines::used(cloud, inner, "PublicIPAddresses");
    match inner.get(id) {
        Some(there) => {
            for property in ["ipAddress", "ipConfiguration"] {
                let value = there.body["properties"][property].clone();
                if !value.is_null() {
                    resource.set(property, value);
                }
            }
        }
        None if quota.is_some_and(|quota| count >= quota.limit) => {
            return Err(Refusal::new(
                400,
                "PublicIPCountLimitReached",
                "Cannot create more public IP addresses for this subscription in this region.",
            ));
        }
        None => {
            // Of the addresses that are kept for documentation (TEST-NET-3).
            let last = blake3::hash(key(id).as_bytes()).as_bytes()[0];
            resource.set("ipAddress", format!("203.0.113.{last}"));
        }
    }
    keep(cloud, inner, resource, 201)
}

pub(crate) fn put_interface(
    cloud: &Cloud,
    inner: &mut Inner,
    id: &str,
    body: &Value,
) -> Refusable<Answered> {
    let mut resource = blank(id, INTERFACE, body);
    let there = inner.get(id).cloned();
    let configurations = body["properties"]["ipConfigurations"].as_array();
    let mut configurations = configurations.cloned().unwrap_or_default();
    if configurations.is_empty() {
        return Err(Refusal::invalid(
            "A network interface has at least one IP configuration.",
        ));
    }
    if let Some(group) = body
        .pointer("/properties/networkSecurityGroup/id")
        .and_then(Value::as_str)
    {
        inner.get(group).ok_or_else(|| dangling(group, id))?;
    }
    if let Some(there) = &there {
        release(inner, there)?;
    }
    for configuration in &mut configurations {
        let before = there.as_ref().and_then(|there| {
            there.text("/properties/ipConfigurations/0/properties/privateIPAddress")
        });
        let address = address_for(inner, id, &configuration["properties"], before)?;
        configuration["properties"]["privateIPAddress"] = json!(address);
        if let Some(public) = configuration
            .pointer("/properties/publicIPAddress/id")
            .and_then(Value::as_str)
        {
            let mut public = inner
                .get(public)
                .cloned()
                .ok_or_else(|| dangling(public, id))?;
            if let Some(other) = public.text("/properties/ipConfiguration/id") {
                let message = format!("'{}' is already allocated to '{other}'.", public.id);
                return Err(Refusal::new(400, "PublicIPAddressInUse", message));
            }
            public.set(
                "ipConfiguration",
                json!({ "id": format!("{id}/ipConfigurations/ipconfig1") }),
            );
            inner.put(public)?;
        }
    }
    resource.set("ipConfigurations", configurations);
    if let Some(there) = there
        && let Some(machine) = there.machine()
    {
        resource.set("virtualMachine", json!({ "id": machine }));
    }
    let mac = uuid::Uuid::new_v4().simple().to_string()[..6].to_ascii_uppercase();
    resource.set(
        "macAddress",
        format!("00-0D-3A-{}-{}-{}", &mac[..2], &mac[2..4], &mac[4..]),
    );
    keep(cloud, inner, resource, 201)
}

fn dangling(what: &str, id: &str) -> Refusal {
    let message = format!("Resource {what} referenced by resource {id} was not found.");
    Refusal::new(400, "InvalidResourceReference", message)
}

/// The address that a configuration asks for, or one that is free.
fn address_for(
    inner: &Inner,
    id: &str,
    properties: &Value,
    before: Option<&str>,
) -> Refusable<String> {
    let subnet = properties.pointer("/subnet/id").and_then(Value::as_str);
    let subnet = subnet.ok_or_else(|| Refusal::invalid("An IP configuration needs a subnet."))?;
    let prefix = prefix_of(inner, subnet).ok_or_else(|| dangling(subnet, id))?;
    let dynamic = properties["privateIPAllocationMethod"].as_str() != Some("Static");
    let wanted = properties["privateIPAddress"]
        .as_str()
        .filter(|_| !dynamic)
        .or(before.filter(|_| dynamic));
    let network = subnet.split("/subnets/").next().unwrap_or_default();
    let taken =
        |address: u32| user_of(inner, network, address).is_some_and(|user| key(&user) != key(id));
    if let Some(text) = wanted {
        let address: Option<Ipv4Addr> = text.parse().ok();
        let Some(address) = address
            .map(u32::from)
            .filter(|address| prefix.usable().contains(address))
        else {
            let message = format!(
                "Private static IP address {text} does not belong to the range of subnet {subnet}."
            );
            return Err(Refusal::new(400, "PrivateIPAddressNotInSubnet", message));
        };
        if taken(address) {
            let message = format!(
                "IP configuration of '{id}' is using the private IP address {text} which is already allocated."
            );
            return Err(Refusal::new(400, "PrivateIPAddressInUse", message));
        }
        return Ok(text.to_owned());
    }
    if !dynamic {
        return Err(Refusal::invalid(
            "A static IP configuration needs an address.",
        ));
    }
    let free = prefix.usable().find(|address| !taken(*address));
    let full = || Refusal::new(400, "SubnetIsFull", format!("Subnet {subnet} is full."));
    Ok(Ipv4Addr::from(free.ok_or_else(full)?).to_string())
}

/// A subnet's addresses: it is a resource of its own, or stands in its network.
fn prefix_of(inner: &Inner, subnet: &str) -> Option<Prefix> {
    if let Some(own) = inner.get(subnet) {
        return Prefix::read(own.text("/properties/addressPrefix")?);
    }
    let subnet = key(subnet);
    let (network, name) = subnet.split_once("/subnets/")?;
    let subnets = inner
        .get(network)?
        .body
        .pointer("/properties/subnets")?
        .as_array()?;
    let named = |subnet: &&Value| {
        subnet["name"]
            .as_str()
            .is_some_and(|other| other.eq_ignore_ascii_case(name))
    };
    let found = subnets.iter().find(named)?;
    Prefix::read(found.pointer("/properties/addressPrefix")?.as_str()?)
}

/// The adapter that has an address of a network.
fn user_of(inner: &Inner, network: &str, address: u32) -> Option<String> {
    let text = Ipv4Addr::from(address).to_string();
    let uses = |adapter: &&Resource| {
        let configurations = adapter.body.pointer("/properties/ipConfigurations");
        let configurations = configurations
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let mut configurations = configurations.map(|one| &one["properties"]);
        configurations.any(|one| {
            let subnet = one
                .pointer("/subnet/id")
                .and_then(Value::as_str)
                .unwrap_or_default();
            one["privateIPAddress"].as_str() == Some(&text)
                && key(subnet).starts_with(&format!("{}/", key(network)))
        })
    };
    let mut adapters = inner.resources.values().filter(|one| one.kind == INTERFACE);
    adapters.find(uses).map(|adapter| adapter.id.clone())
}

/// An adapter lets go of its public addresses.
pub(crate) fn release(inner: &mut Inner, adapter: &Resource) -> Refusable<()> {
    let configurations = adapter.body.pointer("/properties/ipConfigurations");
    let configurations = configurations
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for configuration in configurations {
        let public = configuration
            .pointer("/properties/publicIPAddress/id")
            .and_then(Value::as_str);
        if let Some(mut public) = public.and_then(|public| inner.get(public).cloned()) {
            public.properties().remove("ipConfiguration");
            inner.put(public)?;
        }
    }
    Ok(())
}

pub(crate) fn check_address(
    inner: &Inner,
    network: &str,
    address: Option<&str>,
) -> Refusable<Answered> {
    let found = inner.need(network)?;
    let address: Option<Ipv4Addr> = address.and_then(|text| text.parse().ok());
    let address =
        address.ok_or_else(|| Refusal::invalid("ipAddress is missing or no IPv4 address."))?;
    let subnets = found
        .body
        .pointer("/properties/subnets")
        .and_then(Value::as_array);
    let mut inline = subnets
        .into_iter()
        .flatten()
        .filter_map(|subnet| Prefix::read(subnet.pointer("/properties/addressPrefix")?.as_str()?));
    let address = u32::from(address);
    let Some(prefix) = inline.find(|prefix| (prefix.first..=prefix.last).contains(&address)) else {
        let message = format!(
            "The address {} is in no subnet of '{network}'.",
            Ipv4Addr::from(address)
        );
        return Err(Refusal::new(400, "PrivateIPAddressNotInAnySubnet", message));
    };
    let reserved = !prefix.usable().contains(&address);
    let free = |address: &u32| user_of(inner, network, *address).is_none();
    let available = !reserved && free(&address);
    let others = prefix
        .usable()
        .filter(free)
        .take(if available { 0 } else { 5 });
    let others: Vec<String> = others
        .map(|address| Ipv4Addr::from(address).to_string())
        .collect();
    Ok(Answered::of(json!({
        "available": available,
        "availableIPAddresses": others,
        "isPlatformReserved": reserved,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_gives_what_azure_does_not_keep() {
        let prefix = Prefix::read("10.0.0.0/24").unwrap();
        let usable: Vec<u32> = prefix.usable().collect();
        assert_eq!(Ipv4Addr::from(usable[0]), Ipv4Addr::new(10, 0, 0, 4));
        let last = usable[usable.len() - 1];
        assert_eq!(Ipv4Addr::from(last), Ipv4Addr::new(10, 0, 0, 254));
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/30"] {
            assert!(Prefix::read(wrong).is_none(), "{wrong}");
        }
    }
}
