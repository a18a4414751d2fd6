//! `site-recovery crds`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::api::crd;
use crate::cli::output;
use crate::durable;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write one file per kind into this folder, instead of printing
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for definition in crd::all()? {
        let yaml = crd::to_yaml(&definition)?;
        match &args.output {
            None => output::line(&format!("---\n{}", yaml.trim_end()))?,
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot create {}", folder.display()))?;
                durable::write(&folder.join(crd::file_name(&definition)), yaml.as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
