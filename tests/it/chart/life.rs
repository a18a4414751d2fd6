//! The chart with its own values, from the first installation to the last.

use rustix::process::Signal;
use serde_json::json;
use site_recovery::lab::installed::Installed;

use crate::chart::release::{install, start_ready, wait_until_leads};
use crate::chart::rights::{
    ELECTION, IDENTITY, WATCHED, apply_examples, expect_acted_upon, expect_rights,
};
use crate::shared_cluster::{NEVER, kubectl, make_namespace, start};

/// A cluster of its own: this one watches all namespaces, and takes the kinds for its own.
#[tokio::test]
async fn it_is_installed_upgraded_rolled_back_and_uninstalled_and_no_site_or_vm_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path()).await;
    let kubectl = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        kubectl(&cluster, &arguments).unwrap()
    };

    let installed = install(&cluster, "dr", &json!({})).await;
    make_namespace(&cluster, "prod");
    expect_rights(&cluster, "dr", "prod", &[&WATCHED]).await;
    expect_rights(&cluster, "dr", "dr", &[&WATCHED, &ELECTION]).await;
    expect_rights(&cluster, "dr", "kube-system", &[&WATCHED, &IDENTITY]).await;

    let mut controller = start_ready(&cluster, &installed, "dr-1").await;
    wait_until_leads(&cluster, "dr", "dr-1");
    apply_examples(&cluster, "prod");
    expect_acted_upon(&cluster, "prod").await;
    let log = controller.log().text();
    assert!(!log.contains("forbidden"), "{log}");
    controller.signal(Signal::TERM).unwrap();
    assert!(controller.wait_ended(NEVER).await.unwrap().success());

    let arguments = "get deployment/site-recovery --namespace=dr --output=jsonpath={..args}";
    let before = kubectl(arguments);
    let other = json!({ "watchNamespaces": ["prod"], "concurrency": 4 });
    installed.upgrade(&cluster, &other).await.unwrap();
    let upgraded = kubectl(arguments);
    assert!(
        upgraded.contains("--concurrency=4") && upgraded.contains("--namespace=prod"),
        "{upgraded}"
    );
    expect_rights(&cluster, "dr", "dr", &[&ELECTION]).await;
    installed.rollback(&cluster, 1).await.unwrap();
    assert_eq!(kubectl(arguments), before);
    expect_rights(&cluster, "dr", "dr", &[&WATCHED, &ELECTION]).await;

    let objects = "get siterecovery --namespace=prod --output=jsonpath={.items[*].metadata.uid}";
    let theirs = kubectl(objects);
    assert_eq!(theirs.split(' ').count(), 4);
    installed.uninstall(&cluster).await.unwrap();
    let left = kubectl(
        "get deployment,service,role,rolebinding,serviceaccount --namespace=dr --output=name",
    );
    assert_eq!(left, "");
    assert_eq!(kubectl(objects), theirs);

    // The kinds that were left are taken up again.
    let values = json!({});
    let again = Installed::install(&cluster, "dr", "site-recovery", &values).await;
    let again = again.unwrap();
    let mut controller = start_ready(&cluster, &again, "dr-2").await;
    wait_until_leads(&cluster, "dr", "dr-2");
    assert_eq!(kubectl(objects), theirs);
    assert_eq!(controller.ended().unwrap(), None);
}
