//! What the region offers: machine sizes and quotas.

use serde_json::{Value, json};

/// A machine size.
#[derive(Clone, Debug)]
pub struct SizeOffer {
    pub name: String,
    pub family: String,
    pub cpus: u64,
    pub data_disks_max: u64,
    pub interfaces_max: u64,
    pub generations: String,
    /// It is listed, and cannot be had.
    pub restricted: bool,
}

impl SizeOffer {
    /// Some that people use.
    pub fn usual() -> Vec<Self> {
        let size = |name: &str, cpus: u64, disks: u64, restricted| SizeOffer {
            name: name.to_owned(),
            family: "standardDSv5Family".to_owned(),
            cpus,
            data_disks_max: disks,
            interfaces_max: 2,
            generations: "V1,V2".to_owned(),
            restricted,
        };
        vec![
            size("Standard_D2s_v5", 2, 4, false),
            size("Standard_D4s_v5", 4, 8, false),
            size("Standard_D8s_v5", 8, 16, false),
            size("Standard_D96s_v5", 96, 32, true),
        ]
    }

    pub(crate) fn told(&self, location: &str) -> Value {
        let capability = |name: &str, value: String| json!({ "name": name, "value": value });
        let restriction = json!({
            "type": "Location",
            "values": [location],
            "restrictionInfo": { "locations": [location] },
            "reasonCode": "NotAvailableForSubscription",
        });
        json!({
            "resourceType": "virtualMachines",
            "name": self.name,
            "family": self.family,
            "locations": [location],
            "locationInfo": [{ "location": location, "zones": ["1", "2", "3"] }],
            "capabilities": [
                capability("vCPUs", self.cpus.to_string()),
                capability("MaxDataDiskCount", self.data_disks_max.to_string()),
                capability("MaxNetworkInterfaces", self.interfaces_max.to_string()),
                capability("HyperVGenerations", self.generations.clone()),
                capability("PremiumIO", "True".to_owned()),
                capability("AcceleratedNetworkingEnabled", "True".to_owned()),
            ],
            "restrictions": if self.restricted { vec![restriction] } else { Vec::new() },
        })
    }
}

/// A quota: `cores`, `virtualMachines`, a family of sizes, `PublicIPAddresses`.
#[derive(Clone, Debug)]
pub struct Quota {
    pub name: String,
    pub limit: u64,
    /// Of compute; else of network.
    pub compute: bool,
}

impl Quota {
    /// As generous as a new subscription's.
    pub fn usual() -> Vec<Self> {
        let quota = |name: &str, limit, compute| Quota {
            name: name.to_owned(),
            limit,
            compute,
        };
        vec![
            quota("cores", 4000, true),
            quota("standardDSv5Family", 4000, true),
            quota("virtualMachines", 25_000, true),
            quota("PublicIPAddresses", 1000, false),
        ]
    }

    pub(crate) fn told(&self, used: u64) -> Value {
        json!({
            "unit": "Count",
            "name": { "value": self.name, "localizedValue": self.name },
            "currentValue": used,
            "limit": self.limit,
        })
    }
}
