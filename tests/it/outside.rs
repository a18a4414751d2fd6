//! Programs that are not ours: judges of what we make. Obtained where that is allowed.

use std::process::{Command, Stdio};

use site_recovery::lab::tools::Tools;
use site_recovery::lab::tools::debian::{self, Package};

/// A program of a Debian package. Without it, and without the right to install it, the test fails and says what to do.
pub(crate) fn tool(name: &str, package: Package) -> Command {
    obtain(package);
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// Debian's own Python, which has the module of libvhdi.
pub(crate) fn python_with_vhdi() -> Command {
    obtain(debian::LIBVHDI);
    let mut command = Command::new(debian::PYTHON);
    command.stdin(Stdio::null());
    command
}

fn obtain(package: Package) {
    let obtained = Tools::locate().and_then(|tools| tools.ensure_packages(&[package]));
    if let Err(error) = obtained {
        panic!("{error}");
    }
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output.stdout
}
