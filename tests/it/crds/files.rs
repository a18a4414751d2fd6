//! The files that people apply: the generated definitions, and the examples.

use std::fs;

use site_recovery::api::crd;

use crate::crds::object::Trial;
use crate::shared_cluster::{kubectl, repository, shared};

#[test]
fn the_definitions_in_the_repository_are_those_of_the_code() {
    let expected: Vec<(String, String)> = crd::all()
        .unwrap()
        .iter()
        .map(|definition| {
            (
                crd::file_name(definition),
                crd::to_yaml(definition).unwrap(),
            )
        })
        .collect();
    for folder in ["crds", "charts/site-recovery/files/crds"] {
        let mut found: Vec<(String, String)> = fs::read_dir(repository().join(folder))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        assert!(
            found == expected,
            "{folder} is not what src/api says; `make crds` mends it"
        );
    }
}

#[tokio::test]
async fn the_examples_are_taken_as_they_stand_and_a_second_time_change_nothing() {
    let cluster = shared().await;
    Trial::new("examples").await;
    let examples = repository().join("examples");
    let apply = [
        "--namespace=examples",
        "apply",
        "--filename",
        examples.to_str().unwrap(),
    ];

    let first = kubectl(cluster, &apply).unwrap();
    assert_eq!(first.lines().count(), 4, "{first}");
    assert!(
        first.lines().all(|line| line.ends_with(" created")),
        "{first}"
    );

    let second = kubectl(cluster, &apply).unwrap();
    assert!(
        second.lines().all(|line| line.ends_with(" unchanged")),
        "{second}"
    );
}

#[test]
fn no_example_asks_for_an_operation() {
    let kinds = ["HyperVSite", "ProtectedVM"];
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // What is in a folder is not applied with the examples.
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with('#'),
            "{}: no word of what will happen",
            path.display()
        );
        assert!(!text.contains("annotations:"), "{}", path.display());
        let mut of_kinds = text.lines().filter_map(|line| line.strip_prefix("kind: "));
        assert!(
            of_kinds.all(|kind| kinds.contains(&kind)),
            "{}",
            path.display()
        );
    }
}
