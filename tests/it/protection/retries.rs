//! What the controller tries again, it goes on with after a restart, and begins anew when there is a reason to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use site_recovery::api::vm_status::{ProtectedVMStatus, Retry};
use site_recovery::units::MIB;

use super::look::{is, looks, until_later};
use super::world::{World, machine, protected_vm, until};
use crate::blob::server::{Reply, Server, answer};

/// A way to the storage account on which what is written to some blobs is refused: the service is busy for an hour.
struct Way {
    proxy: Server,
    refused: Arc<Mutex<Option<&'static str>>>,
}

impl Way {
    async fn to(world: &World) -> Self {
        let endpoint = reqwest::Url::parse(&world.stage.azurite.endpoint()).unwrap();
        let azurite = endpoint.socket_addrs(|| None).unwrap()[0];
        let refused: Arc<Mutex<Option<&'static str>>> = Arc::default();
        let now = refused.clone();
        let proxy = Server::start(move |request| {
            let part = *now.lock().unwrap();
            let line = request.head.lines().next().unwrap();
            if part.is_some_and(|part| line.starts_with("PUT ") && line.contains(part)) {
                let busy = answer(503).with("retry-after", "3600");
                return Reply::Answer(busy.with("x-ms-error-code", "ServerBusy"));
            }
            Reply::Forwarded(azurite, request.body.clone())
        })
        .await;
        Way { proxy, refused }
    }

    fn refuse(&self, part: Option<&'static str>) {
        *self.refused.lock().unwrap() = part;
    }

    fn endpoint(&self, world: &World) -> String {
        let account = &world.stage.azurite.account().name;
        self.proxy.endpoint().to_string().replace("acct1", account)
    }

    /// How often it was tried to write a replica's fence.
    fn tries(&self, replica: &str) -> usize {
        let path = format!("sr-r-{replica}/fence.json");
        let tries = self.proxy.requests().into_iter();
        tries
            .filter(|request| request.head.starts_with("PUT ") && request.head.contains(&path))
            .count()
    }
}

fn retry_of(status: &ProtectedVMStatus) -> Retry {
    status.retry.clone().unwrap()
}

/// Waits until a step is retried because storage is busy, since a later time than `before`.
async fn until_retried(world: &World, vm: &str, step: &str, before: Option<&Retry>) -> Retry {
    let since = before.and_then(|before| before.since);
    let retried = |status: &ProtectedVMStatus| {
        is(status, "Reconciling", ("True", "ProgressingWithRetry"))
            && status.retry.as_ref().is_some_and(|retry| {
                retry.step.as_deref() == Some(step)
                    && retry.last_error.code == "StorageBusy"
                    && retry.since > since
            })
    };
    let retry = retry_of(&world.until_status(vm, "retried", retried).await);
    until_later(retry.since).await;
    retry
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_outlive_the_controller_and_begin_anew_with_spec_secret_or_word() {
    let world = World::new().await;
    let way = Way::to(&world).await;
    let mut host = world.host("hv1").await;
    for vm in ["web", "other"] {
        machine(&host, vm, &[("scsi:0:0", 8 * MIB)], MIB).await;
    }
    host.start_agent().unwrap();
    let site = world.site(&["hv1"], |spec| {
        spec["azure"]["storage"]["endpoint"] = json!(way.endpoint(&world));
    });
    world.apply(&site).await;
    way.refuse(Some("/fence.json"));
    world.apply(&[protected_vm("web")]).await;
    let mut first = world.stage.controller("c0").await.unwrap();
    let failed = until_retried(&world, "web", "Describe", None).await;
    assert_eq!(world.until_warned("web", "StorageBusy").await, 1);

    // Who takes over does not know the agent at first, and neither forgets what failed nor tries it at once.
    first.process.signal(Signal::TERM).unwrap();
    let ended = first.process.wait_ended(Duration::from_secs(60)).await;
    ended.unwrap();
    let second = world.stage.controller("c1").await.unwrap();
    world.apply(&[protected_vm("other")]).await;
    until_retried(&world, "other", "Describe", None).await;
    let looked = looks(&second).await;
    world.annotate("protectedvm", "web", "looked=at").await;
    until("a look at it", async || {
        (looks(&second).await > looked).then_some(())
    })
    .await;
    let status = world.status("web").await;
    let (replica, kept) = (status.replica_id.clone().unwrap(), retry_of(&status));
    assert_eq!(kept.since, failed.since, "it began anew");
    let tries = usize::try_from(kept.attempts).unwrap();
    assert_eq!(way.tries(&replica), tries, "tried out of turn");

    let spec = json!({ "deletionPolicy": "DeleteReplica" });
    world.patch("protectedvm", "web", &spec).await;
    let by_spec = until_retried(&world, "web", "Describe", Some(&failed)).await;
    assert!(way.tries(&replica) > tries);

    // Every account has two keys, so that one can be replaced. The site sees it when it looks at its Secret.
    let second_key = world.stage.azurite.account().second_key.expose();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "storage" },
        "stringData": { "accountKey": second_key },
    });
    world.apply(&[secret]).await;
    world.annotate("hypervsite", "site", "looked=at").await;
    let by_secret = until_retried(&world, "web", "Describe", Some(&by_spec)).await;

    let retry = "siterecovery.dev/retry=1";
    world.annotate("protectedvm", "web", retry).await;
    until_retried(&world, "web", "Describe", Some(&by_secret)).await;
    let handled = world.status("web").await.last_handled.unwrap();
    assert_eq!(handled.retry.as_deref(), Some("1"));

    // What the agent meets is told in the same way.
    way.refuse(Some(".hrl"));
    for vm in ["web", "other"] {
        let retry = "siterecovery.dev/retry=2";
        world.annotate("protectedvm", vm, retry).await;
    }
    until_retried(&world, "web", "Replicate", None).await;
    way.refuse(None);
    for vm in ["web", "other"] {
        let retry = "siterecovery.dev/retry=3";
        world.annotate("protectedvm", vm, retry).await;
        world.until_protected(vm).await;
    }
}
