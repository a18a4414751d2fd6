//! A Hyper-V site on this machine, whole: cluster, storage, controllers by their chart, hosts with agent and hypervisor.
//!
//! ```text
//! <folder>/cluster/            kube-apiserver, etcd, the release of the chart with its controllers (`cluster`, `installed`)
//!          azurite/            the storage account (`azurite`)
//!          hosts/<host>/       the hypervisor's machines; the agent's certificates, state and log (`host`)
//! ```
//! Every part is a process of its own that may be killed and started again; what the demonstration, the end-to-end
//! tests and the benchmarks differ in is what they do with it.

mod error;
pub mod host;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::ids::{HostName, ObjectName};
use crate::lab::authority::{Authority, Validity};
use crate::lab::azurite::{Azurite, Options};
use crate::lab::cluster::Cluster;
use crate::lab::examples;
use crate::lab::file::file_error;
use crate::lab::installed::{Installed, Ports, http};
use crate::lab::process::{Process, port};
use crate::lab::service::Service;
pub use crate::lab::stage::error::Error;
use crate::lab::stage::error::ask_error;
use crate::lab::stage::host::Host;
use crate::lab::tools::{AzuriteCommand, AzuriteVersion, ControlPlane, Tools};
use crate::tls::PeerIdentity;

/// Where the release of the chart is.
pub const RELEASE_NAMESPACE: &str = "site-recovery";
const RELEASE: &str = "site-recovery";
/// The chart's own default for the gateway's certificates.
const CERTIFICATES: &str = "site-recovery-gateway";
/// Longer than a lab is looked at.
const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
/// Ten times what a controller takes to be ready on two idle cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs that a stage runs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub control_plane: ControlPlane,
    pub azurite: AzuriteCommand,
    /// The program that is shown: `site-recovery` itself.
    pub site_recovery: PathBuf,
}

impl Programs {
    /// Obtains what is not there yet. Blocks, the first time for minutes.
    ///
    /// # Errors
    /// If a program cannot be obtained.
    pub fn obtain(
        tools: &Tools,
        azurite: AzuriteVersion,
        site_recovery: &Path,
    ) -> Result<Self, Error> {
        Ok(Programs {
            control_plane: tools.control_plane()?,
            azurite: tools.azurite(azurite)?,
            site_recovery: site_recovery.to_owned(),
        })
    }
}

/// A site at work.
pub struct Stage {
    pub cluster: Cluster,
    pub azurite: Azurite,
    pub release: Installed,
    folder: PathBuf,
    programs: Programs,
    authority: Authority,
    /// What agents connect to.
    gateway: Service,
    client: Client,
}

/// A replica of the controller, or a worker of the data path.
#[derive(Debug)]
pub struct Replica {
    pub process: Process,
    probes: u16,
}

impl Replica {
    /// Waits until the replica says that it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub async fn wait_ready(&mut self) -> Result<(), Error> {
        let port = self.probes;
        Ok(self
            .process
            .wait_ready(PATIENCE, || http::is_ready(port))
            .await?)
    }

    /// What it exports for Prometheus; nothing if it does not answer.
    pub async fn metrics(&self) -> Option<String> {
        http::get(self.probes, "/metrics").await
    }
}

impl Stage {
    /// Brings up cluster and storage and installs the chart; runs no controller yet. `say` is told each step before it.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn start(
        programs: Programs,
        folder: &Path,
        values: &Value,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Self, Error> {
        let folder = std::path::absolute(folder).map_err(file_error("resolve", folder))?;
        say("Kubernetes: etcd and kube-apiserver, an API without nodes");
        let cluster = Cluster::start(&programs.control_plane, &folder.join("cluster")).await?;
        say("Azure Storage: Azurite, Microsoft's own emulator");
        let azurite = folder.join("azurite");
        let azurite = Azurite::start(&programs.azurite, &azurite, Options::default()).await?;
        say("Helm: installing charts/site-recovery, with its CustomResourceDefinitions");
        let release = Installed::install(&cluster, RELEASE_NAMESPACE, RELEASE, values).await?;
        let client = cluster.client().await?;
        let validity = Validity::around(Timestamp::now(), Duration::from_secs(3600), VALID);
        let authority = Authority::new("lab", validity)?;
        let stage = Stage {
            cluster,
            azurite,
            release,
            folder,
            programs,
            authority,
            gateway: Service::listen(port::free()?)
                .await
                .map_err(|source| Error::Service { source })?,
            client,
        };
        stage.certify_gateway(validity).await?;
        Ok(stage)
    }

