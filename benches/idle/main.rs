//! What protected machines cost while nothing happens: writes to the API server, memory, processor time.
//!
//! The whole site is real but for the hypervisor: API server, storage, the controller by its chart, one agent.

#[path = "../shared/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use site_recovery::api::ProtectedVM;
use site_recovery::api::vm_status::ReplicationState;
use site_recovery::host::lab::spec::{DiskContent, DiskSpec, MachineSpec};
use site_recovery::host::{Hypervisor as _, PowerOperation};
use site_recovery::ids::ObjectName;
use site_recovery::lab::cluster::audit::by_user_and_resource;
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::host::Host;
use site_recovery::lab::stage::{Programs, Stage};
use site_recovery::lab::tools::{AzuriteVersion, Tools};
use site_recovery::units::{ByteRange, MIB};

const NAMESPACE: &str = "default";
const SITE: &str = "idle";
/// First copies at the same time: the emulator is what limits them.
const COPIES: u32 = 8;
/// Nothing is written for so long once all that follows protection is.
const SETTLED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Measure what protected machines cost while nothing happens.
#[derive(Debug, Parser)]
struct Args {
    /// Protected machines, of one small disk each
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    machines: u32,
    /// How long nothing happens
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    minutes: u64,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing ran before");
    let folder = tempfile::Builder::new().prefix("sr").tempdir()?;
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_site-recovery"));
    let programs = tokio::task::spawn_blocking(move || {
        Programs::obtain(&Tools::locate()?, AzuriteVersion::Throughput, &binary)
    });
    let stage = Stage::start(programs.await??, folder.path(), &json!({}), &|_| {}).await?;
    let mut controller = stage.controller("controller").await?;
    let site = ObjectName::new(NAMESPACE, SITE)?;
    let mut host = stage.host(&site, &"hv1".parse()?).await?;
    let names: Vec<String> = (1..=args.machines).map(|n| format!("vm{n:03}")).collect();
    let (host_of_machines, for_machines) = (host.console(), names.clone());
    let (hypervisor, address) = (host.hypervisor(), Address::Tcp(host.nbd()));
    let made = tokio::task::spawn_blocking(move || {
        for name in &for_machines {
            let id = host_of_machines.create(&machine(name))?;
            hypervisor.power(&id, PowerOperation::Start, PATIENCE)?;
            guest::fill(&address, &format!("{name}/scsi:0:0"), ByteRange::to(MIB), 1)?;
        }
        anyhow::Ok(())
    });
    made.await??;
    host.start_agent()?;
    stage.apply(NAMESPACE, &manifests(&stage, &names)).await?;
    until_all_are_protected(&stage, names.len()).await?;

    let controller_id = controller.process.id();
    let agent_id = host.agent().context("the agent runs")?.id();
    let before = (process::usage(controller_id)?, process::usage(agent_id)?);
    until_settled(&stage).await?;
    let mark = stage.cluster.mark()?;
    tokio::time::sleep(Duration::from_secs(60 * args.minutes)).await;
    let writes = stage.cluster.writes_since(mark).await?;
    let after = (process::usage(controller_id)?, process::usage(agent_id)?);

    anyhow::ensure!(
        controller.process.ended()?.is_none(),
        "the controller has ended"
    );
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} protected machines, {} minutes in which nothing happens",
        names.len(),
        args.minutes
    )?;
    for (name, before, after) in [
        ("controller", before.0, after.0),
        ("agent", before.1, after.1),
    ] {
        let used = after.cpu_seconds - before.cpu_seconds;
        let resident = after.resident_bytes / MIB;
        writeln!(
            out,
            "{name:<11} {resident:>4} MiB resident, {used:.1} s of processor time"
        )?;
    }
    let counts = by_user_and_resource(&writes);
    let ours: BTreeMap<_, _> = counts
        .into_iter()
        .filter(|((user, _), _)| user.starts_with("system:serviceaccount:"))
        .collect();
    for ((user, resource), count) in &ours {
        writeln!(out, "{count:>4} writes of {resource} by {user}")?;
    }
    let others = ours.keys().any(|(_, resource)| *resource != "leases");
    anyhow::ensure!(!others, "something else than Leases was written");
    end(host)
}

/// Waits for what follows protection, such as the site's count of its machines, to be written.
async fn until_settled(stage: &Stage) -> anyhow::Result<()> {
    loop {
        let mark = stage.cluster.mark()?;
        tokio::time::sleep(SETTLED).await;
        let writes = stage.cluster.writes_since(mark).await?;
        let ours = by_user_and_resource(&writes).into_keys();
        let mut ours = ours.filter(|(user, _)| user.starts_with("system:serviceaccount:"));
        if ours.all(|(_, resource)| resource == "leases") {
            return Ok(());
        }
    }
}

fn end(mut host: Host) -> anyhow::Result<()> {
    host.kill_agent();
    Ok(())
}

fn machine(name: &str) -> MachineSpec {
    let mut spec = MachineSpec::new(name);
    spec.disks.push(DiskSpec {
        slot: "scsi:0:0".parse().expect("a valid place"),
        content: DiskContent::vhdx(16 * MIB),
    });
    spec
}

fn manifests(stage: &Stage, names: &[String]) -> Vec<Value> {
    let account = stage.azurite.account();
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "storage" },
            "stringData": { "accountKey": account.key.expose() },
        }),
        json!({
            "apiVersion": "siterecovery.dev/v1alpha1", "kind": "HyperVSite", "metadata": { "name": SITE },
            "spec": {
                "hosts": [{ "name": "hv1" }],
                "azure": {
                    "tenantID": "00000000-0000-0000-0000-000000000000",
                    "location": "westeurope",
                    "credentials": { "type": "AccountKey", "secretRef": { "name": "storage" } },
                    "storage": { "account": account.name, "endpoint": stage.azurite.endpoint() },
                },
                "replicationPolicy": { "initialReplication": { "maxConcurrentPerHost": COPIES } },
            },
        }),
    ];
    objects.extend(names.iter().map(|name| {
        json!({
            "apiVersion": "siterecovery.dev/v1alpha1", "kind": "ProtectedVM", "metadata": { "name": name },
            "spec": { "siteRef": { "name": SITE }, "vm": { "name": name } },
        })
    }));
    objects
}

async fn until_all_are_protected(stage: &Stage, expected: usize) -> anyhow::Result<()> {
    let api: Api<ProtectedVM> = Api::namespaced(stage.client(), NAMESPACE);
    let wait = async {
        loop {
            let vms = api.list(&ListParams::default()).await?;
            let protected = vms.items.iter().filter(|vm| {
                let state = vm.status.as_ref().and_then(|status| status.state);
                state == Some(ReplicationState::Protected)
            });
            if protected.count() == expected {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.context("not all machines are protected after half an hour")?
}
