//! What follows the first copy: what tracking costs a guest, a delta, and a resynchronization beside `rsync`.
//!
//! ```text
//! the guest writes a quarter of the disk, untracked ─► first copy ─► it writes as much again, tracked ─► delta, some times
//!     ─► 2,000 scattered blocks ─► comparison, beside rsync --inplace --no-whole-file on the same disks, raw
//! ```
//! A guest is an NBD client of this program, one request at a time, with a flush at the end. It has written once before
//! anything is measured, so that all that it writes to later has its place in the image. rsync works from disk to disk on
//! this machine, without a network; ours goes through the emulator.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use site_recovery::lab::guest::client::Client;
use site_recovery::lab::process::Process;
use site_recovery::units::{KIB, MIB};

use crate::image::{Content, Image};
use crate::measure;
use crate::ours::{Lab, Replica, Role};
use crate::roles::{Ask, CloudSays, HostSays};
use crate::stand::{Stand, Storage};
use crate::verify;

/// Longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// Which part of the disk a guest writes in all, and over how much of the disk it writes that: three times on average.
const PART: u64 = 4;
const TIMES: u64 = 3;
const SPOT: u64 = 64 * KIB;
const CLUSTER: u64 = 4 * KIB;
/// Random bytes that a guest takes from.
const POOL: u64 = 64 * MIB;
/// Blocks that differ before a comparison.
const SCATTERED: u64 = 2000;
/// How often a guest writes untracked, and tracked; the median counts.
const RUNS: u64 = 3;

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changes {
    written_bytes: u64,
    untracked_seconds: Vec<f64>,
    tracked_seconds: Vec<f64>,
    deltas: Vec<Followed>,
    resync: Followed,
    rsync_seconds: f64,
    rsync_cpu_seconds: f64,
    /// BLAKE3 over the whole disk by one thread: the least that a comparison of all its bytes costs.
    hash_seconds: f64,
}

/// One barrier, from the order to the point.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Followed {
    sealed_seconds: f64,
    published_seconds: f64,
    host_cpu_seconds: f64,
    cloud_cpu_seconds: f64,
    sent_bytes: u64,
    page_requests: u64,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (untracked, tracked) = (
            median(&self.untracked_seconds),
            median(&self.tracked_seconds),
        );
        let overhead = (tracked / untracked - 1.0) * 100.0;
        let written = to_mib(self.written_bytes);
        writeln!(
            f,
            "guest writes {written:.0} MiB: {untracked:.2} s untracked, {tracked:.2} s tracked ({overhead:+.1} %)"
        )?;
        for delta in &self.deltas {
            writeln!(f, "delta of them:      {delta}")?;
        }
        writeln!(f, "resynchronization:  {}", self.resync)?;
        writeln!(
            f,
            "rsync --inplace:    {:.2} s, CPU {:.2} s; BLAKE3 of the disk, one thread: {:.2} s",
            self.rsync_seconds, self.rsync_cpu_seconds, self.hash_seconds
        )?;
        let (sealed, published) = (self.resync.sealed_seconds, self.resync.published_seconds);
        write!(
            f,
            "until all is shipped {:.2} of rsync's time; applying adds {:.2} s",
            sealed / self.rsync_seconds,
            published - sealed
        )
    }
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sealed {:.2} s, published {:.2} s, CPU of host {:.2} s, of cloud {:.2} s, sent {:.1} MiB, {} page requests",
            self.sealed_seconds,
            self.published_seconds,
            self.host_cpu_seconds,
            self.cloud_cpu_seconds,
            to_mib(self.sent_bytes),
            self.page_requests
        )
    }
}

