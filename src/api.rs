//! The custom resources: what people write, what the controller answers, and the names of conditions and reasons.
//!
//! Data only; the controller's. Doc comments of fields become `kubectl explain`, so they are written for the person who
//! operates a cluster. Three rules keep the resources safe in Git: `spec` carries intent and is never written by us,
//! absence of a field is always the safe value, and nothing in `status` moves by itself.

pub mod condition;
pub mod crd;
pub mod hyperv_site;
pub mod policy;
pub mod protected_vm;
pub mod quantity;
pub mod time;
pub mod vm_status;

pub use hyperv_site::HyperVSite;
pub use protected_vm::ProtectedVM;

/// The API group of all our kinds.
pub const GROUP: &str = "siterecovery.dev";
/// The field manager of the controller's writes.
pub const MANAGER: &str = "site-recovery";

/// Annotations that ask for something once: the value is a token, echoed in `status.lastHandled`.
pub mod annotation {
    pub const RETRY: &str = "siterecovery.dev/retry";
    pub const SYNC_NOW: &str = "siterecovery.dev/sync-now";
    pub const RESYNCHRONIZE: &str = "siterecovery.dev/resynchronize";
    /// On a VM that was imported anew: the id that its replica is of, a full stop, and the new id, as the condition says.
    pub const REBIND: &str = "siterecovery.dev/rebind";
    /// On a site: arms the breaker of deletions again.
    pub const ALLOW_DELETIONS: &str = "siterecovery.dev/allow-deletions";
    /// On a site: the cluster that is known to be gone, whose place is taken: its UID and term, as the condition
    /// `Owner` says them.
    pub const TAKE_OVER: &str = "siterecovery.dev/take-over-from-cluster";
}
