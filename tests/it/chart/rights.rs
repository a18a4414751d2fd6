//! What the controller may do: all that it needs, proven by running, and no more, proven by the API server's own list.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use site_recovery::lab::cluster::Cluster;
use site_recovery::lab::examples::{self, Storage};
use site_recovery::lab::installed::http;
use site_recovery::lab::process::port;
use site_recovery::secret::Secret;

use crate::chart::release::{install, start_ready, wait, wait_until_leads};
use crate::shared_cluster::{NEVER, eventually, kubectl, make_namespace, shared};

/// In a namespace whose sites and VMs are acted upon.
pub(crate) const WATCHED: [&str; 13] = [
    "create events.events.k8s.io",
    "get hypervsites.siterecovery.dev",
    "get protectedvms.siterecovery.dev",
    "get secrets",
    "list hypervsites.siterecovery.dev",
    "list protectedvms.siterecovery.dev",
    "patch events.events.k8s.io",
    "patch hypervsites.siterecovery.dev",
    "patch hypervsites/status.siterecovery.dev",
    "patch protectedvms.siterecovery.dev",
    "patch protectedvms/status.siterecovery.dev",
    "watch hypervsites.siterecovery.dev",
    "watch protectedvms.siterecovery.dev",
];
/// In the release's own.
pub(crate) const ELECTION: [&str; 3] = [
    "create leases.coordination.k8s.io",
    "get leases.coordination.k8s.io site-recovery",
    "update leases.coordination.k8s.io site-recovery",
];
/// In kube-system.
pub(crate) const IDENTITY: [&str; 1] = ["get namespaces kube-system"];
/// What a worker of the data path may do in a namespace whose sites and VMs are acted upon.
const READ: [&str; 5] = [
    "get secrets",
    "list hypervsites.siterecovery.dev",
    "list protectedvms.siterecovery.dev",
    "watch hypervsites.siterecovery.dev",
    "watch protectedvms.siterecovery.dev",
];
/// And in the release's own.
const MEMBERSHIP: [&str; 4] = [
    "create leases.coordination.k8s.io",
    "delete leases.coordination.k8s.io",
    "list leases.coordination.k8s.io",
    "patch leases.coordination.k8s.io",
];
/// Resources that every ServiceAccount may look at: who it is, what it may, whom to trust.
const EVERYBODY: [&str; 3] = [
    ".authentication.k8s.io",
    ".authorization.k8s.io",
    "clustertrustbundles.",
];

/// Everything that an account of the release may do in `namespace`, beyond what everybody may.
async fn rights(
    cluster: &Cluster,
    (release, account): (&str, &str),
    namespace: &str,
) -> BTreeSet<String> {
    let access = cluster.service_account(release, account).await;
    let client = access.unwrap().client().await.unwrap();
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client);
    let answer = reviews.create(&PostParams::default(), &review).await;
    let status = answer.unwrap().status.unwrap();
    assert!(!status.incomplete);
    let mut rights = BTreeSet::new();
    for rule in status.resource_rules {
        let names = rule.resource_names.unwrap_or_default();
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let mut right = format!("{verb} {resource}");
                    if !group.is_empty() {
                        right = format!("{right}.{group}");
                    }
                    if names.is_empty() {
                        rights.insert(right.clone());
                    }
                    rights.extend(names.iter().map(|name| format!("{right} {name}")));
                }
            }
        }
    }
    rights.retain(|right| !EVERYBODY.iter().any(|everybody| right.contains(everybody)));
    rights
}

/// Waits until the controller's rights are exactly these.
pub(crate) async fn expect_rights(
    cluster: &Cluster,
    release: &str,
    namespace: &str,
    expected: &[&[&str]],
) {
    expect_rights_of(cluster, (release, "site-recovery"), namespace, expected).await;
}

/// Waits until an account's rights are exactly these; a binding takes effect a moment after it is made.
async fn expect_rights_of(
    cluster: &Cluster,
    account: (&str, &str),
    namespace: &str,
    expected: &[&[&str]],
) {
    let expected: BTreeSet<String> = expected.concat().into_iter().map(str::to_owned).collect();
    let mut found = rights(cluster, account, namespace).await;
    let mut attempts = 0..100;
    while found != expected && attempts.next().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        found = rights(cluster, account, namespace).await;
    }
    assert_eq!(found, expected, "in {namespace}");
}

