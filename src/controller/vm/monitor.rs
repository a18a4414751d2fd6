//! Watches one VM from look to look: feeds its history with what agent and data path say, and judges by it.
//!
//! What it remembers is lost with the process, and that is all right: a restart takes back no alarm, for the status says
//! which were raised, and counts cycles anew.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::condition::Said;
use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::metrics::vms::{DiskFigures, Figures};
use crate::controller::vm::exposure::{History, Reached, age};
use crate::controller::vm::gather::Gathered;
use crate::controller::vm::growth::{Forecast, Growing};
use crate::controller::vm::health::{self, Alarms, Reason, Situation};
use crate::controller::vm::report::SILENCE;
use crate::controller::vm::retries::Failure;
use crate::controller::vm::rpo;
use crate::host::Volume;
use crate::ids::DiskId;
use crate::wire::ReplicationObservation;

/// The copy interval of a VM of which nobody knows another: the default.
const INTERVAL: Duration = Duration::from_secs(300);

/// What is remembered of a VM.
#[derive(Debug, Default)]
pub struct Monitor {
    history: History,
    alarms: Alarms,
    missed: rpo::Missed,
    /// The copy interval, as it was known last.
    interval: Option<Duration>,
}

/// What a look comes to.
#[derive(Debug)]
pub struct Measured {
    /// Why health is not Normal, as far as it has held long enough.
    pub reasons: Vec<Reason>,
    /// `RPOMet`.
    pub rpo: Said,
    /// After which time something of this may change although nobody says anything.
    pub look: Option<Duration>,
    /// For metrics; without state and health.
    pub figures: Figures,
}

impl Monitor {
    /// Measures at `now`. `last` is what the status says.
    pub fn look(
        &mut self,
        gathered: &Gathered,
        failures: &[Failure],
        last: &ProtectedVMStatus,
        now: Timestamp,
    ) -> Measured {
        let seen = gathered.replication.as_deref();
        let silent = gathered.silent.is_some_and(|silent| silent >= SILENCE);
        if let Some(seen) = seen {
            self.history.saw(seen, now);
        }
        let told = gathered
            .desired
            .as_ref()
            .map(|desired| desired.policy.copy_interval);
        let told = told.map(|seconds| Duration::from_secs(seconds.into()));
        self.interval = told.or(self.interval);
        let interval = self.interval.unwrap_or(INTERVAL);
        let manifest = gathered
            .datapath
            .as_ref()
            .and_then(|seen| seen.manifest.as_deref());
        let reached = Reached::of(seen, manifest);
        let growing = self.growing(gathered, seen);
        let volumes = volumes(gathered);
        let counted = self.history.counted(now);
        let behind = |at: Option<Timestamp>| at.map(|at| age(at, now));
        let situation = Situation {
            point: gathered.observed.point,
            pause: gathered.observed.pause,
            silent,
            phase: seen.filter(|_| !silent).map(|seen| seen.phase),
            resync: seen.and_then(|seen| seen.resync.as_ref()),
            quiesce: seen.and_then(|seen| seen.quiesce.as_ref()),
            failures,
            counted,
            interval,
            uploaded: behind(reached.uploaded),
            processed: behind(reached.processed),
            growing: &growing,
            volumes: &volumes,
        };
        let (reasons, alarm) =
            self.alarms
                .held(health::reasons(&situation), &last.health_reasons, now);
        let objective = rpo::Measured {
            interval,
            uploaded: reached.uploaded,
            point: situation.point,
            silent,
            suspended: situation.pause.is_some(),
        };
        let (rpo, flip) = self.missed.judge(&objective, now);
        let figures = Figures {
            uploaded: reached.uploaded,
            processed: reached.processed,
            churn: self.history.churn(),
            completed: counted.completed,
            missed: counted.missed,
            disks: disks(&growing, seen, situation.uploaded),
            ..Figures::default()
        };
        Measured {
            reasons,
            rpo,
            look: alarm.into_iter().chain(flip).min(),
            figures,
        }
    }

    /// The disks that the fence names, with what the agent says of them.
    fn growing(&self, gathered: &Gathered, seen: Option<&ReplicationObservation>) -> Vec<Growing> {
        let disks = gathered.fence.iter().flat_map(|fence| &fence.machine.disks);
        let observed = |id: &DiskId| seen?.disks.iter().find(|disk| disk.disk == *id);
        disks
            .map(|disk| Growing {
                id: disk.id.clone(),
                slot: disk.slot.clone(),
                size: disk.size,
                pending: observed(&disk.id).map_or(0, |seen| seen.pending),
                churn: self.history.churn_of(&disk.id),
            })
            .collect()
    }
}

/// The volumes of the machine's disks, each once.
fn volumes(gathered: &Gathered) -> Vec<Volume> {
    let disks = gathered.found.iter().flat_map(|found| &found.machine.disks);
    let mut volumes: Vec<Volume> = disks.filter_map(|disk| disk.volume.clone()).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    volumes.dedup_by(|a, b| a.name == b.name);
    volumes
}

fn disks(
    growing: &[Growing],
    seen: Option<&ReplicationObservation>,
    behind: Option<Duration>,
) -> Vec<DiskFigures> {
    let figures = |disk: &Growing| {
        let observed = seen.and_then(|seen| seen.disks.iter().find(|of| of.disk == disk.id));
        let forecast = behind.map(|behind| Forecast::of(disk, behind));
        DiskFigures {
            slot: disk.slot.to_string(),
            pending: disk.pending,
            copy: observed
                .filter(|of| of.total > 0)
                .map(|of| (of.done.min(of.total), of.total)),
            left: forecast.and_then(|forecast| forecast.left),
        }
    };
    growing.iter().map(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::vm::report::tests::observation;
    use crate::controller::vm::tokens::Tokens;
    use crate::controller::vm::{report, step};
    use crate::units::Generation;
    use crate::wire::observation::Phase;

    fn gathered(synchronized: Timestamp) -> Gathered {
        let mut seen = observation();
        seen.synchronized = Some(synchronized);
        Gathered {
            observed: step::Observed {
                agent: step::Agent::Replicating(Phase::Replicating),
                ..report::tests::protected()
            },
            site: None,
            found: None,
            record: None,
            fence: None,
            generation: Generation::ZERO,
            replication: Some(seen.into()),
            datapath: None,
            desired: None,
            silent: None,
            excluded: Vec::new(),
            tokens: Tokens::default(),
            window: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    #[test]
    fn a_vm_is_looked_at_again_when_its_target_is_missed_if_nobody_says_anything() {
        let mut monitor = Monitor::default();
        let status = ProtectedVMStatus::default();
        let measured = monitor.look(&gathered(at(0)), &[], &status, at(0));
        assert_eq!(measured.look, Some(Duration::from_secs(601)));
        let measured = monitor.look(&gathered(at(0)), &[], &status, at(601));
        assert_eq!(measured.rpo.reason, "TargetMissed");
    }

    #[test]
    fn a_silent_agent_makes_unknown_what_only_it_knows() {
        let gathered = Gathered {
            silent: Some(SILENCE),
            ..gathered(at(0))
        };
        let measured =
            Monitor::default().look(&gathered, &[], &ProtectedVMStatus::default(), at(400));
        assert_eq!(measured.rpo.reason, "AgentUnreachable");
        let codes: Vec<&str> = measured
            .reasons
            .iter()
            .map(|reason| reason.code.as_str())
            .collect();
        assert_eq!(codes, ["AgentUnreachable"]);
    }
}
