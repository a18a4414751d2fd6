//! `site-recovery controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::blob::http::Http;
use crate::cli;
use crate::cli::in_cluster::InCluster;
use crate::controller::{self, Config};
use crate::datapath::runner::{self, Role};
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
    #[command(flatten)]
    in_cluster: InCluster,
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
    data_path_concurrency: u32,
    /// Who applies logs: this process, or `site-recovery data-path` workers
    #[arg(long, value_enum, default_value_t)]
    data_path: DataPath,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum DataPath {
    #[default]
    Inside,
    Workers,
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
    let client = cli::cluster().await?;
    let tls = ServerTls::new(args.certificates);
    tls.check()?;
    Ok(Config {
        client,
        namespaces: args.in_cluster.namespaces,
        ambient_namespaces: args.in_cluster.ambient_namespaces,
        gateway: cli::listen("agents", args.gateway).await?,
        probes: cli::listen("probes", args.in_cluster.probes).await?,
        tls,
        http: Http::new(&[])?,
        lease_namespace: args.lease_namespace,
        lease_name: args.lease_name,
        identity: args.identity.unwrap_or_else(cli::drawn_identity),
        concurrency: args.concurrency.max(1),
        datapath: match args.data_path {
            DataPath::Inside => Role::Inside,
            DataPath::Workers => Role::Follower,
        },
        datapath_concurrency: args.data_path_concurrency.max(1),
        clock: Arc::new(SystemClock),
    })
}
