//! What can go wrong at a hypervisor, in the kinds that decide what happens next.

use crate::ids::{DiskSlot, VmId};
use crate::report::{Code, Fault};

/// The kinds of failure that the engine tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    VmNotFound,
    PointNotFound,
    BrokenChain,
    InvalidState,
    Unauthorized,
    Unsupported,
    DiskFormat,
    DiskFull,
    OutOfMemory,
    Busy,
    Timeout,
    GuestQuiesce,
    Unavailable,
    Io,
    TrackingLost,
    DiskChangedOffline,
    DiskSetChanged,
    Internal,
}

/// A failed operation of a hypervisor.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation}{}: {detail}", subject(vm.as_ref(), disk.as_ref()))]
pub struct Error {
    pub kind: Kind,
    /// What was tried, as a phrase: `freeze the disks`.
    pub operation: &'static str,
    pub vm: Option<VmId>,
    pub disk: Option<DiskSlot>,
    /// The hypervisor's words and codes.
    pub detail: String,
}

fn subject(vm: Option<&VmId>, disk: Option<&DiskSlot>) -> String {
    match (vm, disk) {
        (Some(vm), Some(disk)) => format!(" of VM {vm}, disk {disk}"),
        (Some(vm), None) => format!(" of VM {vm}"),
        (None, Some(disk)) => format!(" of disk {disk}"),
        (None, None) => String::new(),
    }
}

impl Error {
    pub fn new(kind: Kind, operation: &'static str, detail: impl Into<String>) -> Self {
        Error {
            kind,
            operation,
            vm: None,
            disk: None,
            detail: detail.into(),
        }
    }

    #[must_use]
    pub fn on(mut self, vm: &VmId) -> Self {
        self.vm = Some(vm.clone());
        self
    }

    #[must_use]
    pub fn of_disk(mut self, disk: &DiskSlot) -> Self {
        self.disk = Some(disk.clone());
        self
    }

    pub const fn code(&self) -> Code {
        match self.kind {
            Kind::VmNotFound => Code::VmNotFound,
            Kind::BrokenChain => Code::BrokenDiskChain,
            Kind::InvalidState => Code::InvalidVmState,
            Kind::Unauthorized => Code::HostAuthorization,
            Kind::Unsupported => Code::Unsupported,
            Kind::DiskFormat => Code::DiskFormat,
            Kind::DiskFull => Code::HostDiskFull,
            Kind::OutOfMemory => Code::HostMemory,
            Kind::Busy => Code::HostBusy,
            Kind::Timeout => Code::HostTimeout,
            Kind::GuestQuiesce => Code::GuestQuiesceFailed,
            Kind::Unavailable => Code::HypervisorUnavailable,
            Kind::Io => Code::HostIo,
            Kind::TrackingLost | Kind::PointNotFound => Code::TrackingLost,
            Kind::DiskChangedOffline => Code::DiskChangedOffline,
            Kind::DiskSetChanged => Code::DiskSetChanged,
            Kind::Internal => Code::Internal,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }
}
