//! A virtual environment with Azure's own storage client for Python: a judge of page blobs that is not ours.

use std::path::PathBuf;
use std::process::Command;

use crate::lab::tools::cache::{Cache, Item};
use crate::lab::tools::debian;
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::{Installation, Prerequisite};

/// Every package that goes in, with its sums.
const REQUIREMENTS: &str = include_str!("python/requirements.txt");
const CLIENT_VERSION: &str = "12.31.1";
const INTERPRETER: &str = "bin/python";

const PYTHON: Prerequisite = Prerequisite {
    command: "python3",
    remedy: "install Python 3.10 or later with venv (Debian: apt-get install python3-venv)",
};
/// Fails, saying the version, where the interpreter is too old or cannot make an environment with pip.
const CHECK: &str =
    "import sys; print(sys.version); assert sys.version_info >= (3, 10); import ensurepip, venv";

/// The interpreter of the environment.
///
/// # Errors
/// If Python is missing, too old or without `venv`, or the installation fails.
pub(super) fn environment(cache: &Cache) -> Result<PathBuf, Error> {
    let item = Item {
        name: "python",
        version: CLIENT_VERSION,
        inputs: &[REQUIREMENTS],
        // The interpreter is a link to the machine's: it is missing when that one is gone.
        expected: &[INTERPRETER, "pyvenv.cfg"],
        work: "installing azure-storage-blob from PyPI",
        takes: "seconds",
    };
    let folder = cache.obtain(&item, |installation| {
        make_usable(cache, installation)?;
        let folder = installation.folder().to_owned();
        let requirements = folder.join("requirements.txt");
        installation.run(
            Command::new(PYTHON.command)
                .args(["-m", "venv"])
                .arg(&folder),
        )?;
        installation.write("requirements.txt", REQUIREMENTS)?;
        // Called as a module: the scripts in `bin` remember this folder, which is about to be renamed.
        installation.run(
            Command::new(folder.join(INTERPRETER))
                .args(["-m", "pip", "install", "--no-input", "--no-deps"])
                .args([
                    "--require-hashes",
                    "--only-binary",
                    ":all:",
                    "--requirement",
                ])
                .arg(&requirements),
        )?;
        let version = "import azure.storage.blob as client; print(client.__version__)";
        installation.check_version(
            Command::new(folder.join(INTERPRETER)).args(["-c", version]),
            CLIENT_VERSION,
        )
    })?;
    Ok(folder.join(INTERPRETER))
}

/// Debian's own Python comes without `venv`; its package is small, so we try to add it before we give up.
fn make_usable(cache: &Cache, installation: &mut Installation) -> Result<(), Error> {
    let folder = installation.folder().to_owned();
    match installation.require(PYTHON, &["-c", CHECK], &folder) {
        Err(unusable @ Error::TooOld { .. }) => {
            let debians_own = debian::find(PYTHON.command)
                .is_some_and(|path| path.to_str() == Some(debian::PYTHON));
            if !debians_own || debian::ensure(cache, &[debian::PYTHON_VENV]).is_err() {
                return Err(unusable);
            }
            installation.require(PYTHON, &["-c", CHECK], &folder)
        }
        other => other,
    }
}
