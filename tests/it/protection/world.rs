//! A site with machines, and ways to look at what becomes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Api;
use serde_json::{Value, json};
use site_recovery::api::vm_status::{ProtectedVMStatus, ReplicationState};
use site_recovery::api::{HyperVSite, ProtectedVM};
use site_recovery::blob::client::Options;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::credential::AccountKey;
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::Include;
use site_recovery::blob::{Account, walk};
use site_recovery::controller::documents;
use site_recovery::host::lab::spec::{DiskContent, DiskSpec, ImageFormat, ImageKind, MachineSpec};
use site_recovery::host::{BootGeneration, Hypervisor, PowerOperation};
use site_recovery::ids::{DiskSlot, ObjectName, VmId};
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::host::Host;
use site_recovery::lab::stage::{Programs, Stage};
use site_recovery::lab::tools::{AzuriteVersion, Tools};
use site_recovery::lab::verdict::{Judge, Source, Witness};
use site_recovery::replica::document;
use site_recovery::replica::fence::Fence;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names::{self, Prefix};
use site_recovery::replica::record::Record;
use site_recovery::replica::seal::Seal;
use site_recovery::units::{ByteRange, MIB};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const SITE: &str = "site";
/// Longer than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often what somebody else changes is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) folder: TempDir,
}

/// A machine that a test has made.
pub(crate) struct Machine {
    pub(crate) id: VmId,
}

pub(crate) async fn programs() -> Programs {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_site-recovery"));
    blocking(move || {
        let tools = Tools::locate().unwrap();
        Programs::obtain(&tools, AzuriteVersion::Conformance, &binary).unwrap()
    })
    .await
}

/// Runs what blocks, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Looks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_seen(|| what.to_owned(), look).await
}

/// Looks again and again until there is an answer; what there was instead is said at the end.
pub(crate) async fn until_seen<T>(
    what: impl Fn() -> String,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {}", what());
        tokio::time::sleep(LOOK).await;
    }
}

