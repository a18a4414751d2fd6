//! What cannot be protected says why: every reason at once, each with what to do.

use kube::Api;
use serde_json::json;
use site_recovery::api::HyperVSite;
use site_recovery::api::vm_status::ProtectedVMStatus;
use site_recovery::formats;
use site_recovery::formats::create::{Allocation, CreateOptions};
use site_recovery::formats::info::Format;
use site_recovery::host::lab::spec::{DiskContent, DiskSpec, ImageFormat, ImageKind, MachineSpec};
use site_recovery::host::{Backing, Volume};
use site_recovery::lab::stage::host::Host;
use site_recovery::units::{GIB, MIB};

use super::world::{NAMESPACE, SITE, World, blocking, machine, protected_vm, until};

/// What a VM says in its condition `Validated`.
fn validated(status: &ProtectedVMStatus) -> Option<(&str, &str)> {
    let condition = status.conditions.iter().find(|c| c.type_ == "Validated")?;
    Some((condition.status.as_str(), condition.message.as_str()))
}

fn ready_reason(status: &ProtectedVMStatus) -> Option<&str> {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready")?;
    Some(ready.reason.as_str())
}

fn new(slot: &str, size: u64, logical_sector: u32) -> DiskSpec {
    DiskSpec {
        slot: slot.parse().unwrap(),
        content: DiskContent::New {
            format: ImageFormat::Vhdx,
            kind: ImageKind::Dynamic,
            size,
            block_size: None,
            logical_sector,
            physical_sector: 4096,
        },
    }
}

fn foreign(slot: &str, backing: Backing) -> DiskSpec {
    DiskSpec {
        slot: slot.parse().unwrap(),
        content: DiskContent::Foreign {
            backing,
            name: "\\\\.\\PHYSICALDRIVE3".to_owned(),
            size: GIB,
        },
    }
}

