//! A cloud of the lab, a client of it, and a storage account with disks that can be imported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;
use site_recovery::azure::body::{
    Body, Caching, DataDisk, Disk, DiskCreation, DiskProperties, Generation, InterfaceProperties,
    IpConfiguration, NetworkInterface, OsDisk, OsType, PublicAddress, Sku, Snapshot,
    VirtualMachine,
};
use site_recovery::azure::client::{ArmClient, Options};
use site_recovery::azure::cloud::Environment;
use site_recovery::azure::id::{GroupId, ResourceId, ResourceKind};
use site_recovery::azure::names::Owner;
use site_recovery::azure::operation::{Begun, Operation, Outcome, Progress};
use site_recovery::azure::{Arm as _, Error, Kind};
use site_recovery::blob::Container;
use site_recovery::blob::names::SequenceNumber;
use site_recovery::blob::parameters::Metadata;
use site_recovery::formats::vhd::fixed_footer;
use site_recovery::lab::arm::{self, Arm, Storage};
use site_recovery::secret::Secret;
use site_recovery::units::{MIB, to_u64};
use tempfile::TempDir;
use uuid::Uuid;

use crate::blob::emulator::{self, Emulator, http, unique};

pub(crate) const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const LOCATION: &str = "westeurope";
pub(crate) const TOKEN: &str = "lab-token";
/// What a cloud that is asked again and again is given between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Gives the one token that the lab believes, or another.
#[derive(Debug)]
pub(crate) struct Given(pub(crate) &'static str);

#[async_trait]
impl TokenCredential for Given {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert!(scopes[0].ends_with("/.default"), "{scopes:?}");
        let expiry = Timestamp::now().as_second() + 3600;
        let expiry = OffsetDateTime::from_unix_timestamp(expiry).unwrap();
        Ok(AccessToken::new(self.0.to_owned(), expiry))
    }
}

/// A cloud with a group and a network, and who asks it.
pub(crate) struct World {
    pub(crate) arm: Option<Arm>,
    pub(crate) client: ArmClient,
    _folder: TempDir,
    pub(crate) options: arm::Options,
    emulator: Option<Arc<Emulator>>,
}

impl World {
    /// A cloud without a storage account.
    pub(crate) async fn empty() -> Self {
        World::with(|_| {}, None).await
    }

    pub(crate) async fn changed(change: impl FnOnce(&mut arm::Options)) -> Self {
        World::with(change, None).await
    }

    /// A cloud that can import from the emulator.
    pub(crate) async fn with_storage() -> Self {
        World::with(|_| {}, Some(emulator::start().await)).await
    }

    pub(crate) async fn with(
        change: impl FnOnce(&mut arm::Options),
        emulator: Option<Arc<Emulator>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = arm::Options::quick(folder.path().join("cloud"));
        options.token = Some(Secret::new(TOKEN));
        if let Some(emulator) = &emulator {
            options.storage.push(Storage {
                id: account().to_string(),
                location: LOCATION.to_owned(),
                account: Arc::new(emulator.account()),
            });
        }
        change(&mut options);
        let arm = Arm::start(options.clone()).await.unwrap();
        options.port = Some(arm.port());
        furnish(&arm);
        World {
            client: client(&arm, TOKEN),
            arm: Some(arm),
            _folder: folder,
            options,
            emulator,
        }
    }

    pub(crate) fn arm(&self) -> &Arm {
        self.arm.as_ref().unwrap()
    }

    /// The cloud dies, and another begins with what it had on disk.
    pub(crate) async fn restart(&mut self) {
        self.arm.take().unwrap().kill().await;
        self.arm = Some(Arm::start(self.options.clone()).await.unwrap());
    }

    pub(crate) fn emulator(&self) -> &Emulator {
        self.emulator.as_ref().unwrap()
    }

    /// A container of the storage account, and what its blobs' URLs begin with.
    pub(crate) async fn container(&self) -> (Arc<dyn Container>, String) {
        let container = self.emulator().container().await;
        let base = format!("{}/{}", self.emulator().endpoint(), container.name());
        (container, base)
    }

    /// Polls until it is done.
    pub(crate) async fn finish(&self, begun: Begun) -> Outcome {
        self.end(begun).await.unwrap()
    }

    /// Polls until it has ended.
    pub(crate) async fn end(&self, begun: Begun) -> Result<Outcome, Error> {
        let mut operation = match begun {
            Begun::Done(outcome) => return Ok(outcome),
            Begun::Going(operation) => operation,
        };
        loop {
            match self.step(&operation).await? {
                Progress::Done(outcome) => return Ok(outcome),
                Progress::Going(next) => operation = next,
                Progress::Failed(failure) => return Err(failure.error(&operation)),
                Progress::Unknown => panic!("{operation:?} is unknown"),
            }
        }
    }

    async fn step(&self, operation: &Operation) -> Result<Progress, Error> {
        tokio::time::sleep(operation.wait().min(PAUSE)).await;
        self.client.poll(operation).await
    }

    /// Makes a resource of `run()`.
    pub(crate) async fn create(&self, resource: &ResourceId, body: Body) -> Outcome {
        let begun = self.client.create(resource, &run(), &body).await.unwrap();
        self.finish(begun).await
    }

    /// An imported disk of `content`.
    pub(crate) async fn disk(&self, name: &str, content: &[u8], os: bool) -> ResourceId {
        let (container, base) = self.container().await;
        let url = upload(container.as_ref(), &base, &vhd(content)).await;
        let id = resource(ResourceKind::Disk, name);
        self.create(&id, Body::Disk(imported(&url, os))).await;
        id
    }

