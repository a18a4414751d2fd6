//! Programs built from the Go module proxy: the control plane and Helm.
//!
//! `k8s.io/kubernetes` is a module like any other once its staging repositories are pinned, which the `replace` lines
//! of `control-plane/go.mod` do. Sources are checked against `go.sum`; nothing is resolved at build time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::file::file_error;
use crate::lab::tools::cache::{Cache, Item};
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::{Installation, Prerequisite};

pub(super) const API_SERVER: &str = "kube-apiserver";
pub(super) const ETCD: &str = "etcd";
pub(super) const KUBECTL: &str = "kubectl";
pub(super) const HELM: &str = "helm";

const KUBERNETES_VERSION: &str = "1.37.2";
const ETCD_VERSION: &str = "3.7.0";
const HELM_VERSION: &str = "4.3.1";

const GO: Prerequisite = Prerequisite {
    command: "go",
    remedy: "install Go 1.26 or later (Debian 12's own package is too old)",
};

/// A Go module of ours that only names what to build.
struct Module {
    definition: &'static str,
    sums: &'static str,
}

const CONTROL_PLANE: Module = Module {
    definition: include_str!("control-plane/go.mod"),
    sums: include_str!("control-plane/go.sum"),
};

/// Without the version, clients and Helm cannot parse what the server says of itself. Major and minor go with it.
const KUBERNETES_FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37";
const HELM_FLAGS: &str = "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1";

/// The folder with kube-apiserver, etcd and kubectl.
///
/// # Errors
/// If Go is missing or too old, or the build fails.
pub(super) fn kubernetes(cache: &Cache) -> Result<PathBuf, Error> {
    let item = Item {
        name: "kubernetes",
        version: KUBERNETES_VERSION,
        inputs: &[
            CONTROL_PLANE.definition,
            CONTROL_PLANE.sums,
            KUBERNETES_FLAGS,
        ],
        expected: &["bin/kube-apiserver", "bin/etcd", "bin/kubectl"],
        work: "building kube-apiserver, etcd and kubectl from the Go module proxy",
        takes: "about 5 minutes on two idle cores",
    };
    let folder = cache.obtain(&item, |installation| {
        let bin = build(
            installation,
            KUBERNETES_FLAGS,
            &[
                "k8s.io/kubernetes/cmd/kube-apiserver",
                "k8s.io/kubernetes/cmd/kubectl",
                "go.etcd.io/etcd/server/v3",
            ],
        )?;
        // etcd's main package is called after its folder.
        fs::rename(bin.join("server"), bin.join(ETCD)).map_err(file_error("rename", &bin))?;
        for (program, argument, version) in [
            (API_SERVER, "--version", KUBERNETES_VERSION),
            (ETCD, "--version", ETCD_VERSION),
        ] {
            installation.check_version(Command::new(bin.join(program)).arg(argument), version)?;
        }
        installation.check_version(
            Command::new(bin.join(KUBECTL)).args(["version", "--client"]),
            KUBERNETES_VERSION,
        )
    })?;
    Ok(folder.join("bin"))
}

/// Helm.
///
/// # Errors
/// If Go is missing or too old, or the build fails.
pub(super) fn helm(cache: &Cache) -> Result<PathBuf, Error> {
    let item = Item {
        name: HELM,
        version: HELM_VERSION,
        inputs: &[CONTROL_PLANE.definition, CONTROL_PLANE.sums, HELM_FLAGS],
        expected: &["bin/helm"],
        work: "building Helm from the Go module proxy",
        takes: "half a minute",
    };
    let folder = cache.obtain(&item, |installation| {
        let package = ["helm.sh/helm/v4/cmd/helm"];
        let bin = build(installation, HELM_FLAGS, &package)?;
        installation.check_version(
            Command::new(bin.join(HELM)).args(["version", "--short"]),
            HELM_VERSION,
        )
    })?;
    Ok(folder.join("bin").join(HELM))
}

/// Builds packages of the module's dependencies into `bin` and returns that folder.
fn build(
    installation: &mut Installation,
    linker_flags: &str,
    packages: &[&str],
) -> Result<PathBuf, Error> {
    installation.write("module/go.mod", CONTROL_PLANE.definition)?;
    installation.write("module/go.sum", CONTROL_PLANE.sums)?;
    let folder = installation.folder().join("module");
    // Within the module, so that Go compares itself with what go.mod asks for, or fetches a newer toolchain if it may.
    installation.require(GO, &["env", "GOVERSION"], &folder)?;
    let bin = installation.folder().join("bin");
    installation.run(
        go_build(&folder)
            .args(["-ldflags", linker_flags, "-o"])
            // The slash makes it a folder.
            .arg(bin.join(""))
            .args(packages),
    )?;
    Ok(bin)
}

/// `go build` whose outcome depends on the module alone, whatever the user's settings.
fn go_build(module: &Path) -> Command {
    let mut command = Command::new(GO.command);
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly")
        // A build that is killed leaves its scratch files where the cache sweeps them.
        .env("GOTMPDIR", module)
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .args(["build", "-trimpath", "-buildvcs=false"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requires(line: &str) -> bool {
        CONTROL_PLANE
            .definition
            .lines()
            .any(|l| l.trim().trim_end_matches(" // indirect") == line)
    }

    #[test]
    fn the_versions_that_are_checked_are_those_that_are_required() {
        let plane = [
            format!("k8s.io/kubernetes v{KUBERNETES_VERSION}"),
            format!("go.etcd.io/etcd/server/v3 v{ETCD_VERSION}"),
            format!("helm.sh/helm/v4 v{HELM_VERSION}"),
        ];
        for line in plane {
            assert!(requires(&line), "{line}");
        }
    }

    #[test]
    fn the_versions_that_are_stamped_are_those_that_are_required() {
        assert!(KUBERNETES_FLAGS.contains(&format!("gitVersion=v{KUBERNETES_VERSION} ")));
        assert!(HELM_FLAGS.ends_with(&format!("version=v{HELM_VERSION}")));
        let minor = KUBERNETES_VERSION.split('.').nth(1).unwrap();
        assert!(KUBERNETES_FLAGS.ends_with(&format!("gitMinor={minor}")));
    }
}
