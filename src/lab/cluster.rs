//! A real Kubernetes API: etcd and kube-apiserver on loopback ports, with everything they keep in one folder.
//!
//! ```text
//! <folder>/cluster.json             ports and the administrator's token; written last, so it stands for all below
//!          pki/                     certificates and keys (`keys`)
//!          tokens.csv  audit-policy.yaml  admin.kubeconfig   derived from it at every start
//!          etcd/  etcd.log          the objects
//!          audit.log                every write that a client asked for (`audit`)
//!          api-server.log
//!          service-accounts/        kubeconfigs made on request
//!          home/                    what kubectl and helm cache
//! ```
//! Starting in a folder that has a cluster goes on with its objects, keys and, where they are still free, ports. Both
//! processes are ended with SIGKILL; etcd does not sync, so objects survive that but not a power cut.
//!
//! There is no kubelet and no controller-manager: no pod runs, nothing is garbage-collected, no namespace gets its
//! `default` ServiceAccount. RBAC, admission by CEL, server-side apply, watches, Leases and events are the real ones.

pub mod access;
pub mod audit;
mod error;
mod identity;
mod keys;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

use crate::durable;
use crate::lab::cluster::access::Access;
use crate::lab::cluster::audit::{Audit, Mark, Write};
pub use crate::lab::cluster::error::Error;
use crate::lab::cluster::error::of_durable;
use crate::lab::cluster::identity::Identity;
use crate::lab::cluster::keys::Keys;
use crate::lab::file::file_error;
use crate::lab::process::Process;
use crate::lab::tools::ControlPlane;

/// Ten times what a start takes on two idle cores: tests start several at once while others compile.
const PATIENCE: Duration = Duration::from_secs(60);
/// An API server makes it for itself, a moment after it is ready; clients expect it to be there.
const DEFAULT_NAMESPACE: &str = "default";

/// A running cluster. Dropping it ends both processes; the folder stays.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    tools: ControlPlane,
    identity: Identity,
    keys: Keys,
    audit: Audit,
    admin: Access,
    // Dropped in this order: an API server without etcd would only fill its log.
    api_server: Option<Process>,
    etcd: Option<Process>,
}

impl Cluster {
    /// Starts a cluster in `folder`, which is created, or goes on with the one that is there. Takes a few seconds.
    ///
    /// # Errors
    /// If a file cannot be written, no port is free, or a process ends or is not ready in time.
    pub async fn start(tools: &ControlPlane, folder: &Path) -> Result<Self, Error> {
        let folder = std::path::absolute(folder).map_err(file_error("resolve", folder))?;
        for part in ["home", "service-accounts"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        }
        let (identity, keys) = Identity::open(&folder)?;
        let admin = Access::write(
            &folder.join("admin.kubeconfig"),
            &keys,
            identity.api_port,
            DEFAULT_NAMESPACE,
            identity.admin_token.clone(),
        )?;
        let audit = Audit::new(&folder)?;
        let mut cluster = Cluster {
            tools: tools.clone(),
            identity,
            keys,
            audit,
            admin,
            api_server: None,
            etcd: None,
            folder,
        };
        cluster.start_etcd().await?;
        cluster.start_api_server().await?;
        Ok(cluster)
    }

    /// The folder that everything is kept in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The administrator's access: every right there is. Valid over restarts.
    pub const fn admin(&self) -> &Access {
        &self.admin
    }

    /// A client with the administrator's rights. Valid over restarts.
    ///
    /// # Errors
    /// If our own kubeconfig is refused.
    pub async fn client(&self) -> Result<Client, Error> {
        self.admin.client().await
    }

    /// kubectl as the administrator; arguments are the caller's.
    pub fn kubectl(&self) -> Command {
        self.command(&self.tools.kubectl, &self.admin)
    }

    /// kubectl with somebody else's rights.
    pub fn kubectl_as(&self, access: &Access) -> Command {
        self.command(&self.tools.kubectl, access)
    }

    /// Helm as the administrator; arguments are the caller's.
    pub fn helm(&self) -> Command {
        self.command(&self.tools.helm, &self.admin)
    }

