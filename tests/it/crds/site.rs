//! What a `HyperVSite` may say.

use serde_json::{Value, json};

use crate::crds::object::{Trial, expect_words, site};

const GUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn azure(change: &Value) -> Value {
    json!({ "azure": change })
}

fn credentials(credentials: &Value) -> Value {
    azure(&json!({ "credentials": credentials }))
}

fn storage(change: &Value) -> Value {
    azure(&json!({ "storage": change }))
}

fn policy(change: &Value) -> Value {
    json!({ "replicationPolicy": change })
}

fn window(change: &Value) -> Value {
    json!({ "resynchronization": { "window": change } })
}

fn hours(change: &Value) -> Value {
    json!({ "bandwidth": { "schedule": [change] } })
}

#[tokio::test]
async fn hosts_are_named_once_and_as_certificates_have_them() {
    let trial = Trial::new("site-hosts").await;
    let named = |names: &[&str]| {
        let hosts: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        json!({ "hosts": hosts })
    };
    let node = json!({ "hosts": [{ "name": "hv-01.contoso.local", "cluster": "hvc1" }] });
    trial.takes(&site(), &[named(&["a", "b"]), node]).await;
    let cases = [
        (json!({ "hosts": null }), "spec.hosts: Required value"),
        (
            named(&[]),
            "spec.hosts in body should have at least 1 items",
        ),
        (
            named(&["a", "a"]),
            r#"spec.hosts[1]: Duplicate value: {"name":"a"}"#,
        ),
        (named(&["HV01"]), "spec.hosts[0].name in body should match"),
        (
            named(&[""]),
            "spec.hosts[0].name in body should be at least 1 chars long",
        ),
        (
            json!({ "hosts": [{ "name": "a", "cluster": "" }] }),
            "spec.hosts[0].cluster",
        ),
    ];
    trial.refuses(&site(), &cases).await;
}

#[tokio::test]
async fn each_type_of_credentials_has_what_it_needs_and_no_more() {
    let trial = Trial::new("site-credentials").await;
    let none = |type_: &str| credentials(&json!({ "type": type_, "secretRef": null }));
    let taken = [
        none("WorkloadIdentity"),
        none("ManagedIdentity"),
        credentials(&json!({ "type": "ManagedIdentity", "secretRef": null, "clientID": GUID })),
        credentials(&json!({ "type": "ClientSecret", "clientID": GUID })),
    ];
    trial.takes(&site(), &taken).await;
    let secret = "credentials of type AccountKey and ClientSecret need secretRef, the others must not have one";
    let cases = [
        (none("AccountKey"), secret),
        (
            credentials(&json!({ "type": "ClientSecret", "secretRef": null, "clientID": GUID })),
            secret,
        ),
        (credentials(&json!({ "type": "WorkloadIdentity" })), secret),
        (credentials(&json!({ "type": "ManagedIdentity" })), secret),
        (
            credentials(&json!({ "type": "ClientSecret" })),
            "credentials of type ClientSecret need clientID",
        ),
        (
            credentials(&json!({ "type": "Password" })),
            r#"Unsupported value: "Password""#,
        ),
        (
            credentials(&json!({ "type": null })),
            "spec.azure.credentials.type: Required value",
        ),
        (
            credentials(&json!({ "secretRef": { "name": "" } })),
            "secretRef.name",
        ),
        (
            credentials(&json!({ "clientID": GUID.to_uppercase() })),
            "clientID in body should match",
        ),
    ];
    trial.refuses(&site(), &cases).await;
}

#[tokio::test]
async fn the_target_is_named_as_azure_names_it() {
    let trial = Trial::new("site-target").await;
    let taken = [
        storage(
            &json!({ "endpoint": "https://contosoreplicas.privatelink.blob.core.windows.net" }),
        ),
        storage(&json!({ "endpoint": "http://127.0.0.1:10000/devstoreaccount1" })),
        storage(&json!({ "containerPrefix": "dr-2" })),
        azure(&json!({ "cloud": "USGovernment", "tenantID": GUID, "subscriptionID": GUID })),
    ];
    trial.takes(&site(), &taken).await;
    let cases = [
        (
            azure(&json!({ "location": null })),
            "spec.azure.location: Required value",
        ),
        (
            azure(&json!({ "location": "West Europe" })),
            "spec.azure.location in body should match",
        ),
        (
            azure(&json!({ "cloud": "Germany" })),
            r#"Unsupported value: "Germany""#,
        ),
        (
            azure(&json!({ "tenantID": "contoso.com" })),
            "spec.azure.tenantID in body should match",
        ),
        (
            azure(&json!({ "subscriptionID": "mine" })),
            "spec.azure.subscriptionID in body should match",
        ),
        (
            storage(&json!({ "account": "ab" })),
            "account in body should be at least 3 chars long",
        ),
        (
            storage(&json!({ "account": "contoso-replicas" })),
            "account in body should match",
        ),
        (
            storage(&json!({ "endpoint": "ftp://contoso" })),
            "endpoint in body should match",
        ),
        (
            storage(&json!({ "endpoint": "https://contoso/?sv=1" })),
            "endpoint in body should match",
        ),
        (
            storage(&json!({ "containerPrefix": "a--b" })),
            "containerPrefix in body should match",
        ),
        (
            storage(&json!({ "containerPrefix": "a".repeat(21) })),
            "may not be more than 20",
        ),
    ];
    trial.refuses(&site(), &cases).await;
}

