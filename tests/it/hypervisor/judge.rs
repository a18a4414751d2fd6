//! Tools that are not ours.

use std::path::Path;
use std::process::{Command, Stdio};

/// A tool that a test cannot do without: `package` is what Debian calls it.
pub(crate) fn tool(name: &str, package: &str) -> Command {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()));
    assert!(found, "this test needs `{name}`: apt-get install {package}");
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
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

/// Whether qemu finds nothing wrong with a single image, and `content` in it.
pub(crate) fn qemu_agrees(image: &Path, content: &[u8]) {
    let vhdx = image
        .extension()
        .is_some_and(|extension| extension == "vhdx");
    let format = if vhdx { "vhdx" } else { "vpc" };
    if vhdx {
        run(tool("qemu-img", "qemu-utils")
            .args(["check", "-f", format])
            .arg(image));
    }
    let expected = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(expected.path(), content).unwrap();
    run(tool("qemu-img", "qemu-utils")
        .args(["compare", "-f", format, "-F", "raw"])
        .args([image, expected.path()]));
}

/// Whether 7-Zip finds `content` in an image and its parents.
pub(crate) fn seven_zip_agrees(image: &Path, content: &[u8]) {
    let extension = image.extension().unwrap_or_default().to_string_lossy();
    let kind = if extension.ends_with("vhdx") {
        "-tvhdx"
    } else {
        "-tvhd"
    };
    let found = run(tool("7zz", "7zip").args(["e", "-so", kind]).arg(image));
    assert!(
        found == content,
        "7-Zip reads {} otherwise",
        image.display()
    );
}