    /// Loses the cluster with everything that it knew, and sets up a new one with the chart: nothing but storage and
    /// hosts is left of before. Controllers that run go on talking to nobody.
    ///
    /// # Errors
    /// If the new cluster does not start, or does not take the chart.
    pub async fn rebuild_cluster(&mut self, values: &Value) -> Result<(), Error> {
        self.cluster.kill_api_server();
        self.cluster.kill_etcd();
        let objects = self.cluster.folder().join("etcd");
        std::fs::remove_dir_all(&objects).map_err(file_error("remove", &objects))?;
        self.cluster.restart().await?;
        self.client = self.cluster.client().await?;
        self.release =
            Installed::install(&self.cluster, RELEASE_NAMESPACE, RELEASE, values).await?;
        let validity = Validity::around(Timestamp::now(), Duration::from_secs(3600), VALID);
        self.certify_gateway(validity).await
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Starts a replica of the controller as the release says. `replica` is the pod's name.
    ///
    /// # Errors
    /// If the release asks for what a lab cannot do, or the process does not start.
    pub async fn controller(&self, replica: &str) -> Result<Replica, Error> {
        let ports = Ports {
            gateway: port::free()?,
            probes: port::free()?,
        };
        let binary = &self.programs.site_recovery;
        let process = self
            .release
            .start_controller(&self.cluster, binary, replica, ports)
            .await?;
        self.gateway.add(ports.gateway);
        Ok(Replica {
            process,
            probes: ports.probes,
        })
    }

    /// Starts a worker of the data path as the release says. `replica` is the pod's name.
    ///
    /// # Errors
    /// If the release has no workers or asks for what a lab cannot do, or the process does not start.
    pub async fn worker(&self, replica: &str) -> Result<Replica, Error> {
        let probes = port::free()?;
        let binary = &self.programs.site_recovery;
        let process = self
            .release
            .start_worker(&self.cluster, binary, replica, probes)
            .await?;
        Ok(Replica { process, probes })
    }

    /// Lets agents come to a gateway that runs elsewhere, on `port` of this machine, with the certificates of this folder,
    /// as they come to those of the controllers.
    pub fn admit(&self, port: u16) -> PathBuf {
        self.gateway.add(port);
        self.gateway_certificates()
    }

    fn gateway_certificates(&self) -> PathBuf {
        self.folder.join("gateway")
    }

    /// Starts a host of the site: its hypervisor; its agent is started by [`Host::start_agent`].
    ///
    /// # Errors
    /// If a certificate cannot be issued, or the hypervisor does not start.
    pub async fn host(&self, site: &ObjectName, name: &HostName) -> Result<Host, Error> {
        let place = host::Place {
            folder: self.folder.join("hosts").join(name.to_string()),
            name: name.clone(),
            certificates: self.agent_certificates(site, name)?,
            gateway: self.gateway.port(),
            binary: self.programs.site_recovery.clone(),
        };
        Host::start(place).await
    }

    /// Certificates for an agent of the site, in a folder of the host.
    ///
    /// # Errors
    /// If they cannot be issued or written.
    pub fn agent_certificates(&self, site: &ObjectName, name: &HostName) -> Result<PathBuf, Error> {
        let identity = PeerIdentity {
            site: site.clone(),
            host: name.clone(),
        };
        let validity = Validity::around(Timestamp::now(), Duration::from_secs(3600), VALID);
        let hosts = self.folder.join("hosts");
        let certificates = hosts.join(name.to_string()).join("certificates");
        self.authority
            .agent(&identity, validity)?
            .write(&certificates)?;
        Ok(certificates)
    }

    /// The port of this machine that agents connect to.
    pub fn gateway_port(&self) -> u16 {
        self.gateway.port()
    }

    /// The manifests of `examples/`, with this stage's storage account.
    pub fn examples(&self) -> Vec<Value> {
        let account = self.azurite.account();
        examples::manifests(examples::Storage {
            account: &account.name,
            key: &account.key,
            endpoint: &self.azurite.endpoint(),
        })
    }

    /// Runs kubectl as the administrator, with `input`, and returns what it printed.
    ///
    /// # Errors
    /// If it cannot be started, or fails: with what it said.
    pub async fn kubectl(&self, arguments: &[&str], input: &[u8]) -> Result<String, Error> {
        let failed = |said: String| Error::Kubectl {
            arguments: arguments.join(" "),
            said,
        };
        let mut command = tokio::process::Command::from(self.cluster.kubectl());
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        // One that ends before it has read everything says why itself.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = child.wait_with_output().await;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` of objects into `namespace`.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub async fn apply(&self, namespace: &str, objects: &[Value]) -> Result<String, Error> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let arguments = ["apply", "--namespace", namespace, "--filename", "-"];
        self.kubectl(&arguments, list.to_string().as_bytes()).await
    }

    /// The Secret that the chart mounts: in a cluster cert-manager would make it, or an administrator.
    async fn certify_gateway(&self, validity: Validity) -> Result<(), Error> {
        let issued = self
            .authority
            .gateway(&["127.0.0.1", "localhost"], validity)?;
        let folder = self.gateway_certificates();
        issued.write(&folder)?;
        let mut data = std::collections::BTreeMap::new();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let path = folder.join(file);
            let content = std::fs::read(&path).map_err(file_error("read", &path))?;
            data.insert(file.to_owned(), ByteString(content));
        }
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": CERTIFICATES },
            "type": "kubernetes.io/tls",
        }))
        .expect("this is a Secret");
        secret.data = Some(data);
        let api: Api<Secret> = Api::namespaced(self.client(), RELEASE_NAMESPACE);
        api.create(&PostParams::default(), &secret)
            .await
            .map_err(ask_error(
                "create",
                "the Secret of the gateway's certificates",
            ))?;
        Ok(())
    }
}
