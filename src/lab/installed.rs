//! The chart in a cluster of the lab, with Helm, and our binary run exactly as the installed Deployment says.
//!
//! ```text
//! Helm ─► API server ─► Deployment ─► pod (pure: arguments, variables, volumes) ─► a process of this machine
//!                       Secrets ──────────────────────────► files                        │
//!                       ServiceAccount ───────────────────► its token alone ◄────────────┘
//! ```
//! A lab has no kubelet; what one does for the controller's pod is done here, and what it would do and is not done here
//! is refused, not left out. So whoever runs a controller by this module has tried the chart: its arguments, its
//! variables and above all its rights, since the process has no other access to the cluster and no variable of ours.
//! What is not tried: the image, the security context and the Services.
//!
//! ```text
//! <cluster>/releases/<namespace>.<name>/chart/       the chart
//!                                       values.yaml  what was last chosen
//!                                       <replica>/   what is mounted into a replica, and its log
//! ```

pub mod chart;
mod error;
pub mod http;
mod pod;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;

use crate::durable;
use crate::lab::cluster::Cluster;
use crate::lab::file::file_error;
pub use crate::lab::installed::error::Error;
use crate::lab::installed::error::of_durable;
use crate::lab::installed::pod::{Mount, Pod};
use crate::lab::process::Process;

/// The label of the controller's Deployment, and that of the workers'.
const CONTROLLER: &str = "!app.kubernetes.io/component";
const WORKERS: &str = "app.kubernetes.io/component=data-path";

/// A release of the chart.
#[derive(Clone, Debug)]
pub struct Installed {
    namespace: String,
    name: String,
    folder: PathBuf,
    chart: PathBuf,
}

/// Loopback ports in place of those that a pod would have to itself.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub gateway: u16,
    pub probes: u16,
}

impl Installed {
    /// Installs the chart as the release `name` in `namespace`, which is created if it is not there.
    ///
    /// # Errors
    /// If Helm, the chart's schema or the API server refuses it.
    pub async fn install(
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        values: &Value,
    ) -> Result<Self, Error> {
        let folder = cluster
            .folder()
            .join("releases")
            .join(format!("{namespace}.{name}"));
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        let release = Installed {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            chart: chart::write(&folder.join("chart"))?,
            folder,
        };
        let mut helm = cluster.helm();
        helm.args(["install", name]).arg(&release.chart);
        helm.arg("--create-namespace");
        release.with_values(&mut helm, values)?;
        release.run(helm, "install").await?;
        Ok(release)
    }

    /// Upgrades the release to `values` and the defaults of everything else.
    ///
    /// # Errors
    /// If Helm, the chart's schema or the API server refuses it.
    pub async fn upgrade(&self, cluster: &Cluster, values: &Value) -> Result<(), Error> {
        let mut helm = cluster.helm();
        helm.args(["upgrade", &self.name]).arg(&self.chart);
        helm.arg("--reset-values");
        self.with_values(&mut helm, values)?;
        self.run(helm, "upgrade").await
    }

    /// Goes back to what the release was at `revision`, which counts installation and upgrades from 1.
    ///
    /// # Errors
    /// If Helm knows no such revision, or the API server refuses it.
    pub async fn rollback(&self, cluster: &Cluster, revision: u32) -> Result<(), Error> {
        let mut helm = cluster.helm();
        helm.args(["rollback", &self.name, &revision.to_string()]);
        self.run(helm, "roll back").await
    }

    /// Uninstalls the release. Controllers that were started go on until they are ended, without rights.
    ///
    /// # Errors
    /// If Helm or the API server refuses it.
    pub async fn uninstall(self, cluster: &Cluster) -> Result<(), Error> {
        let mut helm = cluster.helm();
        helm.args(["uninstall", &self.name]);
        self.run(helm, "uninstall").await
    }