    /// An adapter in the network.
    pub(crate) async fn adapter(&self, name: &str) -> ResourceId {
        let id = resource(ResourceKind::NetworkInterface, name);
        self.create(&id, Body::NetworkInterface(adapter(None, None)))
            .await;
        id
    }

    /// A running machine of an operating system's disk and a data disk.
    pub(crate) async fn machine(
        &self,
        name: &str,
        os: &ResourceId,
        data: &[&ResourceId],
    ) -> ResourceId {
        let adapter = self.adapter(&format!("{name}-nic")).await;
        let id = resource(ResourceKind::VirtualMachine, name);
        let body = Body::VirtualMachine(Box::new(machine(os, data, &[&adapter])));
        self.create(&id, body).await;
        id
    }
}

pub(crate) fn client(arm: &Arm, token: &'static str) -> ArmClient {
    let environment = Environment::custom(&arm.url(), None).unwrap();
    // Long enough for a repeat, short enough for a test of what is not repeated.
    let options = Options {
        patience: Duration::from_secs(20),
        ..Options::default()
    };
    ArmClient::new(&http(&[]), environment, Arc::new(Given(token)), options)
}

pub(crate) fn furnish(arm: &Arm) {
    let group = json!({ "location": LOCATION });
    arm.place(&self::group().to_string(), group).unwrap();
    let network = json!({
        "location": LOCATION,
        "properties": {
            "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] },
            "subnets": [{ "name": "s1", "properties": { "addressPrefix": "10.0.0.0/24" } }],
        },
    });
    arm.place(&self::network().to_string(), network).unwrap();
}

pub(crate) fn group() -> GroupId {
    GroupId::new(SUBSCRIPTION, "dr-group").unwrap()
}

pub(crate) fn resource(kind: ResourceKind, name: &str) -> ResourceId {
    group().resource(kind, name).unwrap()
}

pub(crate) fn network() -> ResourceId {
    resource(ResourceKind::VirtualNetwork, "v1")
}

pub(crate) fn subnet() -> ResourceId {
    network().subnet("s1").unwrap()
}

pub(crate) fn account() -> ResourceId {
    resource(ResourceKind::StorageAccount, "replicas")
}

pub(crate) fn run() -> Owner {
    owner("prod/failover-1")
}

pub(crate) fn owner(run: &str) -> Owner {
    Owner {
        site: "prod/berlin".into(),
        plan: Some("shop".into()),
        vm: "prod/web01".into(),
        run: run.into(),
        epoch: 3,
    }
}

pub(crate) fn tags() -> BTreeMap<String, String> {
    run().tags(&BTreeMap::new()).unwrap()
}

/// A fixed VHD of `content`.
pub(crate) fn vhd(content: &[u8]) -> Vec<u8> {
    let footer = fixed_footer(to_u64(content.len()), Uuid::new_v4(), Timestamp::now());
    [content, &footer].concat()
}

/// Uploads a page blob: its URL.
pub(crate) async fn upload(container: &dyn Container, base: &str, bytes: &[u8]) -> String {
    let name = unique("disk");
    let length = to_u64(bytes.len());
    let number = SequenceNumber::ZERO;
    let metadata = Metadata::new();
    let created = container
        .create_page_blob(&name, length, number, &metadata, None)
        .await;
    created.unwrap();
    let mut offset = 0;
    for piece in bytes.chunks(usize::try_from(MIB).unwrap()) {
        // What is zero is left as it is: the import has to keep holes.
        if piece.iter().any(|byte| *byte != 0) {
            let body = Bytes::copy_from_slice(piece);
            container
                .put_pages(&name, offset, body, number)
                .await
                .unwrap();
        }
        offset += to_u64(piece.len());
    }
    format!("{base}/{name}")
}

pub(crate) fn imported(url: &str, os: bool) -> Disk {
    Disk {
        location: LOCATION.into(),
        zones: Vec::new(),
        sku: Sku {
            name: "Premium_LRS".into(),
        },
        tags: tags(),
        properties: DiskProperties {
            os_type: os.then_some(OsType::Windows),
            generation: os.then_some(Generation::V2),
            creation_data: DiskCreation::Import {
                source_uri: url.into(),
                storage_account_id: account(),
            },
            encryption: None,
            network_access_policy: None,
        },
    }
}

pub(crate) fn snapshot(disk: &ResourceId) -> Body {
    Body::Snapshot(Snapshot::of(disk.clone(), LOCATION, tags()))
}

pub(crate) fn adapter(address: Option<&str>, public: Option<&ResourceId>) -> NetworkInterface {
    let address = address.map(str::to_owned);
    NetworkInterface {
        location: LOCATION.into(),
        tags: tags(),
        properties: InterfaceProperties {
            enable_accelerated_networking: true,
            network_security_group: None,
            ip_configurations: vec![IpConfiguration::new(subnet(), address, public.cloned())],
        },
    }
}

pub(crate) fn public_address() -> Body {
    Body::PublicAddress(PublicAddress::new(LOCATION, Vec::new(), tags()))
}

pub(crate) fn machine(
    os: &ResourceId,
    data: &[&ResourceId],
    adapters: &[&ResourceId],
) -> VirtualMachine {
    let data = data.iter().zip(0..);
    let data = data.map(|(disk, lun)| DataDisk::attached(lun, (*disk).clone(), Caching::ReadOnly));
    let os = OsDisk::attached(os.clone(), OsType::Windows, Caching::ReadWrite);
    let adapters = adapters.iter().map(|id| (*id).clone()).collect();
    VirtualMachine::new(
        LOCATION,
        "Standard_D2s_v5",
        os,
        data.collect(),
        adapters,
        tags(),
    )
}

/// What an error is, where there has to be one.
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind
}
