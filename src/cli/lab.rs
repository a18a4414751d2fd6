//! `site-recovery lab`.

mod hypervisor;
mod tools;
mod up;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bring up a whole site and protect its virtual machines while their guests write
    Up(up::Args),
    /// Run a hypervisor that keeps machines in a folder; their guests use their disks over NBD
    Hypervisor(hypervisor::Args),
    /// Obtain what the lab runs (kube-apiserver, etcd, kubectl, Helm, Azurite, …) and say where it is
    Tools(tools::Args),
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Hypervisor(args) => hypervisor::run(args),
        Command::Tools(args) => tools::run(&args),
    }
}
