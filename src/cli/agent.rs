//! `site-recovery agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::agent::connection::address::{self, Address, Proxy};
use crate::agent::connection::{self, Limits};
use crate::agent::{self, Config};
use crate::cli;
use crate::host::Hypervisor;
use crate::host::lab::LabHypervisor;
use crate::ids::HostName;
use crate::secret::Secret;
use crate::shutdown;
use crate::tls::ClientTls;
use crate::transport::http::Http;
use crate::units::SystemClock;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The host's name, as its site and its certificate have it
    #[arg(long, value_name = "NAME", env = "SITE_RECOVERY_HOST")]
    host: HostName,
    /// The controller's gateway, such as gateway.example.com:8443
    #[arg(long, value_name = "HOST:PORT", env = "SITE_RECOVERY_GATEWAY")]
    gateway: Address,
    /// The name that the gateway's certificate has, where it is not the one that it is reached by
    #[arg(long, value_name = "NAME", env = "SITE_RECOVERY_GATEWAY_NAME")]
    gateway_name: Option<String>,
    /// The folder with tls.crt, tls.key and ca.crt of this agent; read again when they change
    #[arg(long, value_name = "FOLDER", env = "SITE_RECOVERY_CERTIFICATES")]
    certificates: PathBuf,
    /// Where the agent keeps what survives a restart
    #[arg(long, value_name = "FOLDER", env = "SITE_RECOVERY_STATE")]
    state: PathBuf,
    /// The hypervisor: lab:SOCKET
    #[arg(long, value_name = "HYPERVISOR", env = "SITE_RECOVERY_HYPERVISOR")]
    hypervisor: HypervisorArg,
    /// The HTTP proxy to the gateway: none, system, or http://[user:password@]host:port
    #[arg(
        long,
        value_name = "PROXY",
        default_value = "system",
        env = "SITE_RECOVERY_PROXY",
        hide_env_values = true
    )]
    proxy: String,
}

/// Which hypervisor the host has.
#[derive(Clone, Debug)]
enum HypervisorArg {
    /// A lab hypervisor, by its socket.
    Lab(PathBuf),
}

impl FromStr for HypervisorArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("lab", socket)) if !socket.is_empty() => {
                Ok(HypervisorArg::Lab(PathBuf::from(socket)))
            }
            _ => Err("this build knows lab:SOCKET"),
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    cli::runtime()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let config = configured(args)?;
        agent::run(config, shutdown)
            .await
            .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn configured(args: Args) -> anyhow::Result<Config> {
    let server_name = match &args.gateway_name {
        Some(name) => address::server_name(name)?,
        None => args.gateway.server_name()?,
    };
    let hypervisor: Arc<dyn Hypervisor> = match args.hypervisor {
        HypervisorArg::Lab(socket) => Arc::new(LabHypervisor::new(socket)),
    };
    let clock = Arc::new(SystemClock);
    let connection = connection::Config {
        gateway: args.gateway,
        server_name,
        proxy: Proxy::parse(&Secret::new(args.proxy))?,
        tls: ClientTls::new(args.certificates),
        limits: Limits::default(),
        clock: clock.clone(),
    };
    Ok(Config {
        host: args.host,
        state: args.state,
        hypervisor,
        http: Http::new(&[])?,
        clock,
        connection,
        connection_state: watch::channel(connection::State::default()).0,
    })
}
