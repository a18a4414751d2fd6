//! Several replicas, and what stops one from starting.

use rustix::process::Signal;
use serde_json::json;
use site_recovery::lab::installed::Installed;

use crate::chart::release::{install, make_certificates, start, start_ready, wait_until_leads};
use crate::shared_cluster::{NEVER, eventually, kubectl, make_namespace, shared};

#[tokio::test]
async fn a_standby_is_ready_and_takes_over_from_a_leader_that_goes_or_dies() {
    let cluster = shared().await;
    make_namespace(cluster, "pair-watched");
    let values = json!({ "crds": { "install": false }, "watchNamespaces": ["pair-watched"] });
    let installed = install(cluster, "pair", &values).await;
    let lease = |field: &str| {
        let field = format!("--output=jsonpath={{.spec.{field}}}");
        kubectl(
            cluster,
            &["get", "lease/site-recovery", "--namespace=pair", &field],
        )
        .unwrap()
    };

    let mut first = start_ready(cluster, &installed, "pair-1").await;
    wait_until_leads(cluster, "pair", "pair-1");
    let mut second = start_ready(cluster, &installed, "pair-2").await;
    assert_eq!(lease("holderIdentity"), "pair-1");

    // While the other cannot take it, what the leader leaves can be seen: nothing that anybody has to wait for.
    second.signal(Signal::STOP).unwrap();
    first.signal(Signal::TERM).unwrap();
    assert!(first.wait_ended(NEVER).await.unwrap().success());
    assert_eq!(lease("holderIdentity"), "");
    second.signal(Signal::CONT).unwrap();
    wait_until_leads(cluster, "pair", "pair-2");

    let _third = start_ready(cluster, &installed, "pair-3").await;
    second.kill();
    assert_eq!(lease("holderIdentity"), "pair-2");
    wait_until_leads(cluster, "pair", "pair-3");
}

#[tokio::test]
async fn without_its_certificates_the_controller_says_which_file_is_missing() {
    let cluster = shared().await;
    make_namespace(cluster, "no-authority-watched");
    let values =
        json!({ "crds": { "install": false }, "watchNamespaces": ["no-authority-watched"] });
    let installed = Installed::install(cluster, "no-authority", "site-recovery", &values);
    let installed = installed.await.unwrap();
    // What cert-manager makes with an issuer that does not say who it is.
    make_certificates(cluster, "no-authority", &["tls.crt", "tls.key"]);

    let (mut controller, _) = start(cluster, &installed, "no-authority-1").await;

    assert!(!controller.wait_ended(NEVER).await.unwrap().success());
    eventually("a word of why", async || {
        controller.log().text().contains("ca.crt")
    })
    .await;
    let said = controller.log().text();
    assert!(
        said.contains("cannot read") && said.contains("No such file"),
        "{said}"
    );
}