pub(crate) async fn run(
    stand: &Stand,
    size: u64,
    data: u64,
    folder: &Path,
) -> anyhow::Result<Changes> {
    let path = folder.join("disk.vhdx");
    let made = tokio::task::spawn_blocking(move || Image::make(path, Content::Random, size, data));
    let image = made.await??;
    let storage = stand.storage(&folder.join("storage")).await?;
    let lab = Lab::start(&image, folder).await?;
    lab.guest(0, scribble).await?;
    let mut untracked_seconds = Vec::new();
    for run in 1..=RUNS {
        untracked_seconds.push(lab.guest(run, scribble).await?);
    }
    let mut pair = Pair::start(&storage, &lab, &image, folder).await?;
    pair.follow(None).await?;
    let (mut tracked_seconds, mut deltas) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        tracked_seconds.push(lab.guest(RUNS + run, scribble).await?);
        deltas.push(pair.follow(Some(Ask::Synchronize)).await?);
    }
    let before = folder.join("before.raw");
    pair.download(&image, &before).await?;
    lab.guest(2 * RUNS + 1, scatter).await?;
    let resync = pair.follow(Some(Ask::Compare)).await?;
    let copy = pair.replica.copy().await?;
    pair.end().await?;
    lab.end().await?;
    verify::verify(&copy, &image, folder).await?;
    // What the image holds now is what rsync brings the earlier state to.
    let after = folder.join("copy.raw");
    let (rsync_seconds, rsync_cpu_seconds) = rsync(&after, &before, folder).await?;
    let hash_seconds = hash(&after)?;
    Ok(Changes {
        written_bytes: size / PART,
        untracked_seconds,
        tracked_seconds,
        deltas,
        resync,
        rsync_seconds,
        rsync_cpu_seconds,
        hash_seconds,
    })
}

/// Host and cloud of one replica.
struct Pair {
    replica: Replica,
    host: Role,
    cloud: Role,
    points: usize,
    barriers: u64,
    sent: u64,
    page_requests: u64,
}

impl Pair {
    async fn start(
        storage: &Storage,
        lab: &Lab,
        image: &Image,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let replica = Replica::create(storage, lab, image.size).await?;
        let (mut host, mut cloud) = (Role::start("host")?, Role::start("cloud")?);
        cloud.order(&replica.cloud_order(storage)).await?;
        let order = replica.host_order(storage, lab, folder).await?;
        host.order(&order).await?;
        Ok(Pair {
            replica,
            host,
            cloud,
            points: 0,
            barriers: 0,
            sent: 0,
            page_requests: 0,
        })
    }

    /// Asks for something, and waits until its barrier is sealed and its point published.
    async fn follow(&mut self, ask: Option<Ask>) -> anyhow::Result<Followed> {
        let (host, cloud) = (self.host.usage()?, self.cloud.usage()?);
        if let Some(ask) = ask {
            self.host.order(&ask).await?;
        }
        if ask != Some(Ask::Synchronize) {
            // An engine that begins anew counts anew.
            self.barriers = 0;
        }
        let (begun, page_requests) = (Instant::now(), self.page_requests);
        let anew = ask == Some(Ask::Compare);
        let waited = tokio::time::timeout(PATIENCE, self.wait(begun, anew)).await;
        let (sealed_seconds, published_seconds, sent) = waited.context("it does not end")??;
        let sent_bytes = sent - std::mem::replace(&mut self.sent, sent);
        let page_requests = self.page_requests - page_requests;
        Ok(Followed {
            sealed_seconds,
            published_seconds,
            host_cpu_seconds: self.host.usage()?.cpu_seconds - host.cpu_seconds,
            cloud_cpu_seconds: self.cloud.usage()?.cpu_seconds - cloud.cpu_seconds,
            sent_bytes,
            page_requests,
        })
    }