    /// Asks for a token of an existing ServiceAccount and writes a kubeconfig with it: exactly that account's rights.
    ///
    /// # Errors
    /// If there is no such account, or the file cannot be written.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Access, Error> {
        let token = access::token(&self.client().await?, namespace, name).await?;
        let file = format!("{namespace}.{name}.kubeconfig");
        Access::write(
            &self.folder.join("service-accounts").join(file),
            &self.keys,
            self.identity.api_port,
            namespace,
            token,
        )
    }

    /// Ends the API server with SIGKILL. Its clients see connections break, then refused.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Ends etcd with SIGKILL. The API server goes on running and answers with errors.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// Starts what was killed, on the same ports and data, and waits until it serves.
    ///
    /// # Errors
    /// If a process ends or is not ready in time.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if self.etcd.is_none() {
            self.start_etcd().await?;
        }
        let client = self.client().await?;
        match &mut self.api_server {
            None => self.start_api_server().await,
            // It has lost its etcd and finds the new one by itself.
            Some(running) => wait_until_served(running, &client).await,
        }
    }

    /// The present end of the audit log.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn mark(&self) -> Result<Mark, Error> {
        self.audit.mark()
    }

    /// Every write that a client asked for since `mark`, with its outcome.
    ///
    /// # Errors
    /// If the log cannot be read or understood.
    pub async fn writes_since(&self, mark: Mark) -> Result<Vec<Write>, Error> {
        let running = self.api_server.is_some();
        self.audit.writes_since(mark, running).await
    }

    async fn start_etcd(&mut self) -> Result<(), Error> {
        let mut command = Command::new(&self.tools.etcd);
        let port = self.identity.etcd_port;
        let url = format!("http://127.0.0.1:{port}");
        command
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            // There are no peers.
            .args(["--listen-peer-urls", "http://127.0.0.1:0"])
            .args(["--unsafe-no-fsync", "--log-level", "error"]);
        let mut etcd = Process::start("etcd", &mut command, &self.folder.join("etcd.log"))?;
        etcd.wait_ready(PATIENCE, || is_open(port)).await?;
        self.etcd = Some(etcd);
        Ok(())
    }

    async fn start_api_server(&mut self) -> Result<(), Error> {
        self.audit.begin_run()?;
        let mut command = self.api_server_command()?;
        let log = self.folder.join("api-server.log");
        let client = self.client().await?;
        let mut api_server = Process::start("kube-apiserver", &mut command, &log)?;
        wait_until_served(&mut api_server, &client).await?;
        self.api_server = Some(api_server);
        Ok(())
    }

    fn api_server_command(&self) -> Result<Command, Error> {
        let path = |name: &str| self.folder.join(name);
        let tokens = path("tokens.csv");
        let admin = format!(
            "{},admin,admin,system:masters\n",
            self.identity.admin_token.expose()
        );
        durable::write(&tokens, admin.as_bytes()).map_err(of_durable)?;
        let policy = path("audit-policy.yaml");
        durable::write(&policy, audit::POLICY.as_bytes()).map_err(of_durable)?;
        let mut command = Command::new(&self.tools.api_server);
        command
            .args(["--bind-address", "127.0.0.1"])
            .args(["--secure-port", &self.identity.api_port.to_string()])
            // Without these two it looks for an outside address and refuses a machine that has none.
            .args(["--advertise-address", "127.0.0.1"])
            .args(["--endpoint-reconciler-type", "none"])
            .args(["--service-cluster-ip-range", "10.0.0.0/24"])
            .arg("--etcd-servers")
            .arg(format!("http://127.0.0.1:{}", self.identity.etcd_port))
            .arg("--tls-cert-file")
            .arg(self.keys.certificate())
            .arg("--tls-private-key-file")
            .arg(self.keys.certificate_key())
            .arg("--service-account-key-file")
            .arg(self.keys.service_account_public())
            .arg("--service-account-signing-key-file")
            .arg(self.keys.service_account())
            .args([
                "--service-account-issuer",
                "https://kubernetes.default.svc",
                "--authorization-mode",
                "RBAC",
                // It would refuse pods while nobody makes `default` ServiceAccounts.
                "--disable-admission-plugins",
                "ServiceAccount",
            ])
            .arg("--token-auth-file")
            .arg(tokens)
            .arg("--audit-policy-file")
            .arg(policy)
            .arg("--audit-log-path")
            .arg(self.audit.path())
            .args(audit::FLAGS);
        Ok(command)
    }

    /// A program that sees this cluster and nothing of the user's own settings and caches.
    fn command(&self, program: &Path, access: &Access) -> Command {
        let home = self.folder.join("home");
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", access.kubeconfig())
            .env("KUBECACHEDIR", home.join("kubectl"))
            .env("KUBERC", "off")
            .env("HELM_CACHE_HOME", home.join("helm-cache"))
            .env("HELM_CONFIG_HOME", home.join("helm-config"))
            .env("HELM_DATA_HOME", home.join("helm-data"));
        for variable in [
            "HELM_KUBEAPISERVER",
            "HELM_KUBECONTEXT",
            "HELM_KUBETOKEN",
            "HELM_NAMESPACE",
        ] {
            command.env_remove(variable);
        }
        command
    }
}

async fn is_open(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .is_ok()
}

/// Waits for `/readyz` and for the namespaces, which come a moment later.
async fn wait_until_served(api_server: &mut Process, client: &Client) -> Result<(), Error> {
    let probe = || {
        let client = client.clone();
        async move { is_served(&client).await }
    };
    Ok(api_server.wait_ready(PATIENCE, probe).await?)
}

async fn is_served(client: &Client) -> bool {
    let ready = http::Request::get("/readyz")
        .body(Vec::new())
        .expect("a path without a host is a valid request");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    client.request_text(ready).await.is_ok() && namespaces.get(DEFAULT_NAMESPACE).await.is_ok()
}
