//! What a process uses, from the kernel's own accounts.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

/// In which `/proc` counts time: `USER_HZ`, which is 100 on every architecture that Rust has.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu_seconds: f64,
    /// The memory that it has resident, in bytes.
    pub(crate) resident_bytes: u64,
    /// The most that it had resident at once.
    pub(crate) peak_bytes: u64,
}

/// What a process has used so far. Of one that has ended only the time is known.
pub(crate) fn usage(process: u32) -> anyhow::Result<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    Ok(Usage {
        cpu_seconds: seconds(ticks(process)?),
        resident_bytes: bytes(&status, "VmRSS:").unwrap_or(0),
        peak_bytes: bytes(&status, "VmHWM:").unwrap_or(0),
    })
}

/// User and system time, in ticks.
fn ticks(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name, in brackets, may hold anything.
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
    let times = fields.into_iter().flatten().skip(11).take(2);
    let times: Vec<u64> = times.filter_map(|field| field.parse().ok()).collect();
    anyhow::ensure!(times.len() == 2, "{path} is not understood");
    Ok(times.iter().sum())
}

fn bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

pub(crate) fn seconds(ticks: u64) -> f64 {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND).as_secs_f64()
}