    /// Starts `binary` as a replica of the installed Deployment. `replica` is the pod's name: two that run at the same
    /// time need two. It returns when the process runs; [`http::is_ready`] says when it is ready.
    ///
    /// # Errors
    /// If the Deployment, a Secret or the ServiceAccount is not there, or the Deployment asks for something that this
    /// module does not do; if a file cannot be written or the process not be started.
    pub async fn start_controller(
        &self,
        cluster: &Cluster,
        binary: &Path,
        replica: &str,
        ports: Ports,
    ) -> Result<Process, Error> {
        let listens = [("--gateway", ports.gateway), ("--probes", ports.probes)];
        self.start(cluster, binary, CONTROLLER, replica, &listens)
            .await
    }

    /// Starts a worker of the data path, as [`Installed::start_controller`] does a controller.
    ///
    /// # Errors
    /// As there.
    pub async fn start_worker(
        &self,
        cluster: &Cluster,
        binary: &Path,
        replica: &str,
        probes: u16,
    ) -> Result<Process, Error> {
        let listens = [("--probes", probes)];
        self.start(cluster, binary, WORKERS, replica, &listens)
            .await
    }

    async fn start(
        &self,
        cluster: &Cluster,
        binary: &Path,
        component: &'static str,
        replica: &str,
        listens: &[(&'static str, u16)],
    ) -> Result<Process, Error> {
        let client = cluster.client().await?;
        let deployment = self.deployment(&client, component).await?;
        let mut pod = Pod::of(&deployment, &self.namespace, replica)?;
        for (flag, port) in listens {
            pod.listen(flag, *port)?;
        }
        let folder = self.folder.join(replica);
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        for mount in std::mem::take(&mut pod.mounts) {
            let volume = folder.join(&mount.volume);
            self.fill(&client, &mount, &volume).await?;
            pod.mount(&mount, &volume)?;
        }
        let access = cluster
            .service_account(&self.namespace, &pod.service_account)
            .await?;
        let mut command = Command::new(binary);
        command
            .env_clear()
            .envs(pod.variables)
            .env("KUBECONFIG", access.kubeconfig())
            .args(&pod.arguments);
        let subcommand = pod.arguments.first().map_or("pod", String::as_str);
        let log = folder.join(format!("{subcommand}.log"));
        Ok(Process::start(replica, &mut command, &log)?)
    }

    async fn deployment(&self, client: &Client, component: &str) -> Result<Deployment, Error> {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &self.namespace);
        let ours = format!("app.kubernetes.io/instance={},{component}", self.name);
        let found = deployments
            .list(&ListParams::default().labels(&ours))
            .await
            .map_err(|source| self.ask_error("list", "Deployments", source))?;
        match <[Deployment; 1]>::try_from(found.items) {
            Ok([deployment]) => Ok(deployment),
            Err(others) => Err(Error::Deployments {
                release: self.to_string(),
                number: others.len(),
            }),
        }
    }

    /// Writes what the Secret of `mount` holds into `volume`, as a kubelet would.
    async fn fill(&self, client: &Client, mount: &Mount, volume: &Path) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let secret = secrets
            .get(&mount.secret)
            .await
            .map_err(|source| self.ask_error("read the Secret", &mount.secret, source))?;
        fs::create_dir_all(volume).map_err(file_error("create", volume))?;
        for (key, content) in secret.data.unwrap_or_default() {
            durable::write(&volume.join(key), &content.0).map_err(of_durable)?;
        }
        Ok(())
    }

    fn with_values(&self, helm: &mut Command, values: &Value) -> Result<(), Error> {
        let path = self.folder.join("values.yaml");
        // JSON is YAML.
        durable::write(&path, values.to_string().as_bytes()).map_err(of_durable)?;
        helm.arg("--values").arg(path);
        Ok(())
    }

    async fn run(&self, mut helm: Command, action: &'static str) -> Result<(), Error> {
        helm.args(["--namespace", &self.namespace]);
        let mut helm = tokio::process::Command::from(helm);
        let output = helm
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| Error::Start { action, source })?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Helm {
            action,
            release: self.to_string(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn ask_error(&self, action: &'static str, what: &str, source: kube::Error) -> Error {
        Error::Ask {
            action,
            what: what.to_owned(),
            release: self.to_string(),
            source: Box::new(source),
        }
    }
}

impl std::fmt::Display for Installed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
