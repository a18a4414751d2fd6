//! Virtual environments with Azure's own clients for Python: judges that are not ours, of page blobs and of what stands
//! for Azure Resource Manager.

use std::path::PathBuf;
use std::process::Command;

use crate::lab::tools::cache::{Cache, Item};
use crate::lab::tools::debian;
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::{Installation, Prerequisite};

/// An environment: every package that goes in, with its sums, and what says its version.
pub(super) struct Environment {
    name: &'static str,
    requirements: &'static str,
    version: &'static str,
    module: &'static str,
    work: &'static str,
}

/// `azure-storage-blob`.
pub(super) const STORAGE: Environment = Environment {
    name: "python",
    requirements: include_str!("python/requirements.txt"),
    version: "12.31.1",
    module: "azure.storage.blob",
    work: "installing azure-storage-blob from PyPI",
};
/// `azure-mgmt-compute`, `-network` and `-resource`, and `jsonschema`.
pub(super) const MANAGEMENT: Environment = Environment {
    name: "python-management",
    requirements: include_str!("python/management.txt"),
    version: "39.0.0",
    module: "azure.mgmt.compute",
    work: "installing azure-mgmt-compute, -network, -resource and jsonschema from PyPI",
};
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
pub(super) fn environment(cache: &Cache, wanted: &Environment) -> Result<PathBuf, Error> {
    let item = Item {
        name: wanted.name,
        version: wanted.version,
        inputs: &[wanted.requirements],
        // The interpreter is a link to the machine's: it is missing when that one is gone.
        expected: &[INTERPRETER, "pyvenv.cfg"],
        work: wanted.work,
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
        installation.write("requirements.txt", wanted.requirements)?;
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
        let module = wanted.module;
        let version = format!("import {module} as client; print(client.__version__)");
        installation.check_version(
            Command::new(folder.join(INTERPRETER)).args(["-c", &version]),
            wanted.version,
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
