//! What a `ProtectedVM` may say.

use serde_json::{Value, json};

use crate::crds::object::{Trial, expect_words, vm};

const GUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn target(change: &Value) -> Value {
    json!({ "target": change })
}

#[tokio::test]
async fn a_vm_is_named_in_exactly_one_way_and_stays_in_its_site() {
    let trial = Trial::new("vm-selector").await;
    trial
        .takes(&vm(), &[json!({ "vm": { "name": null, "id": GUID } })])
        .await;
    let one = "vm needs exactly one of name and id";
    let cases = [
        (json!({ "vm": { "id": GUID } }), one),
        (json!({ "vm": { "name": null } }), one),
        (json!({ "vm": null }), "spec.vm: Required value"),
        (
            json!({ "vm": { "name": "" } }),
            "spec.vm.name in body should be at least 1 chars long",
        ),
        (
            json!({ "vm": { "name": null, "id": "7" } }),
            "spec.vm.id in body should match",
        ),
        (json!({ "siteRef": null }), "spec.siteRef: Required value"),
        (json!({ "siteRef": { "name": "" } }), "spec.siteRef.name"),
        (
            json!({ "deletionPolicy": "Delete" }),
            r#"Unsupported value: "Delete""#,
        ),
    ];
    trial.refuses(&vm(), &cases).await;

    trial.create(vm()).await;
    let change = json!({ "siteRef": { "name": "munich" } });
    let said = trial.refusal_of_change(&vm(), &change).await;
    let words = "siteRef cannot be changed: the replica is in that site's storage; create another ProtectedVM";
    expect_words(&change, said, words);
    let taken = [
        json!({ "vm": { "name": null, "id": GUID } }),
        json!({ "suspend": true, "deletionPolicy": "DeleteReplica" }),
        json!({ "replicationPolicy": { "copyFrequency": "30s" }, "target": { "size": "Standard_D4s_v5" } }),
    ];
    for change in taken {
        assert_eq!(
            trial.refusal_of_change(&vm(), &change).await,
            None,
            "{change}"
        );
    }
}

#[tokio::test]
async fn disks_and_the_machine_in_azure_are_named_as_hypervisor_and_cloud_name_them() {
    let trial = Trial::new("vm-target").await;
    let exclude = |places: &[&str]| json!({ "disks": { "exclude": places } });
    let interfaces = |interfaces: &Value| target(&json!({ "networkInterfaces": interfaces }));
    let disk = |id: &str, type_: &str| target(&json!({ "disks": [{ "id": id, "type": type_ }] }));
    let taken = [
        exclude(&["scsi:0:2", "ide:1:0"]),
        target(&json!({ "vmName": "web-1", "availabilityZone": "2", "tags": { "owner": "dr" } })),
        interfaces(&json!([{ "source": "LAN" }, { "source": "DMZ", "publicIP": true }])),
        disk("scsi:0:1", "StandardSSD_ZRS"),
        json!({ "replicationPolicy": { "recoveryPoints": {} } }),
    ];
    trial.takes(&vm(), &taken).await;
    let short = json!([{ "every": "1h", "for": "24h" }, { "every": "1d", "for": "23h" }]);
    let cases = [
        (
            json!({ "replicationPolicy": { "recoveryPoints": { "keep": short } } }),
            "for must not be shorter than every",
        ),
        (
            exclude(&["scsi0:2"]),
            "disks.exclude[0] in body should match",
        ),
        (
            exclude(&["ide:0:1", "ide:0:1"]),
            r#"disks.exclude[1]: Duplicate value: "ide:0:1""#,
        ),
        (
            target(&json!({ "vmName": "-web" })),
            "target.vmName in body should match",
        ),
        (
            target(&json!({ "vmName": "a".repeat(64) })),
            "may not be more than 63",
        ),
        (
            target(&json!({ "availabilityZone": "4" })),
            "target.availabilityZone in body should match",
        ),
        (
            interfaces(&json!([{ "source": "LAN" }, { "source": "LAN" }])),
            r#"target.networkInterfaces[1]: Duplicate value: {"source":"LAN"}"#,
        ),
        (
            interfaces(&json!([{ "subnet": "a" }])),
            "networkInterfaces[0].source: Required value",
        ),
        (disk("scsi:0:1", "Fast"), r#"Unsupported value: "Fast""#),
        (
            disk("0:1", "Premium_LRS"),
            "target.disks[0].id in body should match",
        ),
    ];
    trial.refuses(&vm(), &cases).await;
}
