//! What a run cost, from the kernel's own accounts: no sampling but for the peak of a process that ends by itself.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Serialize;

pub(crate) use crate::process::{Usage, seconds, usage};

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// qemu-img and azcopy.
    Theirs,
    Ours,
}

impl Side {
    pub(crate) const ALL: [Side; 2] = [Side::Theirs, Side::Ours];
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Theirs => "qemu-img + azcopy",
            Side::Ours => "site-recovery",
        })
    }
}

/// One run of one side.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(crate) side: Side,
    /// Until the host is done: everything is sealed in storage, or the copy tool has ended.
    pub(crate) host_done_seconds: f64,
    /// Until the copy can be used: the first recovery point is published, or the copy tool has ended.
    pub(crate) published_seconds: f64,
    /// When the host entered which phase, if it told.
    pub(crate) phases: Vec<(String, f64)>,
    /// The processes of this side.
    pub(crate) processes: BTreeMap<&'static str, Usage>,
    /// Bytes that left the host.
    pub(crate) sent_bytes: u64,
    /// What stands for others: the emulator, and the hypervisor.
    pub(crate) stand_ins: BTreeMap<&'static str, Usage>,
    /// What everything else on the machine used of its processors in that time.
    pub(crate) others_cpu_seconds: f64,
}

impl Sample {
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes.values().map(|usage| usage.cpu_seconds).sum()
    }

    /// The peaks of processes that run at the same time add up; of those that follow one another the largest counts.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let peaks = self.processes.values().map(|usage| usage.peak_bytes);
        match self.side {
            Side::Theirs => peaks.max().unwrap_or(0),
            Side::Ours => peaks.sum(),
        }
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: host done {:.2} s, published {:.2} s, CPU {:.2} s (others {:.2} s), peak {} MiB",
            self.side,
            self.host_done_seconds,
            self.published_seconds,
            self.cpu_seconds(),
            self.others_cpu_seconds,
            self.peak_bytes() >> 20
        )
    }
}

/// Whether a child still runs. How it ended can still be asked for afterwards, and what it used.
pub(crate) fn runs(child: u32) -> anyhow::Result<bool> {
    let id = i32::try_from(child).ok().and_then(Pid::from_raw);
    let id = id.context("this is no process")?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    Ok(waitid(WaitId::Pid(id), options)?.is_none())
}

/// What all processors have done since the machine was started, in seconds.
pub(crate) fn machine_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    anyhow::ensure!(fields.len() >= 8, "/proc/stat is not understood");
    // All but the fourth and fifth, which are idle time; what comes after the eighth is contained in others.
    let busy = fields[..8].iter().sum::<u64>() - fields[3] - fields[4];
    Ok(seconds(busy))
}

/// Follows one run: what is used between its beginning and its end.
pub(crate) struct Watch {
    stand_ins: BTreeMap<&'static str, (u32, Usage)>,
    machine: f64,
    own: f64,
}

impl Watch {
    /// `stand_ins` are processes that belong to neither side.
    pub(crate) fn begin(stand_ins: &[(&'static str, u32)]) -> anyhow::Result<Self> {
        let used =
            |(name, process): &(&'static str, u32)| Ok((*name, (*process, usage(*process)?)));
        Ok(Watch {
            stand_ins: stand_ins.iter().map(used).collect::<anyhow::Result<_>>()?,
            machine: machine_seconds()?,
            own: usage(std::process::id())?.cpu_seconds,
        })
    }

    /// What the stand-ins used, and what all others did, beside the `processes` of the side that was measured.
    pub(crate) fn end(
        self,
        processes: &BTreeMap<&'static str, Usage>,
    ) -> anyhow::Result<(BTreeMap<&'static str, Usage>, f64)> {
        let mut others = machine_seconds()? - self.machine;
        others -= usage(std::process::id())?.cpu_seconds - self.own;
        others -= processes
            .values()
            .map(|usage| usage.cpu_seconds)
            .sum::<f64>();
        let mut stand_ins = BTreeMap::new();
        for (name, (process, before)) in self.stand_ins {
            let mut used = usage(process)?;
            used.cpu_seconds -= before.cpu_seconds;
            others -= used.cpu_seconds;
            stand_ins.insert(name, used);
        }
        Ok((stand_ins, others.max(0.0)))
    }
}
