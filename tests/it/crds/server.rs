//! What the API server makes of our kinds: defaults, status, selectors, and what kubectl shows.

use std::fs;

use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::crds::object::{NAME, Trial, site, vm, with};
use crate::shared_cluster::{kubectl, shared};

#[tokio::test]
async fn absence_is_filled_with_the_documented_defaults() {
    let trial = Trial::new("defaults").await;

    let made = trial.create(site()).await;
    let expected = json!({
        "hosts": [{ "name": "hv01" }],
        "azure": {
            "cloud": "Public",
            "location": "westeurope",
            "credentials": { "type": "AccountKey", "secretRef": { "name": "storage" } },
            "storage": { "account": "contosoreplicas", "containerPrefix": "sr" },
        },
        "replicationPolicy": {
            "copyFrequency": "5m",
            "recoveryPoints": { "keep": [{ "every": "5m", "for": "2h" }, { "every": "1h", "for": "24h" }] },
            "appConsistentFrequency": "0h",
            "initialReplication": { "maxConcurrentPerHost": 2 },
        },
        "resynchronization": {
            "automatic": true,
            "window": { "start": "18:30", "end": "06:00", "timeZone": "UTC" },
        },
        "suspend": false,
    });
    assert_eq!(made["spec"], expected);

    let made = trial.create(vm()).await;
    let expected = json!({
        "siteRef": { "name": "berlin" },
        "vm": { "name": "web" },
        "disks": {},
        "suspend": false,
        "deletionPolicy": "Retain",
    });
    assert_eq!(made["spec"], expected);
}

#[tokio::test]
async fn a_part_of_a_default_can_be_said_alone_and_null_says_nothing() {
    let trial = Trial::new("partial-defaults").await;
    let said = json!({
        "resynchronization": { "window": { "timeZone": "Europe/Berlin" } },
        "bandwidth": { "schedule": [{ "hours": { "end": "07:00" }, "perHost": "20Mbit" }] },
    });
    let mut object = with(site(), &said);
    object["spec"]["suspend"] = Value::Null;
    object["spec"]["azure"]["network"] = Value::Null;

    let made = trial.create(object).await;

    let window = |end: &str, zone: &str| json!({ "start": "18:30", "end": end, "timeZone": zone });
    let spec = &made["spec"];
    assert_eq!(
        spec["resynchronization"]["window"],
        window("06:00", "Europe/Berlin")
    );
    assert_eq!(
        spec["bandwidth"]["schedule"][0]["hours"],
        window("07:00", "UTC")
    );
    assert_eq!(spec["suspend"], json!(false));
    assert_eq!(spec["azure"].get("network"), None);
}

#[tokio::test]
async fn a_new_object_says_that_nobody_has_observed_it() {
    let trial = Trial::new("new-status").await;
    for mut object in [site(), vm()] {
        let unobserved = json!({ "observedGeneration": -1, "conditions": [] });
        // What a backup or a copy of another object brings along.
        object["status"] = json!({ "observedGeneration": 7, "conditions": [] });
        let made = trial.create(object).await;
        assert_eq!(made["status"], unobserved);
    }
}

#[tokio::test]
async fn spec_and_status_are_each_written_by_their_own_door() {
    let trial = Trial::new("status-door").await;
    let api = trial.api(&vm());
    trial.create(vm()).await;
    let patch =
        Patch::Merge(json!({ "spec": { "suspend": true }, "status": { "state": "Protected" } }));
    let params = PatchParams::default();

    let by_status = api.patch_status(NAME, &params, &patch).await.unwrap();
    assert_eq!(by_status.data["spec"]["suspend"], json!(false));
    assert_eq!(by_status.data["status"]["state"], json!("Protected"));
    assert_eq!(by_status.metadata.generation, Some(1));

    let by_spec = api.patch(NAME, &params, &patch).await.unwrap();
    assert_eq!(by_spec.data["spec"]["suspend"], json!(true));
    assert_eq!(by_spec.metadata.generation, Some(2));
}

