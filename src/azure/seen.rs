//! What Azure says of a resource, as far as it is used. Lenient: what is missing is absent, what is new is ignored, and a
//! state that nobody knows is *unknown*, never success.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A resource as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub location: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub provisioning: Provisioning,
    properties: Value,
    whole: Value,
}

/// How far Azure is with what was last asked of the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provisioning {
    Succeeded,
    /// `Creating`, `Updating`, `Deleting`, …
    Going(String),
    Failed,
    Canceled,
}

/// Whether a machine runs, as its instance view tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Running,
    Starting,
    /// Off in the guest, still on its host and paid for.
    Stopped,
    Stopping,
    /// Off, its host is given back.
    Deallocated,
    Deallocating,
    /// It was not asked for, or Azure does not know.
    Unknown,
}

/// A managed disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskSeen {
    /// `Unattached`, `Attached`, `Reserved`, `ActiveSAS`, …
    pub disk_state: Option<String>,
    pub disk_size_bytes: Option<u64>,
    pub unique_id: Option<String>,
}

/// A disk snapshot.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotSeen {
    pub incremental: bool,
    pub disk_size_bytes: Option<u64>,
    /// Only two of one family can be compared.
    pub incremental_snapshot_family_id: Option<String>,
    /// Of a copy that goes on in the background; what is not 100 cannot be read yet.
    pub completion_percent: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    location: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    properties: Value,
}

impl Seen {
    /// From an answer's body.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        let whole: Value = serde_json::from_slice(body)?;
        let envelope = Envelope::deserialize(&whole)?;
        let state = envelope.properties.get("provisioningState");
        Ok(Seen {
            location: envelope.location,
            tags: envelope.tags.unwrap_or_default(),
            provisioning: provisioning(state.and_then(Value::as_str)),
            properties: envelope.properties,
            whole,
        })
    }

    /// Everything that Azure said.
    pub const fn whole(&self) -> &Value {
        &self.whole
    }

    pub fn disk(&self) -> DiskSeen {
        DiskSeen::deserialize(&self.properties).unwrap_or_default()
    }

    pub fn snapshot(&self) -> SnapshotSeen {
        SnapshotSeen::deserialize(&self.properties).unwrap_or_default()
    }

    /// The machine that a disk or an adapter is attached to.
    pub fn machine(&self) -> Option<&str> {
        let of_disk = self.whole.get("managedBy").and_then(Value::as_str);
        of_disk.or_else(|| self.properties.pointer("/virtualMachine/id")?.as_str())
    }

    /// A machine's power; it is told only where it was asked for with the machine.
    pub fn power(&self) -> Power {
        let statuses = self.properties.pointer("/instanceView/statuses");
        let statuses = statuses.and_then(Value::as_array);
        let codes = statuses.into_iter().flatten();
        let mut codes = codes.filter_map(|status| status.get("code")?.as_str());
        let code = codes.find_map(|code| code.strip_prefix("PowerState/"));
        match code {
            Some("running") => Power::Running,
            Some("starting") => Power::Starting,
            Some("stopped") => Power::Stopped,
            Some("stopping") => Power::Stopping,
            Some("deallocated") => Power::Deallocated,
            Some("deallocating") => Power::Deallocating,
            Some(_) | None => Power::Unknown,
        }
    }

    /// The private addresses of an adapter, in the order of its configurations.
    pub fn private_addresses(&self) -> Vec<&str> {
        let configurations = self.properties.get("ipConfigurations");
        let configurations = configurations.and_then(Value::as_array);
        configurations
            .into_iter()
            .flatten()
            .filter_map(|one| one.pointer("/properties/privateIPAddress")?.as_str())
            .collect()
    }

    /// The address of a public address, once it has one.
    pub fn public_address(&self) -> Option<&str> {
        self.properties.get("ipAddress")?.as_str()
    }
}

fn provisioning(state: Option<&str>) -> Provisioning {
    match state {
        // Absent: the provider has nothing to tell, which is success (Azure Resource Manager, async operations).
        None => Provisioning::Succeeded,
        Some(state) if state.eq_ignore_ascii_case("Succeeded") => Provisioning::Succeeded,
        Some(state) if state.eq_ignore_ascii_case("Failed") => Provisioning::Failed,
        Some(state) if state.eq_ignore_ascii_case("Canceled") => Provisioning::Canceled,
        Some(state) => Provisioning::Going(state.chars().take(40).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Seen {
        Seen::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_state_that_nobody_knows_is_neither_success_nor_failure() {
        let state = |text: &str| {
            seen(&format!(
                r#"{{"properties":{{"provisioningState":"{text}"}}}}"#
            ))
            .provisioning
        };
        assert_eq!(state("Succeeded"), Provisioning::Succeeded);
        assert_eq!(state("failed"), Provisioning::Failed);
        assert_eq!(state("Novel"), Provisioning::Going("Novel".into()));
        assert_eq!(seen("{}").provisioning, Provisioning::Succeeded);
    }

    #[test]
    fn power_is_unknown_unless_azure_tells_it() {
        let power = |code: &str| {
            let text = format!(
                r#"{{"properties":{{"instanceView":{{"statuses":[{{"code":"ProvisioningState/succeeded"}},{{"code":"{code}"}}]}}}}}}"#
            );
            seen(&text).power()
        };
        assert_eq!(power("PowerState/running"), Power::Running);
        assert_eq!(power("PowerState/deallocated"), Power::Deallocated);
        assert_eq!(power("PowerState/unknown"), Power::Unknown);
        assert_eq!(seen("{}").power(), Power::Unknown);
    }

    #[test]
    fn what_is_attached_names_its_machine() {
        assert_eq!(seen(r#"{"managedBy":"/vm"}"#).machine(), Some("/vm"));
        let adapter = seen(r#"{"properties":{"virtualMachine":{"id":"/vm"}}}"#);
        assert_eq!(adapter.machine(), Some("/vm"));
        assert_eq!(seen(r#"{"managedBy":null}"#).machine(), None);
    }

    #[test]
    fn odd_types_make_a_value_absent_and_no_error() {
        let odd = seen(
            r#"{"tags":null,"properties":{"diskSizeBytes":"many","ipConfigurations":[{"properties":{"privateIPAddress":7}}]}}"#,
        );
        assert_eq!(odd.disk(), DiskSeen::default());
        assert!(odd.private_addresses().is_empty());
    }
}
