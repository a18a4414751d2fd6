//! What a site says of itself, its hosts and their volumes.

use super::*;
use crate::api::condition::is_true;

fn host(name: &str, connected: bool) -> Host<'static> {
    let since = Timestamp::from_second(1_790_000_000).unwrap();
    Host {
        name: name.to_owned(),
        maintenance: false,
        link: Some((connected, since)),
        release: None,
        machines: None,
        fault: None,
    }
}

fn usable() -> Facts<'static> {
    Facts {
        hosts: vec![host("hv1", true)],
        refused: Vec::new(),
        credentials: Ok(()),
        account: Some(Ok(())),
        owner: Owner::Ours,
        counts: VirtualMachineCounts::default(),
        unsupported: &[],
        wrong: Vec::new(),
        suspended: false,
        breaker: None,
        deleting: false,
    }
}

fn ready_of(facts: &Facts<'_>) -> (String, String, bool, bool) {
    let now = Timestamp::from_second(1_790_000_000).unwrap().into();
    let status = status(facts, &HyperVSiteStatus::default(), 1, now);
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == types::READY)
        .unwrap();
    let conditions = &status.conditions;
    let (reconciling, stalled) = (
        is_true(conditions, types::RECONCILING),
        is_true(conditions, types::STALLED),
    );
    (
        ready.status.clone(),
        ready.reason.clone(),
        reconciling,
        stalled,
    )
}

fn expected(
    status: &str,
    reason: &str,
    reconciling: bool,
    stalled: bool,
) -> (String, String, bool, bool) {
    (status.to_owned(), reason.to_owned(), reconciling, stalled)
}

/// A machine with a disk on each volume, of which so many percent are free.
fn machine(volumes: &[(&str, u64)]) -> Machine {
    let disks: Vec<_> = volumes
        .iter()
        .map(|(name, free)| {
            serde_json::json!({
                "slot": "scsi:0:0", "backing": "Vhdx", "path": "web.vhdx", "virtualSize": 1, "logicalSector": 512,
                "physicalSector": 4096, "identifier": null, "boot": true, "problem": null,
                "volume": { "name": name, "free": free, "size": 100 },
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "name": "web", "boot": "Gen2", "power": "Running",
        "busy": null, "processors": 1, "memoryMib": 1, "secureBoot": false, "guestOs": null,
        "replicatedBy": null, "networkAdapters": [], "disks": disks,
    }))
    .unwrap()
}

#[test]
fn free_space_at_the_edge_of_a_step_is_not_said_anew() {
    let mut said = Vec::new();
    let mut percents = Vec::new();
    for free in [27, 25, 24, 25, 24, 29, 30, 31, 30, 24, 23, 24] {
        said = volumes(&[machine(&[("C:", free)])], &said);
        percents.push(said[0].free_percent);
    }
    assert_eq!(percents, [25, 25, 25, 25, 25, 25, 25, 30, 30, 20, 20, 20]);
}

#[test]
fn a_host_that_names_volumes_without_end_does_not_fill_the_status() {
    let long = "x".repeat(100_000);
    let names: Vec<String> = (0..1000).map(|number| format!("{number}{long}")).collect();
    let listed: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 50)).collect();
    let said = volumes(&[machine(&listed)], &[]);
    assert_eq!(said.len(), VOLUMES_MAX);
    assert!(said.iter().all(|of| of.name.len() <= VOLUME_NAME_MAX));
}

fn said_of(facts: &Facts<'_>) -> String {
    ready(facts).message
}

#[test]
fn a_field_that_means_nothing_is_for_a_human_to_correct_and_is_named() {
    let facts = Facts {
        wrong: vec!["spec.resynchronization.window.timeZone: it is none".to_owned()],
        ..usable()
    };
    let invalid = expected("False", "InvalidSpec", false, true);
    assert_eq!(ready_of(&facts), invalid);
    assert!(said_of(&facts).contains("window.timeZone"));
}

#[test]
fn a_site_that_is_suspended_says_so() {
    let facts = Facts {
        suspended: true,
        ..usable()
    };
    assert_eq!(
        ready_of(&facts),
        expected("True", "Suspended", false, false)
    );
    assert!(
        said_of(&facts).contains("spec.suspend"),
        "{}",
        said_of(&facts)
    );
}

