//! `site-recovery lab hypervisor`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli;
use crate::lab::hypervisor;
use crate::shutdown;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where the machines are kept; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// The Unix socket for agents and consoles
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// The loopback address where guests reach their disks over NBD; port 0: any that is free
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The Unix socket where guests reach their disks over NBD
    #[arg(long, value_name = "SOCKET")]
    nbd_socket: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = hypervisor::Options {
        folder: args.folder,
        socket: args.socket,
        listen: args.listen,
        nbd_socket: args.nbd_socket,
    };
    cli::runtime()?.block_on(async {
        hypervisor::run(options, shutdown::on_signal()?).await?;
        Ok(ExitCode::SUCCESS)
    })
}
