//! Our side: host and cloud as two processes over a lab hypervisor, from the order to the first recovery point.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use site_recovery::blob::Account as _;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::Permissions;
use site_recovery::controller::documents;
use site_recovery::datapath::store::Store;
use site_recovery::host::Hypervisor as _;
use site_recovery::host::lab::LabHypervisor;
use site_recovery::host::lab::console::Console;
use site_recovery::host::lab::spec::{DiskContent, DiskSpec, MachineSpec};
use site_recovery::host::{BootGeneration, PowerOperation};
use site_recovery::ids::{ChainId, DiskId, DiskSlot, ReplicaId, VmId, random};
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::process::{Process, port};
use site_recovery::replica::fence::{DescribedDisk, Fence, MachineDescription, Side as ActiveSide};
use site_recovery::replica::names::{self, Prefix};
use site_recovery::units::Generation;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::image::Image;
use crate::measure::{self, Sample, Side, Usage, Watch};
use crate::roles::{CloudOrder, CloudSays, HostOrder, HostSays};
use crate::stand::{Copy, Storage};

/// Longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(100);
const MACHINE: &str = "bench";

/// With `in_turn`, the cloud begins only when the host is done.
pub(crate) async fn run(
    in_turn: bool,
    storage: &Storage,
    image: &Image,
    folder: &Path,
) -> anyhow::Result<(Sample, Copy)> {
    let lab = Lab::start(image, folder).await?;
    let replica = Replica::create(storage, &lab, image.size).await?;
    let mut host = Role::start("host")?;
    let mut cloud = Role::start("cloud")?;
    cloud.order(&replica.cloud_order(storage)).await?;
    let said: CloudSays = cloud.hear().await?;
    anyhow::ensure!(said.points == 0, "the replica is not new");

    let (hypervisor, emulator) = (lab.process.id(), storage.process()?);
    let watch = Watch::begin(&[("azurite", emulator), ("hypervisor", hypervisor)])?;
    let begun = Instant::now();
    host.order(&replica.host_order(storage, &lab, folder).await?)
        .await?;
    let copied = tokio::time::timeout(PATIENCE, copy(in_turn, &mut host, &mut cloud, begun)).await;
    let copied = copied.context("it does not end")??;
    let processes = BTreeMap::from([("host", host.usage()?), ("cloud", cloud.usage()?)]);
    let (stand_ins, others_cpu_seconds) = watch.end(&processes)?;

    let sample = Sample {
        side: Side::Ours,
        host_done_seconds: copied.host_done,
        published_seconds: copied.published,
        phases: copied.phases,
        processes,
        sent_bytes: copied.sent,
        stand_ins,
        others_cpu_seconds,
    };
    host.end().await?;
    cloud.end().await?;
    lab.end().await?;
    Ok((sample, replica.copy().await?))
}

/// How a copy went; times are seconds since its beginning.
#[derive(Default)]
struct Copied {
    host_done: f64,
    published: f64,
    phases: Vec<(String, f64)>,
    sent: u64,
}

/// Passes on what the host says, until it is done and there is a recovery point.
async fn copy(
    in_turn: bool,
    host: &mut Role,
    cloud: &mut Role,
    begun: Instant,
) -> anyhow::Result<Copied> {
    let (mut copied, mut done) = (Copied::default(), false);
    loop {
        tokio::select! {
            said = host.hear::<HostSays>() => {
                let (said, now) = (said?, begun.elapsed().as_secs_f64());
                anyhow::ensure!(said.trouble.is_none(), "the host has a problem: {:?}", said.trouble);
                copied.sent = said.sent;
                if copied.phases.last().is_none_or(|(last, _)| *last != said.phase) {
                    copied.phases.push((said.phase, now));
                }
                if said.done && !done {
                    done = true;
                    copied.host_done = now;
                }
                if done || !in_turn {
                    cloud.order(&"there may be more").await?;
                }
            }
            said = cloud.hear::<CloudSays>() => {
                let said = said?;
                anyhow::ensure!(said.trouble.is_none(), "the cloud has a problem: {:?}", said.trouble);
                if said.points > 0 {
                    copied.published = begun.elapsed().as_secs_f64();
                }
            }
        }
        if done && copied.published > 0.0 {
            return Ok(copied);
        }
    }
}

/// A lab hypervisor with one machine.
pub(crate) struct Lab {
    process: Process,
    client: LabHypervisor,
    console: Console,
    vm: VmId,
    slot: DiskSlot,
}

