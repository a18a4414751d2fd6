//! What the demonstration shows on its stage: three virtual machines as many a site has them, with guests that write.
//!
//! They are the machines that `examples/protected-vms.yaml` names:
//!
//! | machine | generation | disks |
//! |---|---|---|
//! | `web` | 2 | `scsi:0:0` dynamic VHDX, `scsi:0:1` dynamic VHDX of 4 KiB physical sectors |
//! | `sql` | 2 | `scsi:0:0` dynamic VHDX, `scsi:0:1` differencing VHDX on a template |
//! | `legacy` | 1 | `ide:0:0` dynamic VHD, `ide:0:1` fixed VHD |

mod content;
mod guests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats;
use crate::formats::create::{Allocation, ChildOptions, CreateOptions};
use crate::formats::info::Format;
use crate::host::lab::console::Console;
use crate::host::lab::spec::{DiskContent, DiskSpec, MachineSpec};
use crate::host::{BootGeneration, Hypervisor as _, NetworkAdapter, PowerOperation};
use crate::ids::{DiskSlot, VmId};
pub use crate::lab::demo::guests::Guests;
use crate::lab::guest;
use crate::lab::stage::host::Host;
use crate::units::{GIB, MIB};

/// The host that the machines are on, as `examples/site.yaml` has it.
pub const HOST: &str = "hv01";

/// A machine that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot make the image {}", path.display())]
    Image {
        path: PathBuf,
        source: Box<formats::Error>,
    },
    #[error("the hypervisor refuses")]
    Host(#[from] Box<crate::host::Error>),
    #[error("a guest cannot be started")]
    Guest(#[from] guest::client::Error),
    #[error("a guest has not written anything")]
    Idle,
}

/// A machine on the stage.
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: &'static str,
    pub id: VmId,
    /// What to say of it, in one line.
    pub summary: String,
    pub disks: Vec<DiskSlot>,
}

/// A disk of the demonstration.
struct Disk {
    slot: &'static str,
    kind: Kind,
    /// Bytes that the guest sees.
    size: u64,
    /// Bytes that are there from the start.
    data: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Vhdx,
    /// On a parent that holds the data.
    VhdxOnTemplate,
    Vhd,
    FixedVhd,
}

const MACHINES: [(&str, BootGeneration, [Disk; 2]); 3] = [
    (
        "web",
        BootGeneration::Gen2,
        [
            disk("scsi:0:0", Kind::Vhdx, 4 * GIB, 96 * MIB),
            disk("scsi:0:1", Kind::Vhdx, 2 * GIB, 48 * MIB),
        ],
    ),
    (
        "sql",
        BootGeneration::Gen2,
        [
            disk("scsi:0:0", Kind::Vhdx, 4 * GIB, 96 * MIB),
            disk("scsi:0:1", Kind::VhdxOnTemplate, GIB, 64 * MIB),
        ],
    ),
    (
        "legacy",
        BootGeneration::Gen1,
        [
            disk("ide:0:0", Kind::Vhd, GIB, 64 * MIB),
            disk("ide:0:1", Kind::FixedVhd, 128 * MIB, 32 * MIB),
        ],
    ),
];

const fn disk(slot: &'static str, kind: Kind, size: u64, data: u64) -> Disk {
    Disk {
        slot,
        kind,
        size,
        data,
    }
}

/// Makes the machines on `host` and starts them. Blocks for seconds.
///
/// # Errors
/// If an image cannot be made, or the hypervisor refuses.
pub fn machines(host: &Host, now: Timestamp) -> Result<Vec<Machine>, Error> {
    let console = host.console();
    let images = host.folder().join("images");
    fs::create_dir_all(&images).map_err(|source| Error::Folder {
        path: images.clone(),
        source,
    })?;
    MACHINES
        .iter()
        .enumerate()
        .map(|(number, (name, boot, disks))| {
            let machine = make(&console, &images, (number, name), *boot, disks, now)?;
            let start = PowerOperation::Start;
            let started = host.hypervisor().power(&machine.id, start, START);
            started.map_err(Box::new)?;
            Ok(machine)
        })
        .collect()
}

/// Machines of the lab start at once; this is for a machine that is busy with something else.
const START: std::time::Duration = std::time::Duration::from_secs(30);

fn make(
    console: &Console,
    images: &Path,
    (number, name): (usize, &'static str),
    boot: BootGeneration,
    disks: &[Disk],
    now: Timestamp,
) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(name);
    spec.boot = boot;
    spec.settings.secure_boot = boot == BootGeneration::Gen2;
    spec.settings.network_adapters.push(NetworkAdapter {
        name: "Network Adapter".to_owned(),
        mac: Some(format!("00:15:5D:00:00:{:02X}", number + 1)),
        switch: Some("External".to_owned()),
        addresses: Vec::new(),
    });
    for disk in disks {
        let slot: DiskSlot = disk.slot.parse().expect("the table has valid slots");
        let stem = format!("{name}-{}", disk.slot.replace(':', "-"));
        let path = disk.make(images, &stem, now)?;
        spec.disks.push(DiskSpec {
            slot,
            content: DiskContent::Existing { path },
        });
    }
    let shown: Vec<_> = disks
        .iter()
        .map(|disk| {
            let (size, data) = (disk.size / MIB, disk.data / MIB);
            format!(
                "{} {} of {size} MiB, {data} MiB used",
                disk.slot,
                disk.kind.word()
            )
        })
        .collect();
    Ok(Machine {
        name,
        id: console.create(&spec).map_err(Box::new)?,
        summary: shown.join("; "),
        disks: spec.disks.into_iter().map(|disk| disk.slot).collect(),
    })
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Kind::Vhdx => "VHDX",
            Kind::VhdxOnTemplate => "differencing VHDX",
            Kind::Vhd => "VHD",
            Kind::FixedVhd => "fixed VHD",
        }
    }
}

impl Disk {
    /// Makes the image with its data, and returns the file that the machine uses.
    fn make(&self, folder: &Path, stem: &str, now: Timestamp) -> Result<PathBuf, Error> {
        let (format, allocation, extension) = match self.kind {
            Kind::Vhdx | Kind::VhdxOnTemplate => (Format::Vhdx, Allocation::Dynamic, "vhdx"),
            Kind::Vhd => (Format::Vhd, Allocation::Dynamic, "vhd"),
            Kind::FixedVhd => (Format::Vhd, Allocation::Fixed, "vhd"),
        };
        let path = folder.join(format!("{stem}.{extension}"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Image {
                path,
                source: Box::new(source),
            }
        };
        let mut options = CreateOptions::new(format, allocation, self.size, Uuid::new_v4(), now);
        if format == Format::Vhd {
            options.physical_sector = 512;
        }
        let mut image = formats::create(&path, &options).map_err(failed(&path))?;
        content::fill(&mut image, self.data, rand::random()).map_err(failed(&path))?;
        image.close().map_err(failed(&path))?;
        if !matches!(self.kind, Kind::VhdxOnTemplate) {
            return Ok(path);
        }
        let child = folder.join(format!("{stem}-child.{extension}"));
        let options = ChildOptions {
            block_size: None,
            identifier: Uuid::new_v4(),
            created: now,
        };
        let image = formats::create_child(&child, &path, &options).map_err(failed(&child))?;
        image.close().map_err(failed(&child))?;
        Ok(child)
    }
}