/// Applies the examples in `namespace`, without the Secret that their site names.
pub(crate) fn apply_examples(cluster: &Cluster, namespace: &str) {
    let storage = Storage {
        account: "devstoreaccount1",
        key: &Secret::new("unused"),
        endpoint: "http://127.0.0.1:1/devstoreaccount1",
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let objects = &examples::manifests(storage)[1..];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    std::fs::write(file.path(), list.to_string()).unwrap();
    let namespace = format!("--namespace={namespace}");
    let path = file.path().to_str().unwrap();
    kubectl(cluster, &["apply", &namespace, "--filename", path]).unwrap();
}

/// The controller has done in `namespace` whatever it can do without a storage account.
pub(crate) async fn expect_acted_upon(cluster: &Cluster, namespace: &str) {
    wait(
        cluster,
        namespace,
        "--for=condition=Stalled",
        "hvsite/berlin",
    );
    let get = |arguments: &[&str]| {
        let namespace = format!("--namespace={namespace}");
        kubectl(cluster, &[&["get", &namespace], arguments].concat()).unwrap()
    };
    let ready = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].message}"#;
    let said = get(&["hvsite/berlin", ready]);
    assert!(
        said.contains(&format!("Secret {namespace}/lab-storage does not exist")),
        "{said}"
    );

    for vm in ["web", "sql", "legacy"] {
        let vm = format!("pvm/{vm}");
        wait(
            cluster,
            namespace,
            "--for=jsonpath={.status.state}=Pending",
            &vm,
        );
        let finalizers = get(&[&vm, "--output=jsonpath={.metadata.finalizers}"]);
        assert_eq!(finalizers, r#"["siterecovery.dev/replication"]"#);
    }
    let event = "--field-selector=reason=Configuration,involvedObject.kind=HyperVSite";
    eventually("an event on the site", async || {
        get(&["events", event]).contains("berlin")
    })
    .await;
}

#[tokio::test]
async fn in_some_namespaces_it_has_what_it_needs_there_and_elsewhere_nothing() {
    let cluster = shared().await;
    for namespace in ["few-watched", "few-other"] {
        make_namespace(cluster, namespace);
    }
    let values = json!({ "crds": { "install": false }, "watchNamespaces": ["few-watched"], "replicaCount": 1 });
    let installed = install(cluster, "few", &values).await;

    expect_rights(cluster, "few", "few-watched", &[&WATCHED]).await;
    expect_rights(cluster, "few", "few-other", &[]).await;
    expect_rights(cluster, "few", "few", &[&ELECTION]).await;
    expect_rights(cluster, "few", "kube-system", &[&IDENTITY]).await;

    let mut controller = start_ready(cluster, &installed, "few-1").await;
    wait_until_leads(cluster, "few", "few-1");
    apply_examples(cluster, "few-watched");
    expect_acted_upon(cluster, "few-watched").await;
    let log = controller.log().text();
    assert!(!log.contains("forbidden"), "{log}");
    assert_eq!(controller.ended().unwrap(), None);
}

#[tokio::test]
async fn a_worker_of_the_data_path_reads_what_it_needs_and_writes_nothing_but_leases() {
    let cluster = shared().await;
    for namespace in ["work-watched", "work-other"] {
        make_namespace(cluster, namespace);
    }
    let values = json!({
        "crds": { "install": false },
        "watchNamespaces": ["work-watched"],
        "dataPath": { "workers": { "replicas": 1 } },
    });
    let installed = install(cluster, "work", &values).await;

    let account = ("work", "site-recovery-data-path");
    expect_rights_of(cluster, account, "work-watched", &[&READ]).await;
    expect_rights_of(cluster, account, "work-other", &[]).await;
    expect_rights_of(cluster, account, "work", &[&MEMBERSHIP]).await;
    expect_rights_of(cluster, account, "kube-system", &[&IDENTITY]).await;

    apply_examples(cluster, "work-watched");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_site-recovery"));
    let probes = port::free().unwrap();
    let worker = installed.start_worker(cluster, binary, "work-1", probes);
    let mut worker = worker.await.unwrap();
    let ready = || http::is_ready(probes);
    worker.wait_ready(NEVER, ready).await.unwrap();
    eventually("a look at the site", async || {
        let log = worker.log().text();
        log.contains("Secret work-watched/lab-storage does not exist")
    })
    .await;
    let log = worker.log().text();
    assert!(!log.contains("forbidden"), "{log}");
}