#[tokio::test]
async fn policies_hours_and_bandwidth_are_said_in_units_that_exist() {
    let trial = Trial::new("site-policy").await;
    let tier = |every: &str, keep: &str| {
        policy(&json!({ "recoveryPoints": { "keep": [{ "every": every, "for": keep }] } }))
    };
    let taken = [
        policy(&json!({ "copyFrequency": "30s", "appConsistentFrequency": "12h" })),
        policy(&json!({ "initialReplication": { "start": "22:00", "maxConcurrentPerHost": 32 } })),
        tier("1d", "30d"),
        tier("999999m", "999999m"),
        tier("24h", "1d"),
        window(&json!({ "start": "00:00", "end": "23:59", "timeZone": "Europe/Berlin" })),
        json!({ "bandwidth": { "perHost": "1.5Gbit" } }),
        hours(&json!({ "days": ["Mon"], "hours": { "start": "08:00" }, "perHost": "20Mbit" })),
    ];
    trial.takes(&site(), &taken).await;
    let cases = [
        (
            policy(&json!({ "copyFrequency": "1m" })),
            r#"Unsupported value: "1m""#,
        ),
        (
            policy(&json!({ "appConsistentFrequency": "13h" })),
            "appConsistentFrequency in body should match",
        ),
        (
            policy(&json!({ "recoveryPoints": { "keep": [] } })),
            "keep in body should have at least 1 items",
        ),
        (tier("1w", "30d"), "keep[0].every in body should match"),
        (tier("1h", "0d"), "keep[0].for in body should match"),
        (tier("1h", "30m"), "for must not be shorter than every"),
        (tier("999999s", "11d"), "for must not be shorter than every"),
        (
            policy(&json!({ "initialReplication": { "maxConcurrentPerHost": 0 } })),
            "maxConcurrentPerHost in body should be greater than or equal to 1",
        ),
        (
            policy(&json!({ "initialReplication": { "start": "9:00" } })),
            "start in body should match",
        ),
        (
            window(&json!({ "start": "24:00" })),
            "start in body should match",
        ),
        // What a reader of older YAML makes of 18:30.
        (
            window(&json!({ "end": 1110 })),
            "window.end in body must be of type string",
        ),
        (
            json!({ "bandwidth": { "perHost": "100MB" } }),
            "bandwidth.perHost in body should match",
        ),
        (
            hours(&json!({ "hours": {} })),
            "schedule[0].perHost: Required value",
        ),
        (
            hours(&json!({ "days": ["Monday"], "hours": {}, "perHost": "1Mbit" })),
            "Unsupported value",
        ),
    ];
    trial.refuses(&site(), &cases).await;
}

#[tokio::test]
async fn where_the_replicas_are_cannot_be_changed_and_everything_else_can() {
    let trial = Trial::new("site-changes").await;
    trial.create(site()).await;
    let cannot = "cannot be changed";
    let refused = [
        (
            azure(&json!({ "location": "northeurope" })),
            "azure.location cannot be changed: replicas live in it",
        ),
        (
            storage(&json!({ "account": "other" })),
            "azure.storage.account cannot be changed",
        ),
        (
            storage(&json!({ "containerPrefix": "other" })),
            "azure.storage.containerPrefix cannot be changed",
        ),
        (json!({ "azure": null }), "spec.azure: Required value"),
    ];
    for (change, words) in refused {
        let said = trial.refusal_of_change(&site(), &change).await;
        expect_words(&change, said, words);
    }
    let taken = [
        // To say what was the default is no change.
        storage(&json!({ "containerPrefix": "sr", "endpoint": "https://elsewhere.example" })),
        credentials(&json!({ "type": "ManagedIdentity", "secretRef": null })),
        azure(&json!({ "tenantID": GUID, "subscriptionID": GUID, "resourceGroup": "dr" })),
        json!({ "hosts": [{ "name": "hv02" }], "suspend": true, "bandwidth": { "perHost": "1Mbit" } }),
        policy(&json!({ "copyFrequency": "15m" })),
    ];
    for change in taken {
        assert_eq!(
            trial.refusal_of_change(&site(), &change).await,
            None,
            "{change}"
        );
    }

    // What may be set later cannot be changed or taken back once it is set.
    let named = with_guids(&trial).await;
    for field in ["tenantID", "subscriptionID"] {
        for value in [json!(GUID.replace('0', "1")), Value::Null] {
            let change = azure(&json!({ (field): value }));
            let said = trial.refusal_of_change(&named, &change).await;
            expect_words(&change, said, &format!("azure.{field} {cannot} once set"));
        }
    }
}

/// Says which tenant and subscription the created site is of.
async fn with_guids(trial: &Trial) -> Value {
    let change = azure(&json!({ "tenantID": GUID, "subscriptionID": GUID }));
    let patch = kube::api::Patch::Merge(json!({ "spec": change }));
    let params = kube::api::PatchParams::default();
    let api = trial.api(&site());
    let changed = api
        .patch(crate::crds::object::NAME, &params, &patch)
        .await
        .unwrap();
    serde_json::to_value(changed).unwrap()
}
