//! The other side: a fixed VHD made by qemu-img, taken to a page blob by azcopy.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use site_recovery::blob::Account as _;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::Permissions;
use site_recovery::lab::process::Process;

use crate::image::Image;
use crate::measure::{self, Sample, Side, Usage, Watch};
use crate::stand::{Copy, Stand, Storage};

const CONTAINER: &str = "disks";
const BLOB: &str = "disk.vhd";
/// How often it is looked whether a tool has ended, and how much memory it has had.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) async fn run(
    stand: &Stand,
    storage: &Storage,
    image: &Image,
    folder: &Path,
) -> anyhow::Result<(Sample, Copy)> {
    storage.create(CONTAINER).await?;
    let permissions = Permissions {
        read: true,
        create: true,
        write: true,
        delete: false,
        list: true,
    };
    let signature = storage.signature(CONTAINER, permissions).await?;
    let target = format!(
        "{}/{CONTAINER}/{BLOB}?{}",
        storage.endpoint(),
        signature.expose()
    );
    let vhd = folder.join(BLOB);
    let mut convert = Command::new("qemu-img");
    convert
        .args(["convert", "-f", "vhdx", "-O", "vpc"])
        .args(["-o", "subformat=fixed,force_size=on"])
        .args([&image.path, &vhd]);
    let mut copy = Command::new(&stand.azcopy);
    copy.arg("copy")
        .arg(&vhd)
        .arg(&target)
        .args(["--from-to", "LocalBlob", "--blob-type", "PageBlob"])
        .args(["--log-level", "ERROR", "--output-type", "json"])
        .env("AZCOPY_LOG_LOCATION", folder)
        .env("AZCOPY_JOB_PLAN_LOCATION", folder)
        .env("AZCOPY_DISABLE_SYSLOG", "true");

    let watch = Watch::begin(&[("azurite", storage.process()?)])?;
    let begun = Instant::now();
    let (converted, _) = follow("qemu-img", &mut convert, &folder.join("qemu-img.log")).await?;
    let (copied, said) = follow("azcopy", &mut copy, &folder.join("azcopy.log")).await?;
    let took = begun.elapsed().as_secs_f64();
    let processes = BTreeMap::from([("qemu-img", converted), ("azcopy", copied)]);
    let (stand_ins, others_cpu_seconds) = watch.end(&processes)?;
    let sample = Sample {
        side: Side::Theirs,
        host_done_seconds: took,
        published_seconds: took,
        phases: Vec::new(),
        processes,
        sent_bytes: sent(&said).context("azcopy did not say how much it has sent")?,
        stand_ins,
        others_cpu_seconds,
    };
    let copy = Copy {
        container: storage.account.container(CONTAINER),
        blob: BlobRef::head(BLOB),
    };
    Ok((sample, copy))
}

/// Runs a tool to its end: what it used, and what it said.
async fn follow(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<(Usage, String)> {
    let mut process = Process::start(name, command, log)?;
    let mut used = Usage::default();
    while measure::runs(process.id())? {
        used.peak_bytes = used
            .peak_bytes
            .max(measure::usage(process.id())?.peak_bytes);
        tokio::time::sleep(LOOK).await;
    }
    used.cpu_seconds = measure::usage(process.id())?.cpu_seconds;
    let said = process.log().text();
    let ended = process.ended()?.context("it ended and still runs")?;
    anyhow::ensure!(ended.success(), "{name} ended with {ended}: {said}");
    Ok((used, said))
}

/// Bytes over the wire, as azcopy's last message has them: JSON in JSON.
fn sent(said: &str) -> Option<u64> {
    let end = said.lines().rev().find(|line| line.contains("EndOfJob"))?;
    let message: serde_json::Value = serde_json::from_str(end).ok()?;
    let content = message.get("MessageContent")?.as_str()?;
    let job: serde_json::Value = serde_json::from_str(content).ok()?;
    job.get("BytesOverWire")?.as_str()?.parse().ok()
}
