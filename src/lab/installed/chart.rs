//! The chart that belongs to this binary, so that a lab needs no work tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::lab::file::file_error;
use crate::lab::installed::error::{Error, of_durable};

/// A file of the chart, from the work tree into the binary.
macro_rules! file {
    ($path:literal) => {
        (
            $path,
            include_str!(concat!("../../../charts/site-recovery/", $path)),
        )
    };
}

/// Every file of the chart: its path within, and its content.
pub const FILES: &[(&str, &str)] = &[
    file!(".helmignore"),
    file!("Chart.yaml"),
    file!("files/crds/hypervsites.yaml"),
    file!("files/crds/protectedvms.yaml"),
    file!("templates/NOTES.txt"),
    file!("templates/_helpers.tpl"),
    file!("templates/crds.yaml"),
    file!("templates/data-path.yaml"),
    file!("templates/deployment.yaml"),
    file!("templates/extraobjects.yaml"),
    file!("templates/metrics.yaml"),
    file!("templates/networkpolicy.yaml"),
    file!("templates/poddisruptionbudget.yaml"),
    file!("templates/rbac-people.yaml"),
    file!("templates/rbac.yaml"),
    file!("templates/service.yaml"),
    file!("templates/serviceaccount.yaml"),
    file!("values.schema.json"),
    file!("values.yaml"),
];

/// Writes the chart into `folder` and returns where it is. What another version left there goes.
///
/// # Errors
/// If a file cannot be written or removed.
pub fn write(folder: &Path) -> Result<PathBuf, Error> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(file_error("remove", folder))?;
    }
    for (path, content) in FILES {
        let path = folder.join(path);
        let parent = path
            .parent()
            .expect("a path that was joined to a folder has a parent");
        fs::create_dir_all(parent).map_err(file_error("create", parent))?;
        durable::write(&path, content.as_bytes()).map_err(of_durable)?;
    }
    Ok(folder.to_owned())
}
