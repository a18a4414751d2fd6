//! `site-recovery agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
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

impl HypervisorArg {
    /// One that does not answer yet is waited for; one that can never be there is an error of whoever typed it.
    fn hypervisor(self) -> anyhow::Result<Arc<dyn Hypervisor>> {
        match self {
            HypervisorArg::Lab(socket) => {
                let folder = socket
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                    bail!(
                        "--hypervisor: there is no folder {} for a socket",
                        folder.display()
                    );
                }
                Ok(Arc::new(LabHypervisor::new(socket)))
            }
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
    let hypervisor = args.hypervisor.hypervisor()?;
    let tls = ClientTls::new(args.certificates);
    tls.check()
        .context("no connection can be made without the certificates in --certificates")?;
    let clock = Arc::new(SystemClock);
    let connection = connection::Config {
        gateway: args.gateway,
        server_name,
        proxy: Proxy::parse(&Secret::new(args.proxy))?,
        tls,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn refused(certificates: &str, hypervisor: &str) -> String {
        let line = [
            "agent",
            "--host=hv1",
            "--gateway=gateway.example.com:8443",
            "--state=state",
            &format!("--certificates={certificates}"),
            &format!("--hypervisor={hypervisor}"),
        ];
        let args = Line::try_parse_from(line).unwrap().args;
        let error = configured(args).map(drop).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn what_cannot_be_there_by_itself_is_said_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let said = refused(folder, &format!("lab:{folder}/hypervisor.sock"));
        assert!(said.contains("tls.crt"), "{said}");
        let said = refused(folder, &format!("lab:{folder}/nowhere/hypervisor.sock"));
        assert!(said.contains("nowhere"), "{said}");
    }
}
