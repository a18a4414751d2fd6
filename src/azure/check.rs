//! What is read before a failover: sizes, usages, rights, addresses. Bodies are read leniently; what they mean is decided
//! in pure functions.

use serde::Deserialize;

/// Of which provider usages are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Compute,
    Network,
}

/// Whether a private address can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressCheck {
    pub available: bool,
    /// Some that could be had instead.
    #[serde(rename = "availableIPAddresses")]
    pub others: Vec<String>,
    #[serde(rename = "isPlatformReserved")]
    pub reserved: bool,
}

/// A machine size as a region offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub name: String,
    /// What its quota is counted under.
    pub family: String,
    pub cpus: Option<u32>,
    pub data_disks_max: Option<u32>,
    pub interfaces_max: Option<u32>,
    /// `V1`, `V2`; empty if Azure does not say.
    pub generations: Vec<String>,
    pub premium_storage: bool,
    pub accelerated_networking: bool,
    pub zones: Vec<String>,
    /// Why it cannot be had: in the whole region, or in these zones.
    pub restrictions: Vec<Restriction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// `NotAvailableForSubscription`, `QuotaId`.
    pub reason: String,
    /// Empty: everywhere in the region.
    pub zones: Vec<String>,
}

impl Size {
    /// Why it cannot be had in the region, or in a zone of it.
    pub fn restricted(&self, zone: Option<&str>) -> Option<&str> {
        let applies = |restriction: &&Restriction| {
            let zones = &restriction.zones;
            zones.is_empty() || zone.is_some_and(|zone| zones.iter().any(|other| other == zone))
        };
        let restriction = self.restrictions.iter().find(applies)?;
        Some(restriction.reason.as_str())
    }
}

/// A quota, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// As `Size::family`, `cores`, `virtualMachines`, `PublicIPAddresses`, …
    pub name: String,
    pub used: u64,
    pub limit: u64,
}

impl Usage {
    pub const fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// What an identity may do: actions, with `*` for any text, less those that are taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Permission {
    pub actions: Vec<String>,
    pub not_actions: Vec<String>,
}

/// Whether one of the permissions grants `action`: what one takes away, another may grant.
pub fn allows(permissions: &[Permission], action: &str) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, action));
    permissions
        .iter()
        .any(|permission| any(&permission.actions) && !any(&permission.not_actions))
}

/// `*` stands for any text, slashes included; case does not count.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = action.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<T> {
    #[serde(default = "Vec::new")]
    pub(crate) value: Vec<T>,
    #[serde(rename = "nextLink")]
    pub(crate) next: Option<String>,
}

/// A size as Resource SKUs tells it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawSize {
    resource_type: String,
    name: String,
    family: String,
    capabilities: Vec<RawCapability>,
    location_info: Vec<RawLocation>,
    restrictions: Vec<RawRestriction>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCapability {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLocation {
    zones: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRestriction {
    #[serde(rename = "type")]
    type_: String,
    reason_code: String,
    restriction_info: RawLocation,
}

impl RawSize {
    /// Nothing if it is no machine's.
    pub(crate) fn read(self) -> Option<Size> {
        if !self.resource_type.eq_ignore_ascii_case("virtualMachines") {
            return None;
        }
        let told = |name: &str| {
            let mut all = self.capabilities.iter();
            let found = all.find(|capability| capability.name.eq_ignore_ascii_case(name));
            found.map(|capability| capability.value.as_str())
        };
        let number = |name: &str| told(name)?.parse().ok();
        let yes = |name: &str| told(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let generations = told("HyperVGenerations").unwrap_or_default().split(',');
        let generations = generations.filter(|text| !text.is_empty());
        let restriction = |raw: &RawRestriction| Restriction {
            reason: raw.reason_code.clone(),
            zones: match raw.type_.as_str() {
                "Zone" => raw.restriction_info.zones.clone(),
                _ => Vec::new(),
            },
        };
        Some(Size {
            cpus: number("vCPUs"),
            data_disks_max: number("MaxDataDiskCount"),
            interfaces_max: number("MaxNetworkInterfaces"),
            generations: generations.map(str::to_owned).collect(),
            premium_storage: yes("PremiumIO"),
            accelerated_networking: yes("AcceleratedNetworkingEnabled"),
            zones: self
                .location_info
                .iter()
                .flat_map(|location| location.zones.clone())
                .collect(),
            restrictions: self.restrictions.iter().map(restriction).collect(),
            name: self.name,
            family: self.family,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawUsage {
    name: RawName,
    current_value: i64,
    limit: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawName {
    value: String,
}

impl RawUsage {
    pub(crate) fn read(self) -> Usage {
        Usage {
            name: self.name.value,
            used: u64::try_from(self.current_value).unwrap_or(0),
            // A negative limit is how Azure says that there is none.
            limit: u64::try_from(self.limit).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_what_is_granted_less_what_the_same_grant_takes_away() {
        let grant = |actions: &[&str], not_actions: &[&str]| Permission {
            actions: actions.iter().map(ToString::to_string).collect(),
            not_actions: not_actions.iter().map(ToString::to_string).collect(),
        };
        let write = "Microsoft.Compute/virtualMachines/write";
        assert!(allows(&[grant(&["*"], &[])], write));
        assert!(allows(&[grant(&["microsoft.compute/*"], &[])], write));
        assert!(allows(&[grant(&["*/write"], &[])], write));
        assert!(!allows(&[grant(&["*/read"], &[])], write));
        assert!(!allows(
            &[grant(&["Microsoft.Compute/disks/*"], &[])],
            write
        ));
        assert!(!allows(
            &[grant(&["*"], &["Microsoft.Compute/*/write"])],
            write
        ));
        let two = [
            grant(&["*"], &["*/write"]),
            grant(&["Microsoft.Compute/virtualMachines/*"], &[]),
        ];
        assert!(allows(&two, write));
        assert!(!allows(&[], write));
    }

    #[test]
    fn a_size_tells_what_it_holds_and_where_it_cannot_be_had() {
        let raw: RawSize = serde_json::from_str(
            r#"{"resourceType":"virtualMachines","name":"Standard_D2s_v5","family":"standardDSv5Family",
            "locationInfo":[{"location":"westeurope","zones":["1","2"]}],
            "capabilities":[{"name":"vCPUs","value":"2"},{"name":"MaxDataDiskCount","value":"4"},
              {"name":"HyperVGenerations","value":"V1,V2"},{"name":"PremiumIO","value":"True"}],
            "restrictions":[{"type":"Zone","reasonCode":"NotAvailableForSubscription","restrictionInfo":{"zones":["2"]}}]}"#,
        )
        .unwrap();
        let size = raw.read().unwrap();
        assert_eq!((size.cpus, size.data_disks_max), (Some(2), Some(4)));
        assert_eq!(size.generations, ["V1", "V2"]);
        assert_eq!(size.restricted(None), None);
        assert_eq!(size.restricted(Some("1")), None);
        let why = size.restricted(Some("2"));
        assert_eq!(why, Some("NotAvailableForSubscription"));
    }

    #[test]
    fn what_is_no_machine_is_no_size_and_a_quota_without_limit_has_room() {
        let disk: RawSize =
            serde_json::from_str(r#"{"resourceType":"disks","name":"Premium_LRS"}"#).unwrap();
        assert!(disk.read().is_none());
        let raw: RawUsage =
            serde_json::from_str(r#"{"name":{"value":"cores"},"currentValue":3,"limit":-1}"#)
                .unwrap();
        assert_eq!(raw.read().free(), u64::MAX - 3);
    }
}
