//! What time alone changes: windows, schedules, and how long an agent may be silent. The controller's clock is turned.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use site_recovery::api::vm_status::{Health, ProtectedVMStatus, ReplicationState};
use site_recovery::controller::{self, Config};
use site_recovery::datapath::runner::Role;
use site_recovery::durable;
use site_recovery::host::Hypervisor;
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::host::Host;
use site_recovery::tls::ServerTls;
use site_recovery::units::{ByteRange, Clock, MIB, SystemClock};
use site_recovery::wire::Settings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::look::{condition, hours_from_now, is};
use super::world::{SITE, World, blocking, machine, protected_vm, until};
use crate::blob::emulator;

/// A clock that is turned forward.
#[derive(Default)]
struct Turned {
    minutes: AtomicI64,
}

impl Clock for Turned {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_mins(self.minutes.load(Ordering::SeqCst))
    }
}

/// A controller in this process, whose clock is ours.
struct Local {
    clock: Arc<Turned>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Local {
    async fn start(world: &World) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (gateway, probes) = (listen().await, listen().await);
        let certificates = world.stage.admit(gateway.local_addr().unwrap().port());
        let (clock, shutdown) = (Arc::<Turned>::default(), CancellationToken::new());
        let config = Config {
            client: world.stage.client(),
            namespaces: Vec::new(),
            ambient_namespaces: Vec::new(),
            gateway,
            probes,
            tls: ServerTls::new(certificates),
            http: emulator::http(&[]),
            lease_namespace: "default".to_owned(),
            lease_name: "local".to_owned(),
            identity: "local".to_owned(),
            concurrency: 4,
            datapath: Role::Inside,
            datapath_concurrency: 4,
            clock: clock.clone(),
        };
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { controller::run(config, stop).await.unwrap() });
        Local {
            clock,
            shutdown,
            running,
        }
    }

    /// Lets minutes pass for the controller, and has it look: it would do so by itself, at an hour that never comes here.
    async fn turn(&self, world: &World, minutes: i64) {
        let passed = self.clock.minutes.fetch_add(minutes, Ordering::SeqCst);
        let looked = format!("looked=at-{passed}");
        world.annotate("hypervsite", SITE, &looked).await;
        world.annotate("protectedvm", "web", &looked).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

/// Waits until a host's agent was told how many bytes a second it may send.
async fn until_capped(host: &Host, bytes: u64) {
    until("the limit of the hour", async || {
        let settings = host.agent_state().join("settings.json");
        let told: Settings = durable::read_record(&settings).unwrap()?;
        (told.bandwidth == Some(bytes)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_open_limits_change_and_silence_becomes_unknown_by_time_alone() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 16 * MIB)], 2 * MIB).await;
    host.start_agent().unwrap();
    let local = Local::start(&world).await;
    let site = world.site(&["hv1"], |spec| {
        let soon = hours_from_now(4, 64);
        spec["resynchronization"] = json!({ "window": soon });
        let office = json!({ "hours": soon, "perHost": "80Mbit" });
        spec["bandwidth"] = json!({ "perHost": "800Mbit", "schedule": [office] });
    });
    world.apply(&site).await;
    world.apply(&[protected_vm("web")]).await;
    let follows = |status: &ProtectedVMStatus| {
        is(status, "Replicating", ("True", "ChangesFollow"))
            && is(status, "Ready", ("True", "Protected"))
    };
    world.until_status("web", "followed", follows).await;
    until_capped(&host, 100_000_000).await;

    // Another product ends the tracking that this one counts on.
    let (hypervisor, id) = (host.hypervisor(), web.id.clone());
    blocking(move || hypervisor.stop_tracking(&id).unwrap()).await;
    let address = Address::Tcp(host.nbd());
    let changed = ByteRange::new(4 * MIB, 5 * MIB).unwrap();
    blocking(move || guest::fill(&address, "web/scsi:0:0", changed, 5).unwrap()).await;
    let now = "siterecovery.dev/sync-now=1";
    world.annotate("protectedvm", "web", now).await;
    let waits = |status: &ProtectedVMStatus| is(status, "Resyncing", ("False", "WaitingForWindow"));
    let status = world
        .until_status("web", "waiting for its window", waits)
        .await;
    let resync = status.resynchronization.unwrap();
    assert_eq!(resync.reason.as_deref(), Some("TrackingLost"));
    assert!(resync.next_window.is_some() && resync.token.is_none());

    local.turn(&world, 6).await;
    world.until_status("web", "compared", follows).await;
    world.until_newest_point_is_source(&host, "web").await;
    until_capped(&host, 10_000_000).await;

    // A host that falls silent is its site's trouble first; after a while what only it knows is not known any more.
    host.kill_agent();
    world
        .until_site("AgentsConnected", |status, _| status == "False")
        .await;
    assert!(follows(&world.status("web").await));
    local.turn(&world, 6).await;
    let unknown = |status: &ProtectedVMStatus| is(status, "Ready", ("Unknown", "AgentUnreachable"));
    let status = world.until_status("web", "unknown", unknown).await;
    for type_ in ["Replicating", "RPOMet"] {
        let unknown = ("Unknown", "AgentUnreachable");
        assert!(is(&status, type_, unknown), "{type_}: {status:#?}");
    }
    assert_eq!(condition(&status, "Stalled"), None);
    assert!(is(&status, "Critical", ("False", "NotCritical")));
    assert_eq!(status.state, Some(ReplicationState::Protected));
    assert_eq!((status.health, status.retry), (Some(Health::Warning), None));
    host.start_agent().unwrap();
    world.until_status("web", "known again", follows).await;
    local.stop().await;
}
