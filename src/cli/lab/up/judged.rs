//! `--once`: whether each machine's first recovery point is what its disks held, said by programs that are not ours.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use kube::Api;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::ProtectedVM;
use crate::cli::lab::up::story::Story;
use crate::ids::DiskSlot;
use crate::lab::demo::Machine;
use crate::lab::stage::Stage;
use crate::lab::stage::host::Host;
use crate::lab::tools::Tools;
use crate::lab::verdict::{self, Judge, Source, Witness};

/// The programs that judge.
pub(super) struct Judging(Judge);

/// Those who look at the machines' disks while they are frozen.
pub(super) struct Witnesses {
    judge: Judge,
    seen: Vec<(Machine, Observed)>,
}

/// Ends when a machine's disks were seen at its barrier.
type Observed = JoinHandle<Result<Option<Source>, verdict::Error>>;

impl Judging {
    pub(super) async fn obtain(tools: Tools, folder: PathBuf) -> anyhow::Result<Self> {
        let judge = tokio::task::spawn_blocking(move || Judge::obtain(&tools, &folder));
        Ok(Judging(judge.await??))
    }

    /// Arranges that each machine's first barrier is looked at.
    pub(super) async fn prepare(
        self,
        host: &Host,
        machines: &[Machine],
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Witnesses> {
        let mut seen = Vec::new();
        for machine in machines {
            let witness = Witness::new(self.0.clone(), host.socket(), machine.id.clone());
            let prepared = witness.clone();
            tokio::task::spawn_blocking(move || prepared.prepare()).await??;
            let shutdown = shutdown.clone();
            let observed =
                tokio::task::spawn_blocking(move || witness.observe(&|| !shutdown.is_cancelled()));
            seen.push((machine.clone(), observed));
        }
        Ok(Witnesses {
            judge: self.0,
            seen,
        })
    }
}

impl Witnesses {
    /// Compares every point with what was seen.
    pub(super) async fn compare(self, story: &Story, stage: &Stage) -> anyhow::Result<()> {
        story.say("Comparing each recovery point with its source: 7-Zip reads the disks as they were frozen, Azure's Python client the snapshots")?;
        let api: Api<ProtectedVM> = Api::namespaced(stage.client(), super::NAMESPACE);
        let mut wrong = Vec::new();
        for (machine, seen) in self.seen {
            let name = machine.name;
            let source = seen.await??;
            let source = source.with_context(|| format!("nobody saw the disks of {name}"))?;
            let vm = api.get(name).await?;
            let status = vm.status.unwrap_or_default();
            let replica = status
                .replica_id
                .with_context(|| format!("{name} has no replica"))?;
            let disks: Vec<(DiskSlot, String)> = status
                .disks
                .into_iter()
                .map(|disk| Ok((disk.id.parse()?, disk.replica_disk_id)))
                .collect::<anyhow::Result<_>>()?;
            if disks.len() != machine.disks.len() {
                bail!(
                    "{name} has {} replicated disks instead of {}",
                    disks.len(),
                    machine.disks.len()
                );
            }
            let compared = tokio::task::block_in_place(|| {
                self.judge
                    .compare(&stage.azurite, &replica, &source, &disks)
            })?;
            for (slot, disk) in compared {
                if disk.wrong.is_empty() {
                    let mib = disk.bytes >> 20;
                    story.show(&format!(
                        "{name:<7} {slot}  equal, {mib} MiB with data, barrier of {}",
                        source.time
                    ))?;
                } else {
                    story.show(&format!("{name:<7} {slot}  DIFFERENT at {:?}", disk.wrong))?;
                    wrong.push(format!("{name} {slot}"));
                }
            }
        }
        if wrong.is_empty() {
            story.say("Every recovery point equals its source at its barrier")?;
            return Ok(());
        }
        bail!(
            "recovery points differ from their source: {}",
            wrong.join(", ")
        )
    }
}