impl World {
    /// Cluster, storage and chart; no controller and no host yet.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sr").tempdir().unwrap();
        let stage = stage(&folder.path().join("1")).await;
        World { stage, folder }
    }

    /// A site with one host, and its machine `web` that is to be protected; no controller yet.
    pub(crate) async fn with_web(disks: &[(&str, u64)], data: u64) -> (Self, Host, Machine) {
        let world = World::new().await;
        let mut host = world.host("hv1").await;
        let web = machine(&host, "web", disks, data).await;
        host.start_agent().unwrap();
        world.apply(&world.site(&["hv1"], |_| {})).await;
        world.apply(&[protected_vm("web")]).await;
        (world, host, web)
    }

    /// The site's manifests, with `change` made to its spec.
    pub(crate) fn site(&self, hosts: &[&str], change: impl FnOnce(&mut Value)) -> Vec<Value> {
        let account = self.stage.azurite.account();
        let hosts: Vec<_> = hosts.iter().map(|name| json!({ "name": name })).collect();
        let mut site = json!({
            "apiVersion": "siterecovery.dev/v1alpha1",
            "kind": "HyperVSite",
            "metadata": { "name": SITE },
            "spec": {
                "hosts": hosts,
                "azure": {
                    "tenantID": "00000000-0000-0000-0000-000000000000",
                    "location": "westeurope",
                    "credentials": { "type": "AccountKey", "secretRef": { "name": "storage" } },
                    "storage": { "account": account.name, "endpoint": self.stage.azurite.endpoint() },
                },
            },
        });
        change(&mut site["spec"]);
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "storage" },
            "stringData": { "accountKey": account.key.expose() },
        });
        vec![secret, site]
    }

    pub(crate) async fn apply(&self, objects: &[Value]) {
        self.stage.apply(NAMESPACE, objects).await.unwrap();
    }

    pub(crate) async fn host(&self, name: &str) -> Host {
        let site = ObjectName::new(NAMESPACE, SITE).unwrap();
        let host = self.stage.host(&site, &name.parse().unwrap()).await;
        host.unwrap()
    }

    pub(crate) async fn status(&self, vm: &str) -> ProtectedVMStatus {
        let api: Api<ProtectedVM> = Api::namespaced(self.stage.client(), NAMESPACE);
        let vm = api.get_opt(vm).await.unwrap();
        vm.and_then(|vm| vm.status).unwrap_or_default()
    }

    /// Waits until a VM's status is as wanted.
    pub(crate) async fn until_status(
        &self,
        vm: &str,
        what: &str,
        wanted: impl Fn(&ProtectedVMStatus) -> bool,
    ) -> ProtectedVMStatus {
        let begun = Instant::now();
        loop {
            let status = self.status(vm).await;
            if wanted(&status) {
                return status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{vm} is not {what}: {status:#?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn until_protected(&self, vm: &str) -> ProtectedVMStatus {
        self.until_status(vm, "protected", is_protected).await
    }

    /// Waits until the site says something of a condition.
    pub(crate) async fn until_site(
        &self,
        type_: &str,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> String {
        let api: Api<HyperVSite> = Api::namespaced(self.stage.client(), NAMESPACE);
        until(&format!("the site's {type_}"), async || {
            let status = api.get_opt(SITE).await.unwrap()?.status?;
            let condition = status.conditions.into_iter().find(|c| c.type_ == type_)?;
            let said = format!("{}: {}", condition.reason, condition.message);
            wanted(&condition.status, &said).then_some(said)
        })
        .await
    }

    pub(crate) fn account(&self) -> Arc<dyn Account> {
        let azurite = &self.stage.azurite;
        let endpoint = Endpoint::parse(&azurite.endpoint()).unwrap();
        let key = AccountKey::new(&azurite.account().key).unwrap();
        let http = crate::blob::emulator::http(&[]);
        Arc::new(AccountClient::with_key(
            &http,
            endpoint,
            key,
            Options::default(),
        ))
    }

    /// The blobs of a replica's inbox: names and bytes.
    pub(crate) async fn inbox(&self, replica: &str) -> Vec<(String, u64)> {
        let container = self.account().container(&format!("sr-i-{replica}"));
        let listed = walk::blobs(container.as_ref(), "", Include::default(), 10_000).await;
        let blobs = listed.unwrap().items.into_iter();
        blobs.map(|blob| (blob.name, blob.length)).collect()
    }

    /// The seals of an inbox listing.
    pub(crate) async fn seals(&self, replica: &str, inbox: &[(String, u64)]) -> Vec<Seal> {
        let container = self.account().container(&format!("sr-i-{replica}"));
        let mut seals = Vec::new();
        for (name, _) in inbox
            .iter()
            .filter(|(name, _)| name.ends_with("sealed.json"))
        {
            let got = container
                .get(&BlobRef::head(name), None, 16 * MIB)
                .await
                .unwrap();
            seals.push(document::decode(&got.bytes).unwrap());
        }
        seals
    }

    /// How far the data path is; nothing if the replica has not been made yet.
    pub(crate) async fn manifest(&self, replica: &str) -> Option<Manifest> {
        let container = self.account().container(&format!("sr-r-{replica}"));
        let blob = BlobRef::head("replica.json");
        match container.get(&blob, None, 16 * MIB).await {
            Ok(got) => Some(document::decode(&got.bytes).unwrap()),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Who may command a VM.
    pub(crate) async fn fence(&self, replica: &str) -> Fence {
        let container = self.account().container(&format!("sr-r-{replica}"));
        let held = documents::load(container.as_ref(), names::FENCE).await;
        held.unwrap().unwrap().value
    }

    /// Whether it is written down that the replica of a VM goes.
    pub(crate) async fn is_condemned(&self, vm: &str) -> bool {
        let prefix: Prefix = "sr".parse().unwrap();
        let site = ObjectName::new(NAMESPACE, SITE).unwrap();
        let container = self.account().container(&prefix.site(&site));
        let name = names::record(&ObjectName::new(NAMESPACE, vm).unwrap());
        let held = documents::load::<Record>(container.as_ref(), &name).await;
        held.unwrap().unwrap().value.condemned.is_some()
    }

    /// Has what the machine's disks hold at its first barrier looked at.
    pub(crate) async fn witness(&self, host: &Host, machine: &Machine) -> Observing {
        let folder = self.folder.path().join("verdict");
        let (socket, vm) = (host.socket(), machine.id.clone());
        let (judge, witness) = blocking(move || {
            let judge = Judge::obtain(&Tools::locate().unwrap(), &folder).unwrap();
            let witness = Witness::new(judge.clone(), socket, vm);
            witness.prepare().unwrap();
            (judge, witness)
        })
        .await;
        let source = tokio::task::spawn_blocking(move || {
            witness.observe(&|| true).unwrap().expect("nobody ends it")
        });
        Observing { judge, source }
    }

    /// Checks by programs that are not ours that the VM's first recovery point is what was seen.
    pub(crate) async fn judge(&self, observing: Observing, status: &ProtectedVMStatus) {
        let source = observing.source.await.unwrap();
        let replica = status.replica_id.as_ref().unwrap();
        let disks: Vec<(DiskSlot, String)> = status
            .disks
            .iter()
            .map(|disk| (disk.id.parse().unwrap(), disk.replica_disk_id.clone()))
            .collect();
        assert!(!disks.is_empty());
        let compared = tokio::task::block_in_place(|| {
            observing
                .judge
                .compare(&self.stage.azurite, replica, &source, &disks)
        });
        for (slot, disk) in compared.unwrap() {
            assert_eq!(
                disk.wrong,
                Vec::<u64>::new(),
                "{slot} differs from its source at these offsets"
            );
            assert!(disk.bytes > 0, "{slot} is empty");
        }
    }
}

pub(crate) struct Observing {
    judge: Judge,
    source: JoinHandle<Source>,
}

pub(crate) async fn stage(folder: &Path) -> Stage {
    let programs = programs().await;
    Stage::start(programs, folder, &values(), &|_| {})
        .await
        .unwrap()
}

/// What the chart is installed with.
pub(crate) fn values() -> Value {
    json!({ "logFormat": "text" })
}

pub(crate) fn is_protected(status: &ProtectedVMStatus) -> bool {
    status.state == Some(ReplicationState::Protected)
        && status
            .recovery_points
            .as_ref()
            .is_some_and(|points| points.count > 0)
}

/// The manifest of a ProtectedVM of the site.
pub(crate) fn protected_vm(name: &str) -> Value {
    json!({
        "apiVersion": "siterecovery.dev/v1alpha1",
        "kind": "ProtectedVM",
        "metadata": { "name": name },
        "spec": { "siteRef": { "name": SITE }, "vm": { "name": name } },
    })
}

/// A new disk of a machine: a VHDX, or a VHD where the machine is of the first generation.
fn disk(slot: &str, format: ImageFormat, size: u64) -> DiskSpec {
    let sector = match format {
        ImageFormat::Vhd => 512,
        ImageFormat::Vhdx => 4096,
    };
    DiskSpec {
        slot: slot.parse().unwrap(),
        content: DiskContent::New {
            format,
            kind: ImageKind::Dynamic,
            size,
            block_size: None,
            logical_sector: 512,
            physical_sector: sector,
        },
    }
}

/// Makes a machine of the second generation whose disks have `data` bytes each from the start, and starts it.
pub(crate) async fn machine(host: &Host, name: &str, disks: &[(&str, u64)], data: u64) -> Machine {
    let mut spec = MachineSpec::new(name);
    spec.boot = match disks[0].0.starts_with("ide") {
        true => BootGeneration::Gen1,
        false => BootGeneration::Gen2,
    };
    let format = match spec.boot {
        BootGeneration::Gen1 => ImageFormat::Vhd,
        BootGeneration::Gen2 => ImageFormat::Vhdx,
    };
    spec.disks = disks
        .iter()
        .map(|(slot, size)| disk(slot, format, *size))
        .collect();
    let (console, hypervisor, address) = (host.console(), host.hypervisor(), host.nbd());
    blocking(move || {
        let id = console.create(&spec).unwrap();
        hypervisor
            .power(&id, PowerOperation::Start, PATIENCE)
            .unwrap();
        for (number, disk) in spec.disks.iter().enumerate().filter(|_| data > 0) {
            let export = format!("{}/{}", spec.name, disk.slot);
            let seed = u64::try_from(number).unwrap();
            let filled = guest::fill(&Address::Tcp(address), &export, ByteRange::to(data), seed);
            assert_eq!(filled.unwrap(), data);
        }
        Machine { id }
    })
    .await
}
