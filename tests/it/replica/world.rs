//! A replica, recorded in a site, and the command line that works on it.

use std::path::Path;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde_json::Value;
use site_recovery::controller::documents;
use site_recovery::datapath::content::Progress;
use site_recovery::datapath::inspect::Error;
use site_recovery::datapath::verify::report::Report;
use site_recovery::datapath::verify::{self, Options};
use site_recovery::engine::phase::Phase;
use site_recovery::ids::ObjectName;
use site_recovery::replica::names;
use site_recovery::replica::owner::Owner;
use site_recovery::replica::record::Record;

use crate::replication::model::vm;
use crate::replication::world::{Running, World};

pub(crate) const MIB: usize = 1 << 20;
/// Two disks: one is copied in several parts, the other ends in the midst of a chunk.
pub(crate) const SIZES: [usize; 2] = [40 * MIB, 5 * MIB + 512];

/// What a command did.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Random megabytes, even ones, and holes.
pub(crate) fn fill(world: &World) {
    let mut data = vec![0; MIB];
    for (disk, size) in SIZES.iter().enumerate() {
        let mut random = StdRng::seed_from_u64(disk as u64);
        for megabyte in 0..size / MIB {
            match megabyte % 3 {
                0 => random.fill(data.as_mut_slice()),
                1 => data.fill(7),
                _ => continue,
            }
            world.model.write(disk, megabyte * MIB, &data);
        }
    }
    world.model.write(1, SIZES[1] - 512, &[9; 512]);
}

/// A world whose disks were copied while the guest wrote, nothing of it applied yet.
pub(crate) async fn sealed() -> (World, Running) {
    let world = World::new(&SIZES).await;
    fill(&world);
    let mut engine = world.start().await;
    engine
        .wait_for(|phase| matches!(phase, Phase::Copying { .. }))
        .await;
    // Parts of chunks, of which the table then has no hash.
    world.model.write(0, 300_000, &[5; 5000]);
    world.model.write(1, 100_000, &[0; 70_000]);
    engine.wait_until_replicating().await;
    (world, engine)
}

/// A world with a recovery point.
pub(crate) async fn published() -> World {
    let (world, _engine) = sealed().await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    assert_eq!(world.manifest().await.points.len(), 1);
    world
}

/// A name that no other test records in the same account.
pub(crate) fn object(world: &World) -> ObjectName {
    ObjectName::new("default", &format!("web-{}", world.cloud.id)).unwrap()
}

/// Records the replica in a site of its own.
pub(crate) async fn record(world: &World) -> String {
    let site = ObjectName::new("default", &format!("site-{}", world.cloud.id)).unwrap();
    let name = world.prefix.site(&site);
    assert!(world.account.create_container(&name).await.unwrap());
    let container = world.account.container(&name);
    let owner = Owner {
        term: 0,
        cluster: "a-cluster".to_owned(),
        site,
    };
    let record = Record::new(
        object(world),
        world.cloud.id.clone(),
        (vm(), "model".to_owned()),
        Timestamp::UNIX_EPOCH,
    );
    let put = documents::create(container.as_ref(), names::OWNER, owner).await;
    put.unwrap();
    let put = documents::create(container.as_ref(), &names::record(&object(world)), record).await;
    put.unwrap();
    name
}

/// Runs `site-recovery replica …` against the world's account, with its key.
pub(crate) fn replica(world: &World, args: &[&str]) -> Done {
    replica_with(
        world,
        args,
        ("AZURE_STORAGE_KEY", world.emulator.key_text()),
    )
}

/// As [`replica`], with other credentials.
pub(crate) fn replica_with(world: &World, args: &[&str], right: (&str, &str)) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-recovery"));
    command
        .arg("replica")
        .args(args)
        .args(["--endpoint", &world.emulator.endpoint().to_string()])
        .env_remove("AZURE_STORAGE_KEY")
        .env_remove("AZURE_STORAGE_ACCOUNT")
        .env(right.0, right.1)
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Verifies all of the replica.
pub(crate) async fn verified(world: &World) -> Result<Report, Error> {
    verify::verify(&world.cloud, &Options::default(), &Progress::default()).await
}

/// Everything in both containers of the replica, with its version.
pub(crate) async fn contents(world: &World) -> Vec<String> {
    use site_recovery::blob::{parameters::Include, walk};
    let include = Include {
        snapshots: true,
        metadata: true,
    };
    let mut all = Vec::new();
    for container in [&world.cloud.inbox, &world.cloud.replica] {
        let listed = walk::blobs(container.as_ref(), "", include, 10_000).await;
        let items = listed.unwrap().items;
        all.extend(items.iter().map(|item| format!("{item:?}")));
    }
    all.sort();
    all
}

/// The names in a folder.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
