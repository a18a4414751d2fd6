//! `site-recovery data-path`.

use std::process::ExitCode;
use std::sync::Arc;

use crate::blob::http::Http;
use crate::cli;
use crate::cli::in_cluster::InCluster;
use crate::controller::workers::{self, Config};
use crate::datapath::runner;
use crate::shutdown;
use crate::units::SystemClock;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    in_cluster: InCluster,
    /// The namespace of the workers' Leases
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "default",
        env = "POD_NAMESPACE"
    )]
    lease_namespace: String,
    /// Who shares the VMs: workers of the same group, which their Leases carry as a label
    #[arg(
        long,
        value_name = "NAME",
        default_value = "site-recovery",
        env = "SITE_RECOVERY_GROUP"
    )]
    group: String,
    /// This worker's name and that of its Lease, unique among all; absent: drawn
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// Replicas that logs are applied to at the same time; each takes up to 64 MiB
    #[arg(long, value_name = "NUMBER", default_value_t = runner::CONCURRENCY)]
    concurrency: u32,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    cli::runtime()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let config = Config {
            client: cli::cluster().await?,
            namespaces: args.in_cluster.namespaces,
            ambient_namespaces: args.in_cluster.ambient_namespaces,
            probes: cli::listen("probes", args.in_cluster.probes).await?,
            http: Http::new(&[])?,
            lease_namespace: args.lease_namespace,
            group: args.group,
            identity: args.identity.unwrap_or_else(cli::drawn_identity),
            concurrency: args.concurrency.max(1),
            clock: Arc::new(SystemClock),
        };
        workers::run(config, shutdown)
            .await
            .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        Ok(ExitCode::SUCCESS)
    })
}
