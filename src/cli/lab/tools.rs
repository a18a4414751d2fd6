//! `site-recovery lab tools`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::output;
use crate::lab::tools::{AzuriteVersion, Tools};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Where the programs are.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Programs {
    kube_apiserver: PathBuf,
    etcd: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    node: PathBuf,
    azurite: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tools = Tools::locate()?;
    let control_plane = tools.control_plane()?;
    let azurite = tools.azurite(AzuriteVersion::Conformance)?;
    let programs = Programs {
        kube_apiserver: control_plane.api_server,
        etcd: control_plane.etcd,
        kubectl: control_plane.kubectl,
        helm: control_plane.helm,
        node: azurite.node,
        azurite: azurite.script,
    };
    if args.json {
        output::json(&programs)?;
    } else {
        let lines = [
            ("kube-apiserver", &programs.kube_apiserver),
            ("etcd", &programs.etcd),
            ("kubectl", &programs.kubectl),
            ("helm", &programs.helm),
            ("node", &programs.node),
            ("azurite", &programs.azurite),
        ];
        for (name, path) in lines {
            output::line(&format!("{name:<15} {}", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
