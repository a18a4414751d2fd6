//! Every request body and path of ours against Azure's own JSON schemas, judged by Python's `jsonschema`.
//!
//! The schemas are data of Azure/azure-resource-manager-schemas: `<api-version>/<provider>.json` and
//! `common/definitions.json` in the folder that `ARM_SCHEMAS` names.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use site_recovery::azure::body::{
    Body, DiskCreation, DiskEncryption, DiskProperties, Group, Reference,
};
use site_recovery::azure::id::{ResourceId, ResourceKind};
use site_recovery::azure::operation::Action;
use site_recovery::azure::{Arm as _, Kind};

use crate::arm::world::{
    World, adapter, group, imported, kind, machine, public_address, resource, run, snapshot,
};
use crate::blob::emulator::obtain;

const JUDGE: &str = include_str!("schemas.py");
const VARIABLE: &str = "ARM_SCHEMAS";

/// Where the schemas are: what the variable names, else beside the work tree. Nothing where neither is: then it is said
/// past the test harness, which keeps what a test prints that does not fail.
fn schemas() -> Option<PathBuf> {
    const ONE: &str = "2024-03-02/Microsoft.Compute.json";
    const WHAT: &str = "a folder with the schemas of Azure/azure-resource-manager-schemas: 2024-03-02 and \
         2024-07-01/Microsoft.Compute.json, 2024-05-01/Microsoft.Network.NRP.json, \
         2024-03-01/Microsoft.Resources.json, common/definitions.json";
    if let Some(named) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        let one = named.join(ONE);
        assert!(
            one.is_file(),
            "{} is missing: {VARIABLE} must name {WHAT}",
            one.display()
        );
        return Some(named);
    }
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/azure-schemas");
    if beside.join(ONE).is_file() {
        return Some(beside);
    }
    let said = format!("NOT JUDGED by Azure's schemas: set {VARIABLE} to {WHAT}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    None
}

/// Asserts that the judge finds something wrong with each of these `{type, version, name, body}`, or with none.
async fn assert_judged(requests: &[Value], wrong: bool) {
    let Some(folder) = schemas() else {
        return;
    };
    let python = obtain(|tools| tools.python_management()).await;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("requests.json");
    std::fs::write(&path, serde_json::to_vec(requests).unwrap()).unwrap();
    let output = Command::new(python)
        .args(["-c", JUDGE])
        .arg(&folder)
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Vec<Option<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.len(), requests.len());
    for (request, found) in requests.iter().zip(found) {
        assert_eq!(found.is_some(), wrong, "{found:?} {request:#}");
    }
}

fn request(id: &ResourceId, body: &Body) -> Value {
    json!({
        "type": id.kind().type_name(),
        "version": id.kind().api_version(),
        "name": id.name(),
        "body": body,
    })
}

/// A body of each kind, with everything in it that can be.
fn bodies() -> Vec<(ResourceId, Body)> {
    let disk = resource(ResourceKind::Disk, "d1");
    let nic = resource(ResourceKind::NetworkInterface, "n1");
    let public = resource(ResourceKind::PublicAddress, "p1");
    let mut full = imported("https://replicas.blob.core.windows.net/c/os.vhd", true);
    full.zones = vec!["1".into()];
    let set = resource(ResourceKind::DiskEncryptionSet, "keys");
    full.properties = DiskProperties {
        encryption: Some(DiskEncryption::with(set)),
        network_access_policy: Some("AllowAll".into()),
        ..full.properties
    };
    let mut copied = imported("x", false);
    copied.properties.creation_data = DiskCreation::Copy {
        source_resource_id: resource(ResourceKind::Snapshot, "s1"),
    };
    let data = imported("https://replicas.blob.core.windows.net/c/data.vhd", false);
    let mut guarded = adapter(Some("10.0.0.10"), Some(&public));
    let nsg = resource(ResourceKind::SecurityGroup, "g1");
    guarded.properties.network_security_group = Some(Reference::from(nsg));
    let mut zonal = machine(&disk, &[&disk], &[&nic]);
    zonal.zones = vec!["1".into()];
    let mut grouped = machine(&disk, &[], &[&nic, &nic]);
    let set = resource(ResourceKind::AvailabilitySet, "a1");
    grouped.properties.availability_set = Some(Reference::from(set));
    let vm = || resource(ResourceKind::VirtualMachine, "vm1");
    vec![
        (disk.clone(), Body::Disk(full)),
        (disk.clone(), Body::Disk(copied)),
        (disk.clone(), Body::Disk(data)),
        (resource(ResourceKind::Snapshot, "s1"), snapshot(&disk)),
        (public, public_address()),
        (nic.clone(), Body::NetworkInterface(guarded)),
        (nic, Body::NetworkInterface(adapter(None, None))),
        (vm(), Body::VirtualMachine(Box::new(zonal))),
        (vm(), Body::VirtualMachine(Box::new(grouped))),
    ]
}

