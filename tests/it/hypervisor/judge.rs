//! Tools that are not ours.

use std::path::Path;

use site_recovery::lab::tools::debian;

use crate::outside::{run, tool};

/// Whether qemu finds nothing wrong with a single image, and `content` in it.
pub(crate) fn qemu_agrees(image: &Path, content: &[u8]) {
    let vhdx = image
        .extension()
        .is_some_and(|extension| extension == "vhdx");
    let format = if vhdx { "vhdx" } else { "vpc" };
    if vhdx {
        run(tool("qemu-img", debian::QEMU_UTILS)
            .args(["check", "-f", format])
            .arg(image));
    }
    let expected = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(expected.path(), content).unwrap();
    run(tool("qemu-img", debian::QEMU_UTILS)
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
    let found = run(tool("7zz", debian::SEVEN_ZIP)
        .args(["e", "-so", kind])
        .arg(image));
    assert!(
        found == content,
        "7-Zip reads {} otherwise",
        image.display()
    );
}
