//! `site-recovery controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::blob::http::Http;
use crate::cli;
use crate::controller::{self, Config};
use crate::datapath::runner;
use crate::report;
use crate::shutdown;
use crate::tls::ServerTls;
use crate::units::SystemClock;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where agents connect to
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8443",
        env = "SITE_RECOVERY_GATEWAY"
    )]
    gateway: SocketAddr,
    /// The folder with tls.crt, tls.key and ca.crt of the gateway; read again when they change
    #[arg(long, value_name = "FOLDER", env = "SITE_RECOVERY_CERTIFICATES")]
    certificates: PathBuf,
    /// Where /healthz, /readyz and /metrics are
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080",
        env = "SITE_RECOVERY_PROBES"
    )]
    probes: SocketAddr,
    /// Watch only this namespace (repeat for more); none: all
    #[arg(
        long = "namespace",
        value_name = "NAMESPACE",
        env = "SITE_RECOVERY_NAMESPACES",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// A namespace whose sites may use the controller's own Azure identity (repeat for more)
    #[arg(
        long = "ambient-identity-namespace",
        value_name = "NAMESPACE",
        env = "SITE_RECOVERY_AMBIENT_IDENTITY_NAMESPACES",
        value_delimiter = ','
    )]
    ambient_namespaces: Vec<String>,
    /// The namespace of the Lease that elects the leader
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "default",
        env = "POD_NAMESPACE"
    )]
    lease_namespace: String,
    /// The name of the Lease
    #[arg(
        long,
        value_name = "NAME",
        default_value = "site-recovery",
        env = "SITE_RECOVERY_LEASE"
    )]
    lease_name: String,
    /// This replica's name, unique among all; absent: drawn
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// Objects of a kind that are looked at at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    concurrency: u16,
    /// Replicas that logs are applied to at the same time; each takes up to 64 MiB
    #[arg(long, value_name = "NUMBER", default_value_t = runner::CONCURRENCY)]
    data_path_concurrency: usize,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    cli::runtime()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let config = configured(args).await?;
        controller::run(config, shutdown)
            .await
            .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn configured(args: Args) -> anyhow::Result<Config> {
    let client = kube::Client::try_default().await;
    // Its errors say their causes themselves, and have them as causes, too.
    let client = client.map_err(|error| {
        anyhow::anyhow!("cannot find the API server: {}", report::chain(&error))
    })?;
    let tls = ServerTls::new(args.certificates);
    tls.check()?;
    let listen = async |what: &str, address: SocketAddr| {
        TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for {what}"))
    };
    let drawn = || {
        format!(
            "site-recovery-{}",
            crate::ids::OperationId::from_random(crate::ids::random())
        )
    };
    Ok(Config {
        client,
        namespaces: args.namespaces,
        ambient_namespaces: args.ambient_namespaces,
        gateway: listen("agents", args.gateway).await?,
        probes: listen("probes", args.probes).await?,
        tls,
        http: Http::new(&[])?,
        lease_namespace: args.lease_namespace,
        lease_name: args.lease_name,
        identity: args.identity.unwrap_or_else(drawn),
        concurrency: args.concurrency.max(1),
        datapath_concurrency: args.data_path_concurrency.max(1),
        clock: Arc::new(SystemClock),
    })
}