#[tokio::test]
async fn every_body_of_ours_is_what_azures_schemas_ask_for() {
    let requests: Vec<Value> = bodies()
        .iter()
        .map(|(id, body)| request(id, body))
        .collect();
    assert_judged(&requests, false).await;
}

#[tokio::test]
async fn the_judge_sees_what_is_misspelt_missing_or_of_the_wrong_type() {
    let (disk, body) = bodies().remove(0);
    let spoilt = |change: &dyn Fn(&mut Value)| {
        let mut request = request(&disk, &body);
        change(&mut request["body"]);
        request
    };
    let remove = |pointer: &'static str, name: &'static str| {
        move |body: &mut Value| {
            let parent = body.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            assert!(parent.remove(name).is_some());
        }
    };
    let requests = [
        spoilt(&remove("", "properties")),
        spoilt(&remove("/properties", "creationData")),
        spoilt(&remove("/properties/creationData", "createOption")),
        spoilt(&|body| body["properties"]["creationData"]["createOption"] = json!("Imported")),
        spoilt(&|body| body["zones"] = json!("1")),
        // Unknown properties pass the schemas; the judge compares names besides.
        spoilt(&|body| body["properties"]["creationData"]["sourceURI"] = json!("x")),
        spoilt(&|body| body["properties"]["hyperVgeneration"] = json!("V2")),
    ];
    assert_judged(&requests, true).await;
}

/// What was asked of the lab in the life of a machine: each path is one of Azure's, each body as its schema asks.
#[tokio::test]
async fn every_request_of_a_machines_life_has_a_path_and_a_body_that_azure_knows() {
    let world = World::with_storage().await;
    let other = site_recovery::azure::id::GroupId::new("s-1", "drill").unwrap();
    let body = Group::new("westeurope", std::collections::BTreeMap::new());
    world.client.create_group(&other, &body).await.unwrap();
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let data = world.disk("data", &[0; 1 << 20], false).await;
    let point = resource(ResourceKind::Snapshot, "s0");
    world.create(&point, snapshot(&data)).await;
    let vm = world.machine("vm1", &os, &[&data]).await;
    let granted = Action::GrantAccess {
        duration: std::time::Duration::from_secs(600),
    };
    for (id, action) in [
        (&point, granted),
        (&point, Action::RevokeAccess),
        (
            &vm,
            Action::PowerOff {
                skip_shutdown: false,
            },
        ),
        (&vm, Action::Deallocate),
        (&vm, Action::Start),
    ] {
        let begun = world.client.act(id, &action).await.unwrap();
        world.finish(begun).await;
    }
    for id in [&vm, &os, &data, &point] {
        let begun = world.client.delete(id).await.unwrap();
        world.finish(begun).await;
    }

    let mut requests = Vec::new();
    for (method, path, body) in world.arm().bodies() {
        let (path, query) = path.split_once('?').unwrap();
        let version = query.rsplit_once("api-version=").unwrap().1;
        if path.ends_with("/resourceGroups/drill") {
            assert_eq!((method.as_str(), version), ("PUT", "2024-03-01"));
            requests.push(json!({
                "type": "Microsoft.Resources/resourceGroups",
                "version": version, "name": "drill", "body": body,
            }));
            continue;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let id: ResourceId = parts[..9].join("/").parse().unwrap();
        assert_eq!(version, id.kind().api_version(), "{path}");
        match (method.as_str(), parts.get(9)) {
            ("PUT", None) => requests.push(json!({
                "type": id.kind().type_name(), "version": version, "name": id.name(), "body": body,
            })),
            ("DELETE", None) => assert_eq!(body, Value::Null),
            ("POST", Some(&"beginGetAccess")) => {
                assert_eq!(body, json!({ "access": "Read", "durationInSeconds": 600 }));
            }
            ("POST", Some(&("endGetAccess" | "powerOff" | "deallocate" | "start"))) => {
                assert_eq!(body, Value::Null);
            }
            other => panic!("{other:?} {path}"),
        }
    }
    assert_eq!(requests.len(), 6);
    assert_judged(&requests, false).await;
}

#[tokio::test]
async fn a_body_of_another_type_is_not_sent() {
    let world = World::empty().await;
    let id = resource(ResourceKind::Disk, "d");
    let sent = world.client.create(&id, &run(), &public_address()).await;
    assert_eq!(kind(sent), Kind::Refused);
    assert!(world.arm().journal().is_empty());
    assert!(world.client.group(&group()).await.unwrap().is_some());
}
