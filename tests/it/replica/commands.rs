//! What the commands print, and what they restore.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use site_recovery::blob::parameters::Permissions;
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, OpenOptions};
use site_recovery::lab::tools::debian;

use super::world::{SIZES, names_in, object, published, record, replica, replica_with};
use crate::outside::{run, tool};
use crate::replication::world::World;

fn frozen(world: &World, disk: &str) -> Vec<u8> {
    let (_, slot) = world
        .disks
        .iter()
        .find(|(id, _)| id.as_str() == disk)
        .unwrap();
    world.model.last_frozen(&world.witness)[slot].to_vec()
}

/// The disk in an image, as qemu reads it.
fn by_qemu(image: &Path, format: &str) -> Vec<u8> {
    let raw = image.with_extension("by-qemu");
    run(tool("qemu-img", debian::QEMU_UTILS)
        .args(["convert", "-f", format, "-O", "raw"])
        .args([image, &raw]));
    std::fs::read(raw).unwrap()
}

/// The disk in a fixed VHD, as 7-Zip reads it.
fn by_7zip(image: &Path) -> Vec<u8> {
    run(tool("7zz", debian::SEVEN_ZIP)
        .args(["e", "-so", "-tvhd"])
        .arg(image))
}

#[tokio::test]
async fn an_account_lists_its_sites_objects_and_replicas() {
    // Given a replica with a record, and one without
    let world = published().await;
    let site = record(&world).await;
    let loose = World::new(&[1 << 20]).await;
    // When the account is listed
    let listed = replica(&world, &["list", "--prefix", "it", "--json"]).json();
    // Then both are there
    let sites = listed["sites"].as_array().unwrap();
    let found = sites
        .iter()
        .find(|found| found["container"] == site.as_str());
    let found = found.unwrap();
    assert_eq!(found["cluster"], "a-cluster");
    assert_eq!(found["objects"][0]["object"], object(&world).to_string());
    assert_eq!(found["objects"][0]["replica"], world.cloud.id.as_str());
    let unrecorded = listed["unrecorded"].as_array().unwrap();
    let has = |id: &str| unrecorded.iter().any(|one| one["replica"] == id);
    assert!(has(loose.cloud.id.as_str()));
    assert!(!has(world.cloud.id.as_str()));
    let text = replica(&world, &["list"]).stdout;
    assert!(
        text.contains(world.cloud.id.as_str()) && text.contains("model"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lists_an_account_that_hangs_is_told_what_is_waited_for_and_may_give_up() {
    // Given an endpoint that takes connections and never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/devstoreaccount1", silent.local_addr().unwrap());
    // When it is asked with a limit
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-recovery"));
    command
        .args(["replica", "list", "--timeout", "5", "--endpoint", &endpoint])
        .env("AZURE_STORAGE_KEY", "a2V5");
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    // Then it is told while it waits, and gives up with a remedy for whoever typed it
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let waits = format!("waits for {endpoint}");
    assert!(said.contains(&waits), "{said}");
    assert!(said.contains("within 5 seconds (Check --account"), "{said}");
}

#[tokio::test]
async fn a_vm_lists_its_points_heads_and_inbox() {
    let world = published().await;
    let listed = replica(&world, &["list", world.cloud.id.as_str(), "--json"]).json();
    let manifest = world.manifest().await;
    let point = &listed["points"][0];
    assert_eq!(point["id"], manifest.points[0].id.as_str());
    assert_eq!(point["time"], manifest.points[0].barrier.time.to_string());
    assert_eq!(point["consistency"], "Crash");
    assert_eq!(point["disks"].as_array().unwrap().len(), 2);
    assert!(point["ageSeconds"].as_i64().unwrap() >= 0);
    let sizes: u64 = point["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["size"].as_u64().unwrap())
        .sum();
    assert_eq!(sizes, u64::try_from(SIZES.iter().sum::<usize>()).unwrap());
    assert!(
        listed["disks"][0]["head"]["consistent"].is_object(),
        "{listed}"
    );
    assert_eq!(listed["inbox"]["sealed"], 0);
    let text = replica(&world, &["list", world.cloud.id.as_str()]);
    assert!(text.stdout.contains("Consistent at"), "{}", text.stdout);
    assert!(text.stdout.contains("nothing is sealed"), "{}", text.stdout);
}

#[tokio::test]
async fn restored_disks_are_what_was_frozen_as_others_read_them() {
    let world = published().await;
    let id = world.cloud.id.as_str();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    for (format, at_qemu) in [("vhd", "vpc"), ("vhdx", "vhdx"), ("raw", "raw")] {
        // When all disks are restored
        let args = [
            "restore", id, "--output", output, "--format", format, "--json",
        ];
        let restored = replica(&world, &args).json();
        let disks = restored["disks"].as_array().unwrap();
        assert_eq!(disks.len(), 2);
        for disk in disks {
            let name = disk["disk"].as_str().unwrap();
            let file = Path::new(disk["file"].as_str().unwrap());
            // Then each is what was frozen, as qemu and 7-Zip read it,
            let frozen = frozen(&world, name);
            assert!(by_qemu(file, at_qemu) == frozen, "{name} as {format}");
            if format == "vhd" {
                assert!(by_7zip(file) == frozen, "{name} by 7-Zip");
                let opened = formats::open(file, &OpenOptions::default()).unwrap();
                assert_eq!(opened.info().format, Format::Vhd);
                assert_eq!(opened.size(), frozen.len() as u64);
            }
            // takes no space where it is zero,
            if format != "vhdx" {
                let taken = file.metadata().unwrap().blocks() * 512;
                assert!(taken < frozen.len() as u64, "{taken} bytes");
            }
            // and was compared.
            let compared = &disk["compared"];
            assert_eq!(compared["differing"], 0);
            assert!(compared["hashed"].as_u64().unwrap() > 0);
        }
    }
    let names = names_in(folder.path());
    assert!(
        names.iter().all(|name| !name.contains(".tmp-")),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_file_that_is_there_stays_unless_it_is_forced_away() {
    let world = published().await;
    let id = world.cloud.id.as_str();
    let disk = world.disks.keys().next_back().unwrap().as_str();
    let point = world.manifest().await.points[0].id.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.vhd");
    std::fs::write(&file, "precious").unwrap();
    let args = [
        "restore",
        id,
        "--point",
        &point[..8],
        "--disk",
        disk,
        "-o",
        file.to_str().unwrap(),
    ];
    let done = replica(&world, &args);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("there already"), "{}", done.stderr);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let done = replica(&world, &[&args[..], &["--force"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(by_7zip(&file) == frozen(&world, disk));
    // What is not there is named
    let done = replica(&world, &["restore", id, "--disk", "scsi:3:3", "-o", "x"]);
    assert!(done.stderr.contains("scsi:3:3"), "{}", done.stderr);
    let done = replica(&world, &["restore", id, "--point", "zzzz", "-o", "x"]);
    assert!(
        done.stderr.contains("no recovery point zzzz"),
        "{}",
        done.stderr
    );
}

#[tokio::test]
async fn a_replica_is_found_by_its_object() {
    let world = published().await;
    record(&world).await;
    let name = object(&world).to_string();
    let done = replica(&world, &["verify", &name, "--without-content"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stdout.contains(world.cloud.id.as_str()),
        "{}",
        done.stdout
    );
    let done = replica(&world, &["list", "default/nobody"]);
    assert!(done.stderr.contains("StorageNotFound"), "{}", done.stderr);
}

/// A signature for the whole account: read and list, all levels of the blob service (Create an account SAS).
fn account_signature(world: &World, start: &str, expiry: &str) -> String {
    let (account, key) = (world.emulator.endpoint(), world.emulator.key_text());
    let text = [
        account.account(),
        "rl",
        "b",
        "sco",
        start,
        expiry,
        "",
        "https,http",
        "2023-11-03",
        "",
        "",
    ]
    .join("\n");
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(key).unwrap()).unwrap();
    mac.update(text.as_bytes());
    let signature = STANDARD
        .encode(mac.finalize().into_bytes())
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    format!(
        "sv=2023-11-03&ss=b&srt=sco&sp=rl&st={start}&se={expiry}&spr=https,http&sig={signature}"
    )
}

#[tokio::test]
async fn a_signature_that_may_read_and_list_is_enough_for_all() {
    // Given a signature for the account, without the right to change anything
    let world = published().await;
    record(&world).await;
    let sas = account_signature(&world, "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
    let by_signature =
        |args: &[&str]| replica_with(&world, args, ("AZURE_STORAGE_SAS_TOKEN", &sas));
    // Then the replica is found, verified and restored, and the signature is not shown.
    let name = object(&world).to_string();
    let done = by_signature(&["verify", &name]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    let done = by_signature(&["restore", &name, "-o", output]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(names_in(folder.path()).len(), 2);
    assert!(!done.stdout.contains("sig=") && !done.stderr.contains("sig="));
}

#[tokio::test]
async fn a_signature_for_the_replica_alone_lists_and_verifies_it_without_its_inbox() {
    // Given a signature that may read and list the replica's container, and nothing else
    let world = published().await;
    let id = world.cloud.id.as_str();
    let now = Timestamp::now();
    let (start, expiry) = (
        now - Duration::from_secs(600),
        now + Duration::from_secs(3600),
    );
    let container = world.prefix.replica(&world.cloud.id);
    let sas = world
        .account
        .sas(&container, Permissions::REPLICA, start, expiry)
        .await;
    let sas = sas.unwrap();
    let by_signature = |args: &[&str]| {
        let args = [args, &["--prefix", "it"]].concat();
        replica_with(&world, &args, ("AZURE_STORAGE_SAS_TOKEN", sas.expose()))
    };
    // Then all is said that it shows. The emulator refuses snapshots by it: it takes the snapshot for a signed value.
    let done = by_signature(&["verify", id, "--without-content"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("was not verified"), "{}", done.stdout);
    let done = by_signature(&["list", id]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("cannot be listed"), "{}", done.stdout);
    assert!(!done.stdout.contains("sig=") && !done.stderr.contains("sig="));
}
