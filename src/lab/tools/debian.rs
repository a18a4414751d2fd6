//! Programs that only the distribution has: the disk tools that judge our images, and the like.
//!
//! Presence is asked of the machine, not of dpkg, so that another distribution's packages serve too. Installing needs
//! root, or a `sudo` that asks nothing; without either the error is one line that says what to install.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::lab::tools::cache::Cache;
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::Installation;

/// Debian's own interpreter, the one that sees Debian's Python modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// `qemu-img`, `qemu-io`, `qemu-nbd`.
pub const QEMU_UTILS: Package = Package {
    name: "qemu-utils",
    parts: &[
        Part::Command("qemu-img"),
        Part::Command("qemu-io"),
        Part::Command("qemu-nbd"),
    ],
};
/// `rsync`, which a resynchronization is measured beside.
pub const RSYNC: Package = Package {
    name: "rsync",
    parts: &[Part::Command("rsync")],
};
/// `7zz`, which reads differencing chains.
pub const SEVEN_ZIP: Package = Package {
    name: "7zip",
    parts: &[Part::Command("7zz")],
};
/// `pyvhdi` for [`PYTHON`], which reads differencing chains.
pub const LIBVHDI: Package = Package {
    name: "python3-libvhdi",
    parts: &[Part::PythonModule("pyvhdi")],
};
/// `nbdcopy`, `nbdinfo`.
pub const LIBNBD: Package = Package {
    name: "libnbd-bin",
    parts: &[Part::Command("nbdcopy"), Part::Command("nbdinfo")],
};
/// `mke2fs`, `e2fsck`, `debugfs`.
pub const E2FSPROGS: Package = Package {
    name: "e2fsprogs",
    parts: &[
        Part::Command("mke2fs"),
        Part::Command("e2fsck"),
        Part::Command("debugfs"),
    ],
};
/// `hyperfine`, which times whole commands.
pub const HYPERFINE: Package = Package {
    name: "hyperfine",
    parts: &[Part::Command("hyperfine")],
};
/// A library that azcopy does not start without.
pub const LIBSECRET: Package = Package {
    name: "libsecret-1-0",
    parts: &[Part::Library("libsecret-1.so.0")],
};
/// What Debian's own Python lacks to make virtual environments.
pub(super) const PYTHON_VENV: Package = Package {
    name: "python3-venv",
    parts: &[Part::PythonModule("ensurepip")],
};

/// Where programs are that a user's PATH often leaves out.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Where libraries are; in Debian one level further down, by architecture.
const LIBRARY_FOLDERS: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// A Debian package, and what of it we use.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    name: &'static str,
    parts: &'static [Part],
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Command(&'static str),
    PythonModule(&'static str),
    Library(&'static str),
}

impl Package {
    /// Whether everything that we use of it is on this machine.
    pub fn is_present(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Command(name) => find(name).is_some(),
            Part::PythonModule(name) => has_module(name),
            Part::Library(name) => has_library(name),
        })
    }
}

/// The path of a program in PATH or in the system's folders.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Installs those of `packages` that are missing.
///
/// # Errors
/// What to install, where we may not; else that the installation failed, or did not help.
pub(super) fn ensure(cache: &Cache, packages: &[Package]) -> Result<(), Error> {
    if missing(packages).is_empty() {
        return Ok(());
    }
    let Some(administrator) = administrator() else {
        return Err(unobtainable(packages));
    };
    // apt refuses a second caller where we can wait; by then nothing may be missing any more.
    let lock = cache.lock("apt", "installing Debian packages")?;
    let names = missing(packages);
    if names.is_empty() {
        return Ok(());
    }
    let scratch = lock.scratch()?;
    let work = format!("installing Debian packages: {}", names.join(", "));
    let mut installation = Installation::begin(scratch.path(), &work, "seconds");
    installation.run(administrator.apt_get().arg("update"))?;
    installation.run(
        administrator
            .apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&names),
    )?;
    if !missing(packages).is_empty() {
        return Err(unobtainable(packages));
    }
    installation.done();
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let missing = packages.iter().filter(|package| !package.is_present());
    missing.map(|package| package.name).collect()
}

fn unobtainable(packages: &[Package]) -> Error {
    Error::Packages {
        packages: missing(packages).join(" "),
    }
}

/// How we may call apt-get.
#[derive(Clone, Copy, Debug)]
enum Administrator {
    Root,
    Sudo,
}

impl Administrator {
    /// apt-get in a session of its own: if we are killed it goes on to its end, since one that is killed in the middle
    /// leaves dpkg asking for repair.
    fn apt_get(self) -> Command {
        let mut command = Command::new("setsid");
        if matches!(self, Administrator::Sudo) {
            command.args(["sudo", "--non-interactive"]);
        }
        command.args([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "--quiet",
            // Another installation on this machine is waited for, ten minutes at most.
            "--option=DPkg::Lock::Timeout=600",
        ]);
        command
    }
}

/// Nothing where we are nobody, or the distribution is another.
fn administrator() -> Option<Administrator> {
    find("apt-get")?;
    if geteuid().is_root() {
        return Some(Administrator::Root);
    }
    succeeds(Command::new("sudo").args(["--non-interactive", "true"]))
        .then_some(Administrator::Sudo)
}

fn has_module(name: &str) -> bool {
    succeeds(Command::new(PYTHON).args(["-c", &format!("import {name}")]))
}

fn has_library(name: &str) -> bool {
    LIBRARY_FOLDERS.iter().map(Path::new).any(|folder| {
        let by_architecture = fs::read_dir(folder).into_iter().flatten().flatten();
        folder.join(name).exists()
            || by_architecture
                .map(|entry| entry.path().join(name))
                .any(|path| path.exists())
    })
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_every_machine_is_found() {
        const EVERYWHERE: Package = Package {
            name: "dash",
            parts: &[Part::Command("sh")],
        };
        assert!(EVERYWHERE.is_present());
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        ensure(&cache, &[EVERYWHERE]).unwrap();
        // Nothing was missing, so nothing was locked or written.
        assert!(!folder.path().join("cache").exists());
    }

    #[test]
    fn an_error_names_only_what_is_missing() {
        const NOWHERE: Package = Package {
            name: "no-such-package",
            parts: &[Part::Command("no-such-program-of-ours")],
        };
        const EVERYWHERE: Package = Package {
            name: "dash",
            parts: &[Part::Command("sh")],
        };
        assert_eq!(
            unobtainable(&[EVERYWHERE, NOWHERE]).to_string(),
            "missing on this machine; as root, run: apt-get install no-such-package"
        );
    }

    #[test]
    fn a_library_is_found_where_the_loader_finds_it() {
        assert!(!has_library("libno-such-library-of-ours.so.0"));
        assert!(has_library("libc.so.6"));
    }
}
