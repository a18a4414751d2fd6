//! How an error is told: a stable code, what happened to what, and what to do.
//!
//! Every module has its own error type; each can say its [`Code`]. Where an error leaves the process (to the
//! controller, a condition, an event) it is a [`Fault`]. [`crate::retry::class`] decides from the code alone whether
//! waiting helps.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The code table: variant, remedy. The variant's name is the code, and is API: never rename one.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident: $remedy:literal;)+) => {
        /// The stable name of a kind of failure, as conditions, events and metrics show it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code, in the order of this file.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }

            /// What the person who reads it should do.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy,)+ }
            }

            /// The code of this name, if there is one.
            pub fn named(name: &str) -> Option<Self> {
                Code::ALL.iter().copied().find(|code| code.as_str() == name)
            }
        }
    };
}

codes! {
    // --- the host
    /// The host has no such VM, and no other host of the site either.
    VmNotFound: "Check spec.vm and that the VM exists on a host of the site; a VM that was re-imported has a new id.";
    /// A differencing chain misses a parent, names a wrong one, or is circular.
    BrokenDiskChain: "Repair the chain on the host (Inspect-VHD, Set-VHD -ParentPath), then set the retry annotation.";
    /// The hypervisor refuses the operation in the state that the VM is in.
    InvalidVmState: "Bring the VM to the state that the message names.";
    /// The agent may not do this on the host.
    HostAuthorization: "Run the agent as LocalSystem or as a member of Hyper-V Administrators.";
    /// The host or the disk does not support what is asked.
    Unsupported: "Exclude the disk (spec.disks.exclude) or convert it to what the message names.";
    /// A virtual disk file is damaged or of an unknown kind.
    DiskFormat: "Check the file with Test-VHD on the host; restore it from a backup if it is damaged.";
    /// A volume of the host is full.
    HostDiskFull: "Free space on the volume that the message names; replication goes on by itself.";
    /// The host is out of memory.
    HostMemory: "Free memory on the host; replication goes on by itself.";
    /// The VM or one of its disks is in use by another operation.
    HostBusy: "Wait until the operation that the message names has ended.";
    /// The hypervisor did not answer in time.
    HostTimeout: "If it persists, check the load of the host and its management service.";
    /// The guest could not be quiesced for an application-consistent point.
    GuestQuiesceFailed: "Check the integration services and the VSS writers in the guest; crash-consistent points go on.";
    /// The hypervisor's management service does not answer.
    HypervisorUnavailable: "Check that the Virtual Machine Management service runs on the host.";
    /// A file of the host could not be read or written.
    HostIo: "Check the host's storage and its event log.";
    /// Change tracking was interrupted: a write may have been missed.
    TrackingLost: "Nothing: the VM is resynchronized.";
    /// A disk changed while nobody tracked it.
    DiskChangedOffline: "Nothing: the VM is resynchronized.";
    /// So much of a disk changed that comparing it costs less than sending the changes.
    TooManyChanges: "Nothing: the VM is resynchronized; if it recurs, widen the link or shorten the copy interval.";
    /// Somebody asked for a comparison of the VM with its replica.
    ResyncRequested: "Nothing: the VM is resynchronized.";
    /// The disks of the VM are not those that were replicated.
    DiskSetChanged: "Nothing: the changed disks are copied.";
    /// The agent's own record of a VM cannot be read.
    AgentStateDamaged: "Nothing: the agent goes on from storage; if it recurs, check the host's system volume.";

    // --- the storage account
    /// The storage endpoint cannot be reached.
    StorageUnreachable: "Check name resolution, proxy and firewall from the object that the message names.";
    /// The storage service asks to slow down.
    StorageBusy: "Nothing: requests are paced; if it persists, spread the VMs over more storage accounts.";
    /// The storage service failed.
    StorageServerError: "If it persists, look at Azure's service health.";
    /// A shared access signature was refused.
    WaitingForCredentials: "Nothing while the controller runs: it renews signatures; else check clocks and the account's keys.";
    /// The storage account refuses the controller's own credentials.
    StorageUnauthorized: "Check the Secret or identity that the site names, and its role on the storage account.";
    /// A container or blob is not there.
    StorageNotFound: "Check that nobody deleted it; a deleted replica is copied anew after the object is re-created.";
    /// A blob is not in the state that the operation needs.
    StorageConflict: "If it persists, check for leases and for tools that change our containers.";
    /// Somebody else changed a blob in between.
    StorageChanged: "Nothing: the operation is tried again from what is stored now.";
    /// Bytes arrived other than they were sent.
    StorageIntegrity: "If it persists, check network equipment between the object that the message names and Azure.";
    /// The service refuses a request as malformed.
    StorageRefused: "Report it with the message: the request and the service do not understand each other.";
    /// The storage account cannot hold replicas.
    AccountUnsuitable: "Use a standard general-purpose v2 account without hierarchical namespace in the target's region.";

    // --- what stands in the storage account
    /// A seal or one of its logs is not what it should be.
    SealInvalid: "Nothing: the VM is resynchronized; if it recurs, find out who writes to the inbox container.";
    /// A seal is missing between the last one that was applied and those that follow.
    SequenceGap: "Nothing: the VM is resynchronized.";
    /// A blob of ours was written by a newer version.
    FormatTooNew: "Upgrade this controller or agent to the version that wrote it.";
    /// A blob of ours cannot be understood.
    ReplicaDamaged: "Restore the blob that the message names from soft delete. A chunk table can be done without: ask for a resynchronization. Else remove the replica to copy anew.";
    /// Something that is not ours stands where our blob should be.
    ForeignBlob: "Move the blob that the message names away, or use another container prefix.";
    /// Another writer has taken over.
    Fenced: "Nothing: whoever took over goes on.";
    /// Another cluster acts for this site.
    ManagedByAnotherCluster: "Stop the other controller, or take over by annotation as the message says.";

    // --- Azure's control plane
    /// Azure Resource Manager, or the service that issues its tokens, cannot be reached.
    AzureUnreachable: "Check name resolution, proxy and firewall from the controller to Azure Resource Manager and Entra ID.";
    /// Azure Resource Manager asks to slow down.
    AzureBusy: "Nothing: requests are paced; if it persists, find out what else uses the same identity or subscription.";
    /// Azure Resource Manager failed, or ended an operation without saying why.
    AzureServerError: "If it persists, look at Azure's service health; its support asks for the request id in the message.";
    /// Azure Resource Manager refuses the controller's credentials.
    AzureUnauthorized: "Check the Secret or identity that the site names: it may have expired, or be of another tenant.";
    /// The identity lacks a right.
    AzureForbidden: "Give the identity the right that the message names, on the resource that it names.";
    /// A policy or a lock forbids what a failover needs.
    AzurePolicy: "Exempt the resource group from the policy or lock that the message names.";
    /// A resource that a failover needs is not there.
    AzureNotFound: "Create the resource that the message names, or correct the site or the ProtectedVM that names it.";
    /// A resource is in use, or another operation on it is under way.
    AzureConflict: "Wait until the other operation has ended; if it persists, find out who uses the resource.";
    /// A resource of the name that a run needs is there, and is not the run's.
    AzureNameTaken: "Rename or remove the resource that the message names, or give the VM another target name.";
    /// A quota of the subscription is used up.
    AzureQuotaExceeded: "Have the quota that the message names raised, or choose another size or region.";
    /// The region has no room for such a machine at the moment.
    AzureNoCapacity: "Choose another size or no zone; or wait: capacity comes and goes.";
    /// The machine size or disk type is not offered, or does not fit the machine.
    AzureSizeUnavailable: "Choose a size that the region offers and that holds the machine's disks and adapters.";
    /// A private address cannot be used.
    AzureAddressUnusable: "Free the address that the message names, or give the adapter another one of its subnet.";
    /// A blob is no disk that Azure can import.
    AzureDiskRefused: "Verify the recovery point (site-recovery replica verify) and choose another one.";
    /// Azure Resource Manager refuses a request as it is.
    AzureRefused: "Correct what the message names; if it names nothing of yours, report it with the message.";

    // --- controller and agent
    /// The agent of a host has not been heard of.
    AgentUnreachable: "Check the agent's service on the host and that it reaches the gateway.";
    /// Agent and controller have no protocol version in common.
    AgentIncompatible: "Upgrade the older side: versions must be equal or neighbours.";
    /// A command came from an owner that has been replaced.
    GenerationStale: "Nothing: the newer owner goes on.";
    /// A message could not be understood.
    InvalidRequest: "Report it with the message: both sides are ours.";
    /// The agent does not replicate this VM.
    NotReplicating: "Nothing: the controller sets it up again.";
    /// A file of the configuration (certificate, Secret, …) is missing or wrong.
    Configuration: "Correct what the message names.";
    /// Something that cannot happen did.
    Internal: "Report it with the log around it.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    /// A code of a newer peer reads as [`Code::Internal`]: its message still says what happened.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Code::named(&text).unwrap_or(Code::Internal))
    }
}