    /// With `anew`, what a host says of the engine before does not count.
    async fn wait(&mut self, begun: Instant, mut anew: bool) -> anyhow::Result<(f64, f64, u64)> {
        let (mut sealed, mut published, mut sent) = (None, None, self.sent);
        loop {
            tokio::select! {
                said = self.host.hear::<HostSays>() => {
                    let said = said?;
                    anyhow::ensure!(said.trouble.is_none(), "the host: {:?}", said.trouble);
                    anew &= said.done;
                    if said.done && !anew && said.barriers > self.barriers {
                        (self.barriers, sent) = (said.barriers, said.sent);
                        sealed.get_or_insert(begun.elapsed().as_secs_f64());
                    }
                    self.cloud.order(&"there may be more").await?;
                }
                said = self.cloud.hear::<CloudSays>() => {
                    let said = said?;
                    anyhow::ensure!(said.trouble.is_none(), "the cloud: {:?}", said.trouble);
                    self.page_requests = said.page_requests;
                    if said.points > self.points {
                        self.points = said.points;
                        published = Some(begun.elapsed().as_secs_f64());
                    }
                }
            }
            if let (Some(sealed), Some(published)) = (sealed, published) {
                return Ok((sealed, published, sent));
            }
        }
    }

    async fn download(&self, image: &Image, path: &Path) -> anyhow::Result<()> {
        verify::download(&self.replica.copy().await?, image.size, path).await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.host.end().await?;
        self.cloud.end().await
    }
}

/// Writes of 4 to 64 KiB over spots of the disk, random bytes.
fn scribble(client: &mut Client, random: &mut StdRng) -> anyhow::Result<f64> {
    let written = client.size() / PART;
    let spots = written / TIMES / SPOT;
    let stride = client.size() / spots / CLUSTER * CLUSTER;
    // Made before, and so long that no log has anything of it twice.
    let mut data = vec![0; usize::try_from(POOL)?];
    random.fill(data.as_mut_slice());
    let begun = Instant::now();
    let mut left = written;
    while left > 0 {
        let length = (random.random_range(1..=SPOT / CLUSTER) * CLUSTER).min(left);
        let from = usize::try_from(random.random_range(0..=POOL - SPOT))?;
        let piece = &data[from..from + usize::try_from(length)?];
        client.write(random.random_range(0..spots) * stride, piece)?;
        left -= length;
    }
    client.flush()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Blocks of 4 KiB here and there.
fn scatter(client: &mut Client, random: &mut StdRng) -> anyhow::Result<f64> {
    let stride = client.size() / SCATTERED / CLUSTER * CLUSTER;
    let mut data = vec![0; usize::try_from(CLUSTER)?];
    let begun = Instant::now();
    for block in 0..SCATTERED {
        random.fill(data.as_mut_slice());
        client.write(block * stride, &data)?;
    }
    client.flush()?;
    Ok(begun.elapsed().as_secs_f64())
}

impl Lab {
    /// Has a guest write: how many seconds that took.
    async fn guest(
        &self,
        seed: u64,
        work: fn(&mut Client, &mut StdRng) -> anyhow::Result<f64>,
    ) -> anyhow::Result<f64> {
        let (address, export) = self.export()?;
        let written = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&address, &export, PATIENCE)?;
            let took = work(&mut client, &mut StdRng::seed_from_u64(seed))?;
            client.disconnect();
            anyhow::Ok(took)
        });
        written.await?
    }
}

/// Brings `to` to the state of `from`: seconds, and those of its processors.
async fn rsync(from: &Path, to: &Path, folder: &Path) -> anyhow::Result<(f64, f64)> {
    let mut command = Command::new("rsync");
    command
        .args(["--inplace", "--no-whole-file", "--ignore-times"])
        .args([from, to]);
    let before = children_seconds()?;
    let begun = Instant::now();
    let mut process = Process::start("rsync", &mut command, &folder.join("rsync.log"))?;
    while measure::runs(process.id())? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let ended = process.ended()?.context("it ended and still runs")?;
    anyhow::ensure!(ended.success(), "rsync ended with {ended}");
    Ok((took, children_seconds()? - before))
}

/// Processor time of all children that have ended, and theirs.
fn children_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
    let times = fields.into_iter().flatten().skip(13).take(2);
    let ticks: u64 = times.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10).as_secs_f64())
}

fn hash(path: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    std::hint::black_box(hasher.finalize());
    Ok(begun.elapsed().as_secs_f64())
}

/// The middle one, or the higher of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn to_mib(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes.
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}
