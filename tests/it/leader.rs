//! Which replica of the controller acts, on a real API server.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use site_recovery::controller::leader::Election;
use site_recovery::units::SystemClock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::shared_cluster::{make_namespace, shared};

fn election(client: &Client, identity: &str) -> Election {
    Election {
        client: client.clone(),
        namespace: "leader".to_owned(),
        name: "site-recovery".to_owned(),
        identity: identity.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_holds_the_lease_until_it_is_released() {
    let cluster = shared().await;
    make_namespace(cluster, "leader");
    let client = cluster.client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "leader");
    let holder = async || {
        let lease = leases.get("site-recovery").await.unwrap();
        lease.spec.unwrap().holder_identity.unwrap()
    };
    let first = election(&client, "first");
    let (leads, mut leading) = watch::channel(false);
    let shutdown = CancellationToken::new();
    let stopping = async {
        leading.wait_for(|leads| *leads).await.unwrap();
        shutdown.cancel();
    };

    let (ended, ()) = tokio::join!(first.run(&SystemClock, &leads, &shutdown), stopping);

    ended.unwrap();
    assert_eq!(holder().await, "first");
    // What another replica holds is not given away.
    election(&client, "second").release().await;
    assert_eq!(holder().await, "first");
    first.release().await;
    assert_eq!(holder().await, "");
    let (leads, mut leading) = watch::channel(false);
    let second = election(&client, "second");
    let shutdown = CancellationToken::new();
    let taken = tokio::time::timeout(Duration::from_secs(60), leading.wait_for(|leads| *leads));
    tokio::select! {
        ended = second.run(&SystemClock, &leads, &shutdown) => panic!("ended: {ended:?}"),
        taken = taken => drop(taken.unwrap().unwrap()),
    }
}