/// The longest message of a fault, in characters: nobody reads more, conditions and events hold little more, and what a
/// peer or a parser says may have any length.
const MESSAGE_MAX: usize = 2000;

/// An error as it leaves a process: code and message; the remedy comes from the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    /// What happened, to which object, with causes; one line.
    #[serde(deserialize_with = "message")]
    pub message: String,
}

fn message<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(shortened)
}

/// The message with its end cut off, if it is too long.
fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX) {
        message.truncate(end);
        message.push('…');
        message.shrink_to_fit();
    }
    message
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault {
            code,
            message: shortened(message.into()),
        }
    }

    /// The fault that says all of `error`: its own words and those of its causes.
    pub fn of(code: Code, error: &dyn Error) -> Self {
        Fault::new(code, chain(error))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} ({})",
            self.code,
            self.message,
            self.code.remedy()
        )
    }
}

/// An error and its causes on one line. A cause that the line already says is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !line.contains(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        next = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_does_not_become_a_message_without_end() {
        let long = "ä".repeat(1 << 20);
        let said = format!(r#"{{ "code": "HostBusy", "message": "{long}" }}"#);
        let heard: Fault = serde_json::from_str(&said).unwrap();
        let parsed = serde_json::from_str::<u64>(&format!("\"{long}\"")).unwrap_err();
        for fault in [
            heard,
            Fault::new(Code::HostBusy, long),
            Fault::of(Code::InvalidRequest, &parsed),
        ] {
            assert_eq!(fault.message.chars().count(), MESSAGE_MAX + 1);
            assert!(fault.message.ends_with('…'));
            let again = serde_json::to_string(&fault).unwrap();
            let again: Fault = serde_json::from_str(&again).unwrap();
            assert_eq!(again.message.chars().count(), MESSAGE_MAX + 1);
        }
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open a.vhdx")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "cannot open a.vhdx: disk on fire");
    }

    #[test]
    fn a_cause_that_is_said_in_the_middle_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("no configuration (file: {0}), nor a service account")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no such file"));
        let said = "no configuration (file: no such file), nor a service account";
        assert_eq!(chain(&error), said);
    }

    #[test]
    fn an_unknown_code_of_a_newer_peer_still_deserializes() {
        let fault: Fault =
            serde_json::from_str(r#"{"code":"FromTheFuture","message":"m"}"#).unwrap();
        assert_eq!(fault.code, Code::Internal);
    }

    #[test]
    fn every_code_has_a_remedy_that_is_a_sentence() {
        for code in Code::ALL {
            assert!(code.remedy().ends_with('.'), "{code}");
        }
    }
}
