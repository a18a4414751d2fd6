//! How healthy a VM's replication is: every reason at once, each with its numbers. Pure.
//!
//! The rules are Hyper-V Replica's, over the monitoring interval:
//!
//! | reason | | when |
//! |---|---|---|
//! | an error's code | Critical | it waits for a human; or it was tried again until the schedule is at its end |
//! | an error's code | Warning | it is tried again |
//! | `ResynchronizationRequired` | Critical | disks have to be compared, and it has not begun |
//! | `Resynchronizing`, `Suspended`, `NoRecoveryPoint`, `AgentUnreachable` | Warning | while it is so |
//! | `CyclesMissed` | Warning | more than a fifth of the cycles, of five at least |
//! | `NotSynchronized` | Warning | nothing was sealed for more than an hour |
//! | `LatencyHigh` | Warning | from barrier to seal more than five minutes, or than the interval if that is longer |
//! | `ProcessingBehind` | Warning | what is sealed waits for the data path: fifteen minutes, or three intervals |
//! | `ChangesPileUp` | Warning | the RPO is missed, and a disk nears the half of its size in changes |
//! | `GuestQuiesceFailed` | Warning | the last point that should be application-consistent is not |
//!
//! A machine that is off and unchanged is none of these. What comes and goes within [`HOLD`] alarms nobody: all but errors
//! that wait for a human, and states that somebody chose, have to last that long.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::vm_status::Health;
use crate::controller::vm::exposure::{Counted, age};
use crate::controller::vm::growth::{Forecast, Growing};
use crate::controller::vm::pause::Pause;
use crate::controller::vm::retries::Failure;
use crate::controller::vm::rpo;
use crate::host::Volume;
use crate::report::{Code, Fault};
use crate::units::Bytes;
use crate::wire::observation::{Phase, Resync};

/// How long something lasts before it alarms anybody.
pub const HOLD: Duration = Duration::from_secs(300);
/// Attempts after which the schedule of retries is at its longest pause: 25 minutes have passed.
const EXHAUSTED: u32 = 6;
/// Cycles of which fewer say nothing about missed ones.
const CYCLES: u64 = 5;
/// More percent of missed cycles than this are a Warning.
const MISSED: u64 = 20;
const HOUR: Duration = Duration::from_secs(3600);
const LATENCY: Duration = Duration::from_secs(300);
const PROCESSING: Duration = Duration::from_secs(900);

/// What health is judged by.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    pub point: bool,
    pub pause: Option<Pause>,
    /// Whether the agent has been silent for long.
    pub silent: bool,
    pub phase: Option<Phase>,
    pub resync: Option<&'a Resync>,
    pub quiesce: Option<&'a Fault>,
    pub failures: &'a [Failure],
    pub counted: Counted,
    /// From one barrier to the next.
    pub interval: Duration,
    /// How long ago everything was uploaded, and was in a recovery point.
    pub uploaded: Option<Duration>,
    pub processed: Option<Duration>,
    pub growing: &'a [Growing],
    /// The volumes that the machine's disks lie on.
    pub volumes: &'a [Volume],
}

/// Why a VM is not as healthy as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One word for programs.
    pub code: String,
    pub critical: bool,
    /// What it is, with the numbers.
    pub text: String,
    /// Whether it counts at once.
    at_once: bool,
}

impl Reason {
    fn warning(code: &str, text: impl Into<String>) -> Self {
        Reason {
            code: code.to_owned(),
            critical: false,
            text: text.into(),
            at_once: false,
        }
    }

    /// As a status shows it.
    pub fn line(&self) -> String {
        format!("{}: {}", self.code, self.text)
    }
}

/// The worst of `reasons`.
pub fn health(reasons: &[Reason]) -> Health {
    match reasons {
        [] => Health::Normal,
        some if some.iter().any(|reason| reason.critical) => Health::Critical,
        _ => Health::Warning,
    }
}

/// All reasons that hold now, whether or not they have held long.
pub fn reasons(of: &Situation<'_>) -> Vec<Reason> {
    let mut all: Vec<Reason> = Vec::new();
    for failure in of.failures {
        let reason = failed(failure, of.volumes);
        match all.iter_mut().find(|held| held.code == reason.code) {
            Some(held) if !held.critical => *held = reason,
            Some(_) => {}
            None => all.push(reason),
        }
    }
    all.extend(states(of));
    if of.point && of.pause.is_none() {
        all.extend(trends(of));
        all.extend(growth(of));
    }
    all.sort_by_key(|reason| !reason.critical);
    all
}