#[test]
fn protected_vms_are_shown_of_all() {
    let counts = VirtualMachineCounts {
        total: 3,
        protected: 2,
        ..VirtualMachineCounts::default()
    };
    let facts = Facts { counts, ..usable() };
    let now = Timestamp::UNIX_EPOCH.into();
    let status = status(&facts, &HyperVSiteStatus::default(), 1, now);
    assert_eq!(status.virtual_machines_protected.as_deref(), Some("2/3"));
}

#[test]
fn a_site_is_usable_while_one_of_its_hosts_is_connected() {
    let mut facts = usable();
    facts.hosts.push(host("hv2", false));
    assert_eq!(ready_of(&facts), expected("True", "Usable", false, false));
    facts.hosts.remove(0);
    assert_eq!(
        ready_of(&facts),
        expected("False", "AgentsDisconnected", true, false)
    );
}

#[test]
fn a_host_that_somebody_works_on_is_no_alarm() {
    let mut facts = usable();
    facts.hosts[0] = Host {
        maintenance: true,
        ..host("hv1", false)
    };
    assert_eq!(ready_of(&facts), expected("True", "Usable", false, false));
    let agents = agents(&facts);
    assert_eq!(
        (agents.status, agents.reason.as_str()),
        (Status::True, "Maintenance")
    );
    facts.hosts.push(host("hv2", false));
    assert_eq!(
        ready_of(&facts),
        expected("False", "AgentsDisconnected", true, false)
    );
}

#[test]
fn another_clusters_site_is_stalled_and_says_how_to_take_over() {
    let owner = Owner::Other {
        cluster: "b".to_owned(),
        reign: "b.3".to_owned(),
        silent: Duration::from_secs(5),
    };
    let facts = Facts { owner, ..usable() };
    assert_eq!(
        ready_of(&facts),
        expected("False", "ManagedByAnotherCluster", false, true)
    );
    assert!(
        not_ready(&facts)
            .unwrap()
            .contains("take-over-from-cluster=b.3")
    );
}

#[test]
fn refused_credentials_need_a_human_and_an_unreachable_account_does_not() {
    let refused = Fault::new(Code::StorageUnauthorized, "403");
    let facts = Facts {
        account: Some(Err(&refused)),
        owner: Owner::Ours,
        ..usable()
    };
    assert_eq!(
        ready_of(&facts),
        expected("False", "StorageUnauthorized", false, true)
    );
    let unreachable = Fault::new(Code::StorageUnreachable, "dns");
    let facts = Facts {
        account: Some(Err(&unreachable)),
        ..usable()
    };
    let (status, _, reconciling, stalled) = ready_of(&facts);
    assert_eq!(
        (status.as_str(), reconciling, stalled),
        ("False", true, false)
    );
}

#[test]
fn what_failed_is_said_rather_than_what_is_unknown_because_of_it() {
    let missing = Fault::new(Code::Configuration, "the Secret is not there");
    let facts = Facts {
        credentials: Err(&missing),
        account: None,
        owner: Owner::Unknown,
        ..usable()
    };
    assert_eq!(
        ready_of(&facts),
        expected("False", "Configuration", false, true)
    );
    let unreachable = Fault::new(Code::StorageUnreachable, "dns");
    let facts = Facts {
        account: Some(Err(&unreachable)),
        owner: Owner::Unknown,
        ..usable()
    };
    assert_eq!(
        ready_of(&facts),
        expected("False", "StorageUnreachable", true, false)
    );
}

#[test]
fn a_refused_agent_is_shown_with_its_reason() {
    let since = Timestamp::from_second(1_790_000_000).unwrap().into();
    let refused = RefusedAgent {
        host: "hv2".to_owned(),
        reason: "certificate expired".to_owned(),
        since,
    };
    let mut facts = Facts {
        refused: vec![refused],
        ..usable()
    };
    facts.hosts.push(host("hv2", false));
    let said = agents(&facts);
    assert!(
        said.message
            .contains("hv2 was refused: certificate expired"),
        "{}",
        said.message
    );
}

#[test]
fn accounts_that_cannot_hold_page_blobs_are_refused() {
    assert!(unsuitable("Standard_LRS", "StorageV2", Some(false)).is_none());
    assert!(unsuitable("Standard_RAGRS", "StorageV2", None).is_none());
    assert!(unsuitable("Standard_LRS", "StorageV2", Some(true)).is_some());
    assert!(unsuitable("Premium_LRS", "StorageV2", Some(false)).is_some());
    assert!(unsuitable("Standard_LRS", "BlockBlobStorage", Some(false)).is_some());
}
