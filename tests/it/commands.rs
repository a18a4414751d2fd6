//! What the commands leave with, and what their help says: scripts depend on the one, people on the other.

use std::path::Path;
use std::process::{Command, Output};

fn typed(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-recovery"));
    command.args(args).output().unwrap()
}

#[test]
fn images_are_compared_with_the_exit_codes_of_cmp() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, byte: u8| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![byte; 1 << 20]).unwrap();
        path
    };
    let (one, same, other) = (file("one", 1), file("same", 1), file("other", 2));
    let gone = folder.path().join("gone");
    let compared = |right: &Path| {
        let (left, right) = (one.to_str().unwrap(), right.to_str().unwrap());
        let output = typed(&["image", "compare", "--raw", left, right]);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(compared(&same), (Some(0), String::new()));
    assert_eq!(compared(&other), (Some(1), String::new()));
    let (code, said) = compared(&gone);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("gone"), "{said}");
}

#[test]
fn every_argument_of_the_tools_for_files_is_explained() {
    for command in [
        ["image", "inspect"],
        ["image", "cat"],
        ["image", "compare"],
        ["log", "inspect"],
    ] {
        let [tool, action] = command;
        let output = typed(&[tool, action, "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        let (_, arguments) = help.split_once("Arguments:\n").unwrap();
        let (arguments, _) = arguments.split_once("\n\n").unwrap();
        for argument in arguments.lines().filter(|line| line.contains('<')) {
            let (_, text) = argument.split_once('>').unwrap();
            assert!(!text.trim().is_empty(), "{command:?}: {argument}");
        }
    }
}