fn failed(failure: &Failure, volumes: &[Volume]) -> Reason {
    let trouble = &failure.trouble;
    let fault = &trouble.fault;
    let mut text = format!("{} ({})", fault.message, fault.code.remedy());
    if fault.code == Code::HostDiskFull && !volumes.is_empty() {
        let free = |volume: &Volume| format!("{} has {} free", volume.name, Bytes(volume.free));
        let all: Vec<String> = volumes.iter().map(free).collect();
        text = format!("{text}; of the VM's volumes {}", all.join(", "));
    }
    Reason {
        code: fault.code.to_string(),
        critical: trouble.needs_human() || trouble.attempts >= EXHAUSTED,
        text,
        at_once: trouble.needs_human(),
    }
}

/// What is so by state, not by trend.
fn states(of: &Situation<'_>) -> Vec<Reason> {
    let mut all = Vec::new();
    if of.silent {
        let text = "the agent of the VM's host has not been heard of for more than 5 minutes; check its service and that \
                    it reaches the gateway";
        all.push(Reason {
            at_once: true,
            ..Reason::warning("AgentUnreachable", text)
        });
    }
    if let Some(text) = paused(of) {
        all.push(Reason {
            at_once: true,
            ..Reason::warning("Suspended", text)
        });
    }
    if !of.point {
        let text = "there is no recovery point yet";
        all.push(Reason {
            at_once: true,
            ..Reason::warning("NoRecoveryPoint", text)
        });
    }
    let resync = of.resync.filter(|_| of.point);
    match (of.phase, resync) {
        (Some(Phase::ResyncRequired), resync) => {
            let why = resync.map_or("", |resync| resync.reason.message.as_str());
            let text = format!(
                "replication has stopped until disks are compared with their replica: {why}"
            );
            all.push(Reason {
                critical: true,
                ..Reason::warning("ResynchronizationRequired", text)
            });
        }
        (_, Some(resync)) => {
            let text = format!(
                "{} disks are being compared with their replica: {}",
                resync.disks.len(),
                resync.reason.message
            );
            all.push(Reason::warning("Resynchronizing", text));
        }
        (_, None) => {}
    }
    if let Some(fault) = of.quiesce {
        all.push(Reason::warning(
            Code::GuestQuiesceFailed.as_str(),
            format!(
                "the last point is crash-consistent instead of application-consistent: {}",
                fault.message
            ),
        ));
    }
    all
}

