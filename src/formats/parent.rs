//! The paths by which a child names its parent: Windows' words, this machine's files.
//!
//! A recorded path is where to look, never what to believe: a parent is taken by its id. Hosts move files and copies
//! lie on other systems, so that after the recorded paths a file of the parent's name beside the child is tried too.

use std::path::{Component, Path, PathBuf};

use crate::formats::info::{ParentReference, PathKind, RecordedPath};

/// The prefix of Windows' long paths.
pub(crate) const VERBATIM: &str = r"\\?\";

/// Where the parent of `child` may be, in the order in which to look.
pub(crate) fn candidates(child: &Path, reference: &ParentReference) -> Vec<PathBuf> {
    let folder = child.parent().unwrap_or(Path::new(""));
    let recorded = reference
        .paths
        .iter()
        .filter_map(|path| local(folder, path));
    let names = reference.paths.iter().filter_map(|path| {
        let name = path.text.rsplit(['\\', '/']).next()?;
        (!matches!(name, "" | "." | "..")).then(|| folder.join(name))
    });
    let mut found: Vec<PathBuf> = Vec::new();
    for candidate in recorded.chain(names) {
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// What a recorded path means on this machine, if anything.
fn local(folder: &Path, path: &RecordedPath) -> Option<PathBuf> {
    if cfg!(windows) {
        return Some(match path.kind {
            PathKind::Relative => folder.join(&path.text),
            PathKind::Volume | PathKind::Absolute => PathBuf::from(&path.text),
        });
    }
    let text = path.text.strip_prefix(VERBATIM).unwrap_or(&path.text);
    let text = text.replace('\\', "/");
    match path.kind {
        PathKind::Relative => Some(folder.join(text.strip_prefix("./").unwrap_or(&text))),
        // Volumes and drive letters do not exist here; what is absolute without one was recorded on such a system.
        PathKind::Volume | PathKind::Absolute => text.starts_with('/').then(|| PathBuf::from(text)),
    }
}

/// The paths to record in a child in `folder` for the parent `parent`, both absolute and resolved.
///
/// Nothing if the path cannot be said in Windows' words: it is no text, or has a backslash in a name.
pub(crate) fn record(folder: &Path, parent: &Path) -> Option<Vec<RecordedPath>> {
    let mut paths = Vec::new();
    if let Some(text) = relative(folder, parent) {
        paths.push(RecordedPath {
            kind: PathKind::Relative,
            text,
        });
    }
    if cfg!(windows) {
        let text = parent.to_str()?;
        let text = if text.starts_with(VERBATIM) {
            text.to_owned()
        } else {
            [VERBATIM, text].concat()
        };
        paths.push(RecordedPath {
            kind: PathKind::Absolute,
            text,
        });
    }
    (!paths.is_empty()).then_some(paths)
}

fn relative(folder: &Path, parent: &Path) -> Option<String> {
    let (from, to): (Vec<_>, Vec<_>) =
        (folder.components().collect(), parent.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        // Another drive.
        return None;
    }
    let mut parts = vec![".."; from.len() - shared];
    if parts.is_empty() {
        parts.push(".");
    }
    for component in &to[shared..] {
        match component {
            Component::Normal(name) => {
                parts.push(name.to_str().filter(|name| !name.contains('\\'))?);
            }
            _ => return None,
        }
    }
    Some(parts.join("\\"))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn reference(paths: &[(PathKind, &str)]) -> ParentReference {
        let paths = paths.iter().map(|&(kind, text)| RecordedPath {
            kind,
            text: text.to_owned(),
        });
        ParentReference {
            linkage: Vec::new(),
            paths: paths.collect(),
        }
    }

    fn found(paths: &[(PathKind, &str)]) -> Vec<String> {
        candidates(Path::new("/vms/a/child.vhdx"), &reference(paths))
            .into_iter()
            .map(|path| path.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn windows_separators_and_prefixes_become_ours() {
        let paths = [
            (PathKind::Relative, "..\\base\\p.vhdx"),
            (
                PathKind::Volume,
                "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\x\\p.vhdx",
            ),
            (PathKind::Absolute, "\\\\?\\D:\\x\\q.vhdx"),
        ];
        let expected = ["/vms/a/../base/p.vhdx", "/vms/a/p.vhdx", "/vms/a/q.vhdx"];
        assert_eq!(found(&paths), expected);
        assert_eq!(
            found(&[(PathKind::Relative, ".\\p.vhdx")]),
            ["/vms/a/p.vhdx"]
        );
    }

    #[test]
    fn a_path_that_names_nothing_is_no_candidate() {
        assert_eq!(found(&[(PathKind::Absolute, "")]), [""; 0]);
        assert_eq!(found(&[(PathKind::Absolute, "C:\\..")]), [""; 0]);
    }

    #[test]
    fn what_is_recorded_is_found_again() {
        for (parent, text) in [
            ("/vms/a/p.vhdx", ".\\p.vhdx"),
            ("/vms/b/p.vhdx", "..\\b\\p.vhdx"),
            ("/vms/a/deep/p.vhdx", ".\\deep\\p.vhdx"),
            ("/p.vhdx", "..\\..\\p.vhdx"),
        ] {
            let paths = record(Path::new("/vms/a"), Path::new(parent)).unwrap();
            assert_eq!(paths[0].text, text);
        }
        assert_eq!(
            record(Path::new("/vms/a"), Path::new("/vms/a/b\\c.vhdx")),
            None
        );
    }
}