impl Lab {
    pub(crate) async fn start(image: &Image, folder: &Path) -> anyhow::Result<Self> {
        let socket = folder.join("hypervisor.socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_site-recovery"));
        let listen = format!("127.0.0.1:{}", port::free()?);
        command
            .args(["lab", "hypervisor", "--folder"])
            .arg(folder.join("machines"))
            .arg("--socket")
            .arg(&socket)
            .args(["--listen", &listen]);
        let log = folder.join("hypervisor.log");
        let mut process = Process::start("the lab hypervisor", &mut command, &log)?;
        let console = Console::new(&socket);
        let ready = || std::future::ready(console.about().is_ok());
        process.wait_ready(PATIENCE, ready).await?;
        let slot: DiskSlot = "scsi:0:0".parse()?;
        let mut spec = MachineSpec::new(MACHINE);
        spec.disks.push(DiskSpec {
            slot: slot.clone(),
            content: DiskContent::Existing {
                path: image.path.clone(),
            },
        });
        let vm = console.create(&spec)?;
        let client = LabHypervisor::new(&socket);
        client.power(&vm, PowerOperation::Start, PATIENCE)?;
        Ok(Lab {
            process,
            client,
            console,
            vm,
            slot,
        })
    }

    /// Where a guest reaches the disk.
    pub(crate) fn export(&self) -> anyhow::Result<(Address, String)> {
        let about = self.console.about()?;
        let address = Address::of(&about).context("the hypervisor exports no disks")?;
        Ok((address, format!("{MACHINE}/{}", self.slot)))
    }

    /// Leaves the image without a checkpoint.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        while self.client.machine(&self.vm)?.busy.is_some() {
            tokio::time::sleep(LOOK).await;
        }
        self.client.stop_tracking(&self.vm)?;
        while self.client.machine(&self.vm)?.busy.is_some() {
            tokio::time::sleep(LOOK).await;
        }
        self.client
            .power(&self.vm, PowerOperation::TurnOff, PATIENCE)?;
        Ok(())
    }
}

/// An empty replica.
pub(crate) struct Replica {
    store: Store,
    inbox: String,
    container: String,
    disk: DiskId,
}

impl Replica {
    /// As the controller makes it when a VM is enabled.
    pub(crate) async fn create(storage: &Storage, lab: &Lab, size: u64) -> anyhow::Result<Self> {
        let (id, prefix) = (ReplicaId::from_random(random()), "bench".parse::<Prefix>()?);
        let disk = DiskId::from_random(random());
        let (inbox, container) = (prefix.inbox(&id), prefix.replica(&id));
        storage.create(&inbox).await?;
        storage.create(&container).await?;
        let store = Store {
            inbox: storage.account.container(&inbox),
            replica: storage.account.container(&container),
            id: id.clone(),
        };
        store.create(ChainId::from_random(random())).await?;
        let fence = Fence {
            replica: id,
            generation: Generation::new(1),
            term: 0,
            host: None,
            former_disks: Vec::new(),
            epoch: 0,
            active_side: ActiveSide::OnPremises,
            active_run: None,
            pinned: Vec::new(),
            machine: MachineDescription {
                vm: lab.vm.clone(),
                name: MACHINE.to_owned(),
                boot: BootGeneration::Gen2,
                processors: 1,
                memory_mib: 1024,
                secure_boot: false,
                guest_os: None,
                network_adapters: Vec::new(),
                disks: vec![DescribedDisk {
                    id: disk.clone(),
                    slot: lab.slot.clone(),
                    identifier: None,
                    size,
                    boot: true,
                }],
            },
        };
        let created = documents::create(store.replica.as_ref(), names::FENCE, fence).await;
        created.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        Ok(Replica {
            store,
            inbox,
            container,
            disk,
        })
    }

    pub(crate) async fn host_order(
        &self,
        storage: &Storage,
        lab: &Lab,
        folder: &Path,
    ) -> anyhow::Result<HostOrder> {
        let state = folder.join("state");
        std::fs::create_dir_all(&state)?;
        let inbox = storage.signature(&self.inbox, Permissions::INBOX).await?;
        let store = storage
            .signature(&self.container, Permissions::REPLICA)
            .await?;
        Ok(HostOrder {
            hypervisor: folder.join("hypervisor.socket"),
            state,
            vm: lab.vm.clone(),
            disk: self.disk.clone(),
            slot: lab.slot.clone(),
            replica: self.store.id.clone(),
            endpoint: storage.endpoint(),
            inbox: (self.inbox.clone(), inbox),
            store: (self.container.clone(), store),
        })
    }

    pub(crate) fn cloud_order(&self, storage: &Storage) -> CloudOrder {
        CloudOrder {
            endpoint: storage.endpoint(),
            key: storage.key().to_owned(),
            replica: self.store.id.clone(),
            inbox: self.inbox.clone(),
            store: self.container.clone(),
        }
    }

    /// The disk at the recovery point.
    pub(crate) async fn copy(&self) -> anyhow::Result<Copy> {
        let held = self.store.load().await?.context("the manifest is gone")?;
        let point = held.manifest.points.last().context("the point is gone")?;
        let snapshot = point.disks[&self.disk].snapshot.parse()?;
        Ok(Copy {
            container: self.store.replica.clone(),
            blob: BlobRef::at(names::disk(&self.disk), snapshot),
        })
    }
}

/// This program as a child.
pub(crate) struct Role {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Role {
    pub(crate) fn start(name: &'static str) -> anyhow::Result<Self> {
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("it has an input")?;
        let output = child.stdout.take().context("it has an output")?;
        Ok(Role {
            name,
            child,
            input,
            output: BufReader::new(output).lines(),
        })
    }

    pub(crate) async fn order<T: Serialize>(&mut self, what: &T) -> anyhow::Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        Ok(self.input.write_all(line.as_bytes()).await?)
    }

    /// The next thing that it says. May be dropped and called again.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.output.next_line().await?;
        let line = line.with_context(|| format!("the {} process has ended", self.name))?;
        Ok(serde_json::from_str(&line)?)
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        measure::usage(self.child.id().context("it has ended")?)
    }

    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let ended = self.child.wait().await?;
        anyhow::ensure!(
            ended.success(),
            "the {} process ended with {ended}",
            self.name
        );
        Ok(())
    }
}