/// Who has paused replication, where that is worth an alarm.
const fn paused(of: &Situation<'_>) -> Option<&'static str> {
    match (of.pause, of.phase) {
        (Some(Pause::Vm), _) => {
            Some("replication is paused by spec.suspend of the VM; changes pile up on the host")
        }
        (Some(Pause::Site), _) => Some(
            "replication is paused by spec.suspend of its HyperVSite; changes pile up on the host",
        ),
        (None, Some(Phase::Suspended)) => {
            Some("replication was paused, and its agent has not gone on yet")
        }
        (Some(Pause::Maintenance) | None, _) => None,
    }
}

fn trends(of: &Situation<'_>) -> Vec<Reason> {
    let mut all = Vec::new();
    let Counted {
        completed, missed, ..
    } = of.counted;
    // A transfer that overruns is counted when it ends; until then the cycles that it costs are those since its barrier.
    let overdue = of
        .uploaded
        .map_or(0, |behind| behind.as_secs() / of.interval.as_secs().max(1));
    let missed = missed.saturating_add(overdue.saturating_sub(1));
    let due = completed.saturating_add(missed);
    let percent = missed.saturating_mul(100).checked_div(due).unwrap_or(0);
    if due >= CYCLES && percent > MISSED {
        let text = format!(
            "{missed} of {due} cycles of the last 12 hours were not shipped before the next was due ({percent} %); more \
             than {MISSED} % are too many: widen the link, or lengthen the copy interval"
        );
        all.push(Reason::warning("CyclesMissed", text));
    }
    if let Some(behind) = of.uploaded.filter(|behind| *behind > HOUR) {
        let text = format!(
            "nothing was sent for {}, and an hour is the most",
            said(behind)
        );
        all.push(Reason::warning("NotSynchronized", text));
    }
    let most = LATENCY.max(of.interval);
    if let Some(latency) = of
        .counted
        .latency()
        .filter(|latency| completed >= CYCLES && *latency > most)
    {
        let (latency, most) = (said(latency), said(most));
        let text = format!(
            "from a barrier until its changes are in Azure it takes {latency} on average; {most} is the most"
        );
        all.push(Reason::warning("LatencyHigh", text));
    }
    if let (Some(uploaded), Some(processed)) = (of.uploaded, of.processed) {
        let (behind, most) = (
            processed.saturating_sub(uploaded),
            PROCESSING.max(3 * of.interval),
        );
        if behind > most {
            let text = format!(
                "what was sent waits for {} to become a recovery point; {} is the most",
                said(behind),
                said(most)
            );
            all.push(Reason::warning("ProcessingBehind", text));
        }
    }
    all
}

/// The disk that reaches its limit first, if the VM is behind and one nears it.
fn growth(of: &Situation<'_>) -> Option<Reason> {
    let behind = of
        .uploaded
        .filter(|behind| *behind > rpo::target(of.interval))?;
    let near = of
        .growing
        .iter()
        .map(|disk| (disk, Forecast::of(disk, behind)));
    let mut near: Vec<_> = near.filter(|(_, forecast)| forecast.is_near()).collect();
    near.sort_by_key(|(_, forecast)| forecast.left.unwrap_or(Duration::MAX));
    let (disk, forecast) = near.first()?;
    let when = match forecast.left {
        Some(left) if left.is_zero() => "the limit is reached".to_owned(),
        Some(left) => format!(
            "at {}/s the limit is reached in {}",
            Bytes(disk.churn.unwrap_or(0)),
            said(left)
        ),
        None => "it does not grow at present".to_owned(),
    };
    let text = format!(
        "about {} of changes of disk {} are not in Azure yet; at {}, half of its size, it is resynchronized: {when}",
        Bytes(forecast.waiting),
        disk.slot,
        Bytes(forecast.limit),
    );
    Some(Reason::warning("ChangesPileUp", text))
}

/// A duration as people say it: `2h 10m`, `40s`.
pub fn said(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, _) => format!("{minutes}m"),
        (hours, minutes, _) if hours < 48 => format!("{hours}h {minutes}m"),
        (hours, _, _) => format!("{}d {}h", hours / 24, hours % 24),
    }
}

/// Since when each reason holds.
#[derive(Debug, Default)]
pub struct Alarms {
    since: BTreeMap<String, Timestamp>,
    /// Whether what was shown before a restart has been taken over.
    known: bool,
}

impl Alarms {
    /// Those of `reasons` that have held long enough, and when the next of the others will have. `shown` is what the
    /// status said before: what was alarmed before a restart still is.
    pub fn held(
        &mut self,
        reasons: Vec<Reason>,
        shown: &[String],
        now: Timestamp,
    ) -> (Vec<Reason>, Option<Duration>) {
        let long_ago = now.checked_sub(HOLD).unwrap_or(now);
        if !std::mem::replace(&mut self.known, true) {
            let before = shown.iter().map(|line| (code(line).to_owned(), long_ago));
            self.since.extend(before);
        }
        self.since
            .retain(|code, _| reasons.iter().any(|reason| reason.code == *code));
        let mut next: Option<Duration> = None;
        let mut held = Vec::new();
        for reason in reasons {
            let since = self.since.entry(reason.code.clone()).or_insert(now);
            // A clock that was set back does not make it last longer.
            *since = (*since).min(now);
            match HOLD
                .checked_sub(age(*since, now))
                .filter(|left| !left.is_zero())
            {
                Some(left) if !reason.at_once => {
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
                _ => held.push(reason),
            }
        }
        (held, next)
    }
}

/// The code of a line of `healthReasons`.
pub fn code(line: &str) -> &str {
    line.split_once(':').map_or(line, |(code, _)| code)
}

/// The lines of `now` that are worth an event: of codes that `before` did not have. A silent agent is its site's event.
pub fn news<'a>(before: &[String], now: &'a [String]) -> Vec<(&'a str, &'a str)> {
    const QUIET: [&str; 3] = ["AgentUnreachable", "Suspended", "NoRecoveryPoint"];
    let has = |lines: &[String], wanted: &str| lines.iter().any(|line| code(line) == wanted);
    if has(now, "AgentUnreachable") {
        return Vec::new();
    }
    let new = now
        .iter()
        .filter(|line| !has(before, code(line)) && !QUIET.contains(&code(line)));
    new.map(|line| (code(line), line.as_str())).collect()
}

#[cfg(test)]
mod tests;
