//! Obtains the real programs that the lab and the tests run on: a Kubernetes control plane, Helm, Azurite, and judges.
//!
//! A machine with Go, Node.js and Python is enough. What comes from a package registry is pinned by the sums in this
//! folder's `go.sum`, `package-lock.json` and `requirements.txt`, is built or installed once into a cache outside the
//! work tree, and is asked for its version before it is used. A second call finds it there in milliseconds.
//!
//! All calls block, the first ones for minutes: call them from `spawn_blocking` where a runtime is near. They tell on
//! standard error what takes so long.
//!
//! Never changes the machine outside the cache, except in [`Tools::ensure_packages`], which says so.

mod cache;
pub mod debian;
mod error;
mod go;
mod installation;
mod npm;
mod progress;
mod python;

use std::path::{Path, PathBuf};

use crate::lab::tools::cache::Cache;
use crate::lab::tools::debian::Package;
pub use crate::lab::tools::error::Error;

/// The folder of the cache.
const CACHE_VARIABLE: &str = "SITE_RECOVERY_CACHE";
/// A folder with kube-apiserver, etcd and kubectl: the ecosystem's variable for "they are already there".
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Our folder within the user's caches.
const CACHE_NAME: &str = "site-recovery";

/// Where the programs are, or will be.
#[derive(Clone, Debug)]
pub struct Tools {
    cache: Cache,
    assets: Option<PathBuf>,
}

/// The programs of a control plane and those that talk to one.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    pub api_server: PathBuf,
    pub etcd: PathBuf,
    pub kubectl: PathBuf,
    pub helm: PathBuf,
}

/// Which Azurite: none does everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzuriteVersion {
    /// 3.37: checks CRC64 for real, in JavaScript, which holds it at about 60 MiB/s.
    Conformance,
    /// 3.36 with `--loose`: several times as fast, but takes a wrong CRC64 for a right one.
    Throughput,
}

/// How to run an Azurite.
#[derive(Clone, Debug)]
pub struct AzuriteCommand {
    pub version: AzuriteVersion,
    /// The Node.js that runs it.
    pub node: PathBuf,
    /// The blob service's main script.
    pub script: PathBuf,
}

impl Tools {
    /// The cache that the environment names: `SITE_RECOVERY_CACHE`, else `site-recovery` in `XDG_CACHE_HOME` or
    /// `~/.cache`; and, where `KUBEBUILDER_ASSETS` is set, the control plane that is there.
    ///
    /// # Errors
    /// If none of the variables, nor `HOME`, is set.
    pub fn locate() -> Result<Self, Error> {
        let folder = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let root = folder(CACHE_VARIABLE)
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join(CACHE_NAME)))
            .or_else(|| Some(folder("HOME")?.join(".cache").join(CACHE_NAME)))
            .ok_or(Error::NoCache)?;
        Ok(Tools {
            cache: Cache::new(root),
            assets: folder(ASSETS_VARIABLE),
        })
    }

    /// A cache in `folder`, whatever the environment says.
    pub fn within(folder: &Path) -> Self {
        Tools {
            cache: Cache::new(folder.to_owned()),
            assets: None,
        }
    }

    /// kube-apiserver, etcd, kubectl and Helm; built from the Go module proxy when first asked for (about 5 minutes).
    ///
    /// # Errors
    /// If Go is missing or too old, a build fails, or `KUBEBUILDER_ASSETS` names a folder that lacks one of them.
    pub fn control_plane(&self) -> Result<ControlPlane, Error> {
        let folder = match &self.assets {
            Some(assets) => complete(assets)?,
            None => go::kubernetes(&self.cache)?,
        };
        Ok(ControlPlane {
            api_server: folder.join(go::API_SERVER),
            etcd: folder.join(go::ETCD),
            kubectl: folder.join(go::KUBECTL),
            helm: self.helm()?,
        })
    }

    /// Helm; from `KUBEBUILDER_ASSETS` if it is there, else built from the Go module proxy.
    ///
    /// # Errors
    /// If Go is missing or too old, or the build fails.
    pub fn helm(&self) -> Result<PathBuf, Error> {
        let given = self.assets.as_ref().map(|assets| assets.join(go::HELM));
        match given.filter(|helm| helm.exists()) {
            Some(helm) => Ok(helm),
            None => go::helm(&self.cache),
        }
    }

    /// Azure's own storage emulator, from npm, with a Node.js of its own.
    ///
    /// # Errors
    /// If npm is missing or too old, or an installation fails.
    pub fn azurite(&self, version: AzuriteVersion) -> Result<AzuriteCommand, Error> {
        Ok(AzuriteCommand {
            version,
            node: npm::node(&self.cache)?,
            script: npm::azurite(&self.cache, version)?,
        })
    }

    /// Azure's own copy tool, from npm. It needs the library of [`debian::LIBSECRET`].
    ///
    /// # Errors
    /// If npm is missing or too old, the library is missing and cannot be installed, or the installation fails.
    pub fn azcopy(&self) -> Result<PathBuf, Error> {
        self.ensure_packages(&[debian::LIBSECRET])?;
        npm::azcopy(&self.cache)
    }

    /// A Python that has `azure-storage-blob`, Azure's own client, in a virtual environment.
    ///
    /// # Errors
    /// If Python is missing, too old or without `venv`, or the installation fails.
    pub fn python(&self) -> Result<PathBuf, Error> {
        python::environment(&self.cache, &python::STORAGE)
    }

    /// A Python that has Azure's own clients of Resource Manager (`azure-mgmt-compute`, `-network`, `-resource`), and
    /// `jsonschema`, in a virtual environment.
    ///
    /// # Errors
    /// If Python is missing, too old or without `venv`, or the installation fails.
    pub fn python_management(&self) -> Result<PathBuf, Error> {
        python::environment(&self.cache, &python::MANAGEMENT)
    }

    /// Installs those of the Debian packages that are missing, as root or through a `sudo` that asks nothing.
    ///
    /// # Errors
    /// One line that says what to install, where we may not; else that the installation failed.
    pub fn ensure_packages(&self, packages: &[Package]) -> Result<(), Error> {
        debian::ensure(&self.cache, packages)
    }
}

impl AzuriteVersion {
    /// As npm names it.
    pub const fn number(self) -> &'static str {
        match self {
            AzuriteVersion::Conformance => "3.37.0",
            AzuriteVersion::Throughput => "3.36.0",
        }
    }
}

/// The folder, if the three programs that it stands for are in it.
fn complete(assets: &Path) -> Result<PathBuf, Error> {
    for program in [go::API_SERVER, go::ETCD, go::KUBECTL] {
        if !assets.join(program).exists() {
            return Err(Error::Assets {
                variable: ASSETS_VARIABLE,
                folder: assets.to_owned(),
                missing: program,
            });
        }
    }
    Ok(assets.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_assets_that_lack_a_program_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for program in ["kube-apiserver", "kubectl"] {
            std::fs::write(folder.path().join(program), "x").unwrap();
        }
        let error = complete(folder.path()).unwrap_err().to_string();
        assert!(error.contains("KUBEBUILDER_ASSETS") && error.contains("etcd"));
    }
}