#[tokio::test]
async fn a_word_that_we_do_not_know_is_refused_by_kubectl_and_kept_by_nobody() {
    let trial = Trial::new("unknown-words").await;
    let cluster = shared().await;
    let misspelt = with(site(), &json!({ "bandwith": { "perHost": "1Mbit" } }));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), misspelt.to_string()).unwrap();
    let file = file.path().to_str().unwrap();

    let said = kubectl(
        cluster,
        &["--namespace=unknown-words", "apply", "--filename", file],
    );
    let said = said.unwrap_err();
    assert!(said.contains(r#"unknown field "spec.bandwith""#), "{said}");

    let made = trial.create(misspelt).await;
    assert_eq!(made["spec"].get("bandwith"), None);
}

#[tokio::test]
async fn a_time_of_day_needs_no_quotes() {
    Trial::new("times").await;
    let cluster = shared().await;
    let mut yaml = serde_yaml::to_string(&site()).unwrap();
    yaml.push_str("  resynchronization:\n    window:\n      start: 18:30\n      end: 05:00\n");
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), yaml).unwrap();
    let file = file.path().to_str().unwrap();

    let window = "--output=jsonpath={.spec.resynchronization.window}";
    let apply = ["--namespace=times", "apply", "--filename", file, window];
    let made: Value = serde_json::from_str(&kubectl(cluster, &apply).unwrap()).unwrap();

    assert_eq!(
        made,
        json!({ "start": "18:30", "end": "05:00", "timeZone": "UTC" })
    );
}

#[tokio::test]
async fn the_vms_of_a_site_can_be_selected() {
    let trial = Trial::new("selected").await;
    for (name, site) in [("a", "berlin"), ("b", "munich"), ("c", "berlin")] {
        let mut object = with(vm(), &json!({ "siteRef": { "name": site } }));
        object["metadata"]["name"] = json!(name);
        trial.create(object).await;
    }
    let of_berlin = ListParams::default().fields("spec.siteRef.name=berlin");
    let found = trial.api(&vm()).list(&of_berlin).await.unwrap();
    let names: Vec<_> = found
        .iter()
        .filter_map(|vm| vm.metadata.name.clone())
        .collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn kubectl_shows_what_one_looks_for_first() {
    let trial = Trial::new("columns").await;
    let cluster = shared().await;
    trial.create(site()).await;
    trial.create(vm()).await;
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "Copying", "message": "the first copy runs",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({ "status": {
        "conditions": [condition], "state": "InitialReplication", "health": "Normal", "progress": "43%",
    } });
    let api = trial.api(&vm());
    let params = PatchParams::default();
    api.patch_status(NAME, &params, &Patch::Merge(status))
        .await
        .unwrap();
    let get = |what: &str, wide: bool| {
        let output = if wide { "--output=wide" } else { "--output=" };
        let table = kubectl(cluster, &["--namespace=columns", "get", what, output]).unwrap();
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        table.lines().map(words).collect::<Vec<_>>()
    };

    let vms = get("pvm", false);
    assert_eq!(
        vms[0],
        [
            "NAME", "READY", "STATE", "HEALTH", "PROGRESS", "ACTIVE", "RPO", "AGE"
        ]
    );
    assert_eq!(
        vms[1][..5],
        ["tried", "False", "InitialReplication", "Normal", "43%"]
    );
    let wide = get("pvm", true);
    assert_eq!(
        wide[0][8..],
        ["HOST", "POINTS", "NEXT-RETRY", "REASON", "MESSAGE"]
    );
    assert!(wide[1].ends_with(&["the", "first", "copy", "runs"].map(str::to_owned)));

    let sites = get("hvsite", false);
    assert_eq!(
        sites[0],
        ["NAME", "READY", "HOSTS", "VMS", "CRITICAL", "AGE"]
    );
    let both = get("siterecovery", false).concat();
    assert!(
        both.contains(&"hypervsite.siterecovery.dev/tried".to_owned()),
        "{both:?}"
    );
    assert!(
        both.contains(&"protectedvm.siterecovery.dev/tried".to_owned()),
        "{both:?}"
    );
}

#[tokio::test]
async fn kubectl_explains_without_the_line_breaks_of_our_source() {
    let cluster = shared().await;
    let said = kubectl(
        cluster,
        &["explain", "hypervsite.spec.azure.credentials.type"],
    )
    .unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let said = words.join(" ");
    let expected = "only from namespaces that the chart allows), ClientSecret (key `clientSecret` of the Secret)";
    assert!(said.contains(expected), "{said}");
}