/// A machine that breaks every rule that a machine can break.
async fn hopeless(host: &Host) {
    let mut spec = MachineSpec::new("hopeless");
    spec.settings.replicated_by = Some("Hyper-V Replica".to_owned());
    spec.settings.volume = Some(Volume {
        name: "D:".to_owned(),
        free: GIB,
        size: 100 * GIB,
    });
    let (parent, child) = ("parent.vhdx", "scsi:0:4");
    let parent = host.folder().join(parent);
    spec.disks = vec![
        new("scsi:0:0", 64 * GIB, 4096),
        new("scsi:0:1", 40_000 * GIB, 512),
        foreign("scsi:0:2", Backing::PassThrough),
        foreign("scsi:0:3", Backing::Shared),
        DiskSpec {
            slot: child.parse().unwrap(),
            content: DiskContent::New {
                format: ImageFormat::Vhdx,
                kind: ImageKind::Differencing {
                    parent: parent.clone(),
                },
                size: GIB,
                block_size: None,
                logical_sector: 512,
                physical_sector: 4096,
            },
        },
    ];
    let console = host.console();
    blocking(move || {
        let options = CreateOptions::new(
            Format::Vhdx,
            Allocation::Dynamic,
            GIB,
            uuid::Uuid::new_v4(),
            jiff::Timestamp::now(),
        );
        let image = formats::create(&parent, &options).unwrap();
        image.close().unwrap();
        console.create(&spec).unwrap();
        std::fs::remove_file(&parent).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_be_protected_says_every_reason_and_remedy() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    hopeless(&host).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    let mut vm = protected_vm("hopeless");
    vm["spec"]["disks"] = json!({ "exclude": ["scsi:3:9"] });
    world.apply(&[vm]).await;

    let invalid =
        |status: &ProtectedVMStatus| validated(status).is_some_and(|(status, _)| status == "False");
    let status = world
        .until_status("hopeless", "found invalid", invalid)
        .await;

    let (_, said) = validated(&status).unwrap();
    for expected in [
        "is replicated by Hyper-V Replica (end that replication",
        "scsi:3:9, and VM hopeless has no disk there (correct the place",
        "has sectors of 4096 bytes, Azure takes 512 (convert it",
        "has 39 TiB, a data disk may have at most",
        "is a physical disk of the host (exclude it",
        "is shared by several VMs (exclude it",
        "disk scsi:0:4 of VM hopeless",
        "volume D: has less than 5 GiB of 100 GiB free",
    ] {
        assert!(said.contains(expected), "`{expected}` is not in: {said}");
    }
    assert_eq!(ready_reason(&status), Some("PrerequisitesFailed"));
    // Nothing was begun that would have to be undone.
    assert_eq!(status.replica_id, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_no_machine_or_to_several_is_a_humans_to_mend() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let (mut first, mut second) = (world.host("hv1").await, world.host("hv2").await);
    machine(&first, "twin", &[("scsi:0:0", 8 * MIB)], 0).await;
    machine(&second, "twin", &[("scsi:0:0", 8 * MIB)], 0).await;
    let only = machine(&second, "only", &[("scsi:0:0", 8 * MIB)], MIB).await;
    first.start_agent().unwrap();
    second.start_agent().unwrap();
    world.apply(&world.site(&["hv1", "hv2"], |_| {})).await;
    let mut again = protected_vm("again");
    again["spec"]["vm"] = json!({ "id": only.id.to_string() });
    world.apply(&[protected_vm("only")]).await;
    world.until_protected("only").await;
    world
        .apply(&[protected_vm("nobody"), protected_vm("twin"), again])
        .await;

    for (vm, reason) in [
        ("nobody", "VmNotFound"),
        ("twin", "VmAmbiguous"),
        ("again", "AlreadyProtected"),
    ] {
        let stalled = |status: &ProtectedVMStatus| ready_reason(status) == Some(reason);
        let status = world.until_status(vm, reason, stalled).await;
        let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled");
        assert_eq!(stalled.unwrap().status, "True", "{vm}");
    }
    // Saying which one is meant is enough.
    let meant = {
        let hypervisor = second.hypervisor();
        blocking(move || {
            let machines = site_recovery::host::Hypervisor::machines(&hypervisor).unwrap();
            let twin = machines.into_iter().find(|machine| machine.name == "twin");
            twin.unwrap().id.to_string()
        })
        .await
    };
    let mut twin = protected_vm("twin");
    twin["spec"]["vm"] = json!({ "id": meant });
    world
        .stage
        .kubectl(&["delete", "pvm", "twin"], b"")
        .await
        .unwrap();
    world.apply(&[twin]).await;
    let status = world.until_protected("twin").await;
    assert_eq!(status.host.as_deref(), Some("hv2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_host_that_the_site_does_not_list_is_turned_away_in_sight() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut stranger = world.host("hv9").await;
    stranger.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;

    let api: Api<HyperVSite> = Api::namespaced(world.stage.client(), NAMESPACE);
    let refused = until("the refusal of hv9", async || {
        let status = api.get_opt(SITE).await.unwrap()?.status?;
        let mut refused = status.refused_agents.into_iter();
        refused.find(|agent| agent.host == "hv9")
    })
    .await;

    assert!(refused.reason.contains("spec.hosts does not list it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_storage_does_not_answer_says_first_what_it_waits_for() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    // It takes connections, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let account = world.stage.azurite.account().name.clone();
    let endpoint = format!("http://127.0.0.1:{port}/{account}");
    let site = world.site(&["hv1"], |spec| {
        spec["azure"]["storage"]["endpoint"] = json!(endpoint);
    });
    world.apply(&site).await;

    let said = world
        .until_site("Ready", |status, _| status == "False")
        .await;

    assert!(
        said.contains("the storage account has not answered yet"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_is_named_at_the_site_and_at_the_vm() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let site = world.site(&["hv1"], |spec| {
        spec["resynchronization"] = json!({ "window": { "timeZone": "Europe/Berln" } });
    });
    world.apply(&site).await;
    let mut web = protected_vm("web");
    web["metadata"]["annotations"] = json!({ "siterecovery.dev/sync_now": "1" });
    world.apply(&[web]).await;

    let invalid = |status: &str, said: &str| status == "True" && said.starts_with("InvalidSpec");
    let said = world.until_site("Stalled", invalid).await;
    assert!(
        said.contains("spec.resynchronization.window.timeZone"),
        "{said}"
    );
    assert_eq!(world.until_warned("web", "AnnotationIgnored").await, 1);
}
