//! Reconciles a `ProtectedVM`: gather what is known, decide the next step, take it, report.
//!
//! | | |
//! |---|---|
//! | [`gather`], [`find`] | what is known, from caches, agents, storage and data path |
//! | [`tokens`], [`policy`], [`pause`], [`resync`], [`removal`], [`rebind`], [`wishes`] | what people ask for, and when it may be done |
//! | [`rules`], [`queue`], [`step`] | what it means: prerequisites, whose turn it is, what comes next; pure |
//! | [`describe`], [`perform`] | one change outside |
//! | [`monitor`] | how well it goes: exposure, RPO, growth and health over time |
//! | [`retries`] | what failed, and when it is tried again |
//! | [`report`], [`publish`] | the status, computed anew, pure; and written |
//! | [`memory`] | what is kept between two looks |

pub mod describe;
pub mod exposure;
pub mod find;
pub mod gather;
pub mod growth;
pub mod health;
pub mod memory;
pub mod monitor;
pub mod pause;
pub mod perform;
pub mod policy;
pub mod publish;
pub mod queue;
pub mod rebind;
pub mod removal;
pub mod report;
pub mod resync;
pub mod retries;
pub mod rpo;
pub mod rules;
pub mod step;
pub mod tokens;
pub mod wishes;

use std::time::Duration;

use kube::runtime::controller::Action;

use crate::api::protected_vm::{DeletionPolicy, ProtectedVM};
use crate::api::vm_status::{ProtectedVMStatus, ReplicationState};
use crate::controller::context::Context;
use crate::controller::metrics::vms::Figures;
use crate::controller::vm::gather::{Gathered, Knowledge, place, slots};
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::monitor::Measured;
use crate::controller::vm::publish::Change;
use crate::controller::vm::removal::{Removal, Wait};
use crate::controller::vm::report::details::{Details, DiskDetails};
use crate::controller::vm::report::{Facts, SILENCE};
use crate::controller::vm::step::{Step, Why};
use crate::controller::vm::tokens::Tokens;
use crate::controller::{annotations, unsupported};
use crate::ids::ObjectName;
use crate::replica::manifest::Head;
use crate::report::Code;
use crate::retry::Trouble;

/// How soon a VM is looked at again of which something is not known yet.
const SOON: Duration = Duration::from_secs(1);
/// How often a VM is looked at without anything having happened.
const LOOK: Duration = Duration::from_secs(600);
/// How often one is that waits for others: there may be a whole fleet of them.
const WAITING: Duration = Duration::from_secs(60);
/// How long a deletion waits for a site that is not ready.
const GIVE_UP: Duration = Duration::from_secs(600);
/// How often one is that moves: its progress is shown in between.
const MOVING: Duration = Duration::from_secs(15);

/// What a look came to.
pub enum Outcome {
    /// Look again then.
    Again(Action),
    /// The object was deleted, and may go.
    Gone,
}

/// Looks at a VM once.
pub async fn reconcile(
    vm: &ProtectedVM,
    name: &ObjectName,
    context: &Context,
    memory: &mut VmMemory,
) -> Outcome {
    let found = vm.status.clone().unwrap_or_default();
    let (last, age) = context.vm_status.last(name, &found);
    let mut tokens = Tokens::of(vm, &last);
    begin_anew_if_asked(vm, &mut tokens, memory, context);
    if let Some(note) = annotations::news(annotations::of_vm(vm), &mut memory.ignored) {
        publish::warn(vm, context, annotations::REASON, &note).await;
    }
    let started = context.clock.now();
    retries::resume(memory, &last, vm.metadata.generation, started);
    let gathered = gather::gather((vm, &last), name, context, memory, &tokens).await;
    let mut gathered = match gathered {
        Knowledge::Enough(gathered) => *gathered,
        Knowledge::NotYet => return Outcome::Again(Action::requeue(SOON)),
    };
    look_for_mended(&mut gathered, memory, context);
    let step = step::next(&gathered.observed);
    tell_site(step, &gathered, context);
    if step == Step::Retain && waits_for_site(vm, &last, &gathered, started) {
        let note = "waits, for at most ten minutes, until its site is ready: the replica is then marked as retained";
        if !std::mem::replace(&mut memory.said_waiting, true) {
            context.events.warning(vm, "WaitingForSite", note).await;
        }
        return Outcome::Again(Action::requeue(MOVING));
    }
    let acted = act(step, name, &gathered, context, memory, started).await;
    note_handled(step, acted, &gathered, &mut tokens);
    let deleted = vm.metadata.deletion_timestamp.is_some();
    if acted == Acted::Done && wishes::is_last(step) && deleted {
        end(step, vm, &gathered, context, memory).await;
        return Outcome::Gone;
    }
    let failures = retries::all(memory, &gathered);
    let failure = retries::worst(&failures);
    let now = context.clock.now();
    let measured = memory.monitor.look(&gathered, &failures, &last, now);
    let unsupported = unsupported::of_vm(vm);
    let facts = Facts {
        observed: &gathered.observed,
        step,
        trouble: failure.map(|failure| &failure.trouble),
        measured: &measured,
        silent: gathered.silent,
        site: &vm.spec.site_ref.name,
        details: details(&gathered),
        unsupported: &unsupported,
    };
    let generation = vm.metadata.generation.unwrap_or(0);
    let before = memory.pending.take();
    let before = before.as_deref().unwrap_or(&last);
    let mut status = report::status(&facts, before, generation, now.into());
    status.retry = failure.map(retries::shown);
    status.last_handled = tokens.status();
    show_figures(name, context, &measured, &status);
    let look = again(step, acted, &gathered, memory, context);
    let look = measured.look.map_or(look, |soon| soon.min(look));
    tell_next(&last, &status, &gathered, context);
    let change = Change {
        vm,
        name,
        last: &last,
        age,
        unsupported: &unsupported,
    };
    let wait = publish::publish(status, &change, context, memory).await;
    Outcome::Again(Action::requeue(wait.map_or(look, |wait| wait.min(look))))
}

/// Has the site looked at again where it has to act itself: its breaker trips, or another cluster has taken over.
fn tell_site(step: Step, gathered: &Gathered, context: &Context) {
    let trips = matches!(
        gathered.observed.removal,
        Some(Removal::Wait(Wait::ManyDeletions))
    );
    if (trips || step == Step::Nothing(Why::Superseded))
        && let Some(site) = &gathered.site
    {
        context.sites.touch(&site.name);
    }
}

/// Lets go of a VM whose object is about to go.
async fn end(
    step: Step,
    vm: &ProtectedVM,
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
) {
    if let Some((replica, _)) = memory.attached.take() {
        context.detach(&replica);
    }
    say_end(step, vm, gathered, context, memory).await;
    touch_next(gathered, context);
    if let Some(site) = &gathered.site {
        context.site_looks.ask(&site.name);
    }
}

/// Says what became of the replica, where that is not what the spec lets expect; and that a deletion went on without the
/// fence: everything in Azure stays as it is, whatever the fence says.
async fn say_end(
    step: Step,
    vm: &ProtectedVM,
    gathered: &Gathered,
    context: &Context,
    memory: &VmMemory,
) {
    if step == Step::Erase {
        let note = "the replica was removed";
        context.events.normal(vm, "ReplicaDeleted", note).await;
        return;
    }
    if vm.spec.deletion_policy == DeletionPolicy::DeleteReplica
        && let Some(record) = &gathered.record
    {
        let note = format!(
            "replica {} stays in Azure although deletionPolicy is DeleteReplica: its HyperVSite is not ready, or does \
             not allow deletions",
            record.replica
        );
        context.events.warning(vm, "ReplicaRetained", &note).await;
    }
    if let Some(trouble) = memory.reading.trouble() {
        let note = format!(
            "replication was ended although the replica's fence cannot be read; everything in Azure stays: {}",
            trouble.fault
        );
        context.events.warning(vm, "FenceUnreadable", &note).await;
    }
}

/// Has those VMs of the host looked at again that wait for a first copy, if this one's has ended or goes no further.
fn tell_next(
    last: &ProtectedVMStatus,
    status: &ProtectedVMStatus,
    gathered: &Gathered,
    context: &Context,
) {
    let copies =
        |status: &ProtectedVMStatus| status.state == Some(ReplicationState::InitialReplication);
    let copied = last.recovery_points.is_none() && status.recovery_points.is_some();
    if copied || (copies(last) && !copies(status)) {
        touch_next(gathered, context);
    }
}

fn touch_next(gathered: &Gathered, context: &Context) {
    if let (Some(site), Some(found)) = (&gathered.site, &gathered.found) {
        slots::touch_next(context, site, found, gathered.copies);
    }
}

/// Whether a deletion waits because nobody can write down that the replica is retained: its site is not there or not
/// ready. A site that another cluster acts for is not waited for.
fn waits_for_site(
    vm: &ProtectedVM,
    last: &ProtectedVMStatus,
    gathered: &Gathered,
    now: jiff::Timestamp,
) -> bool {
    let unready = matches!(
        gathered.observed.site,
        step::Site::Missing | step::Site::NotReady(_)
    );
    let deleted = vm.metadata.deletion_timestamp.as_ref();
    let lately = deleted.is_some_and(|deleted| {
        Duration::try_from(now.duration_since(deleted.0)).is_ok_and(|since| since < GIVE_UP)
    });
    unready && last.replica_id.is_some() && lately
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Acted {
    /// The step was taken: there may be another one.
    Done,
    /// There was nothing to do, or it is not yet time to try again.
    Nothing,
    Failed,
}

async fn act(
    step: Step,
    name: &ObjectName,
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
    started: jiff::Timestamp,
) -> Acted {
    if let Step::Nothing(why) = step {
        // After a restart, say, its agent is not connected yet: what failed before is neither over nor forgotten. That an
        // agent cannot be reached is said by itself then.
        let of_agent = |trouble: &Trouble| trouble.fault.code == Code::AgentUnreachable;
        if !why.is_blind() || memory.failing.trouble().is_some_and(of_agent) {
            memory.failing.reset();
        }
        return Acted::Nothing;
    }
    if memory.failing.wait().is_some() {
        return Acted::Nothing;
    }
    match perform::perform(step, name, gathered, context, memory).await {
        Ok(()) => {
            memory.failing.reset();
            Acted::Done
        }
        Err(fault) => {
            tracing::warn!(vm = %name, ?step, %fault, "cannot go on");
            memory.failing.failed(&format!("{step:?}"), fault, started);
            Acted::Failed
        }
    }
}

fn again(
    step: Step,
    acted: Acted,
    gathered: &Gathered,
    memory: &VmMemory,
    context: &Context,
) -> Duration {
    if let Some(at) = memory.failing.wait() {
        return at.saturating_duration_since(tokio::time::Instant::now());
    }
    match (acted, step) {
        // What the agent was told shows in its observations, which bring the VM back by themselves.
        (
            Acted::Done,
            Step::Relate | Step::Start | Step::Synchronize | Step::StartChain | Step::Resynchronize,
        ) => MOVING,
        (Acted::Done, _) => Duration::ZERO,
        (_, Step::Nothing(Why::Protected | Why::Suspended)) => {
            let look = LOOK.mul_f64(rand::random_range(0.8..1.2));
            let opens = gathered.until_resync(context.clock.now());
            opens.map_or(look, |opens| look.min(opens))
        }
        (_, Step::Nothing(Why::Kept)) if is_held(&gathered.observed) => {
            WAITING.mul_f64(rand::random_range(0.8..1.2))
        }
        (_, Step::Nothing(why)) if waits_for_others(why) => {
            let look = WAITING.mul_f64(rand::random_range(0.8..1.2));
            let silent = gathered.silent.map(|silent| SILENCE.saturating_sub(silent));
            let silent = silent.filter(|left| !left.is_zero());
            let believed = place::until_believed(memory, context.clock.now());
            let left = silent.into_iter().chain(believed).min();
            left.map_or(look, |left| look.min(left + SOON))
        }
        (_, _) => MOVING,
    }
}

/// Whether a deletion waits for what nobody here changes: what holds the replica is looked for now and then.
fn is_held(seen: &step::Observed) -> bool {
    matches!(&seen.removal, Some(Removal::Wait(wait)) if wait.is_for_others())
}

/// Whether it goes on when somebody else has something new, who then has the VM looked at.
const fn waits_for_others(why: Why) -> bool {
    matches!(
        why,
        Why::SiteMissing
            | Why::SiteNotReady
            | Why::NotOurs
            | Why::MachineUnknown
            | Why::MachineNotFound
            | Why::MachineAmbiguous
            | Why::AgentUnreachable
            | Why::Queued
            | Why::Window
    )
}

/// Forgets failures when the spec changed or somebody asked for it.
fn begin_anew_if_asked(
    vm: &ProtectedVM,
    tokens: &mut Tokens,
    memory: &mut VmMemory,
    context: &Context,
) {
    let changed = memory.generation.is_some() && memory.generation != vm.metadata.generation;
    if tokens.asked.retry.is_some() || changed {
        retries::begin_anew(memory);
        if let Some((replica, _)) = &memory.attached {
            context.datapath.retry(replica);
        }
    }
    memory.generation = vm.metadata.generation;
    tokens.retried();
}

/// Notes which tokens were acted upon: a comparison that is needed anyway has leave by its token, and before the first
/// recovery point there is nothing to compare.
fn note_handled(step: Step, acted: Acted, gathered: &Gathered, tokens: &mut Tokens) {
    let done = acted == Acted::Done;
    if done && step == Step::Synchronize {
        tokens.synchronized();
    }
    let seen = &gathered.observed;
    let known = gathered.replication.is_some() && !seen.is_unread();
    let needs_no_demand = known && (seen.resync.need.is_some() || !seen.point);
    if (done && step == Step::Resynchronize) || needs_no_demand {
        tokens.resynchronizes();
    }
}

/// Looks again at what waits for a human when the machine has changed: it may have been mended.
fn look_for_mended(gathered: &mut Gathered, memory: &mut VmMemory, context: &Context) {
    let machine = gathered.found.as_ref().map(|found| &found.machine);
    if !retries::see_machine(memory, machine) {
        return;
    }
    let failures = retries::all(memory, gathered);
    if failures.iter().any(|failure| failure.trouble.needs_human()) {
        retries::begin_anew(memory);
        gathered.observed.related = false;
        if let Some((replica, _)) = &memory.attached {
            context.datapath.retry(replica);
        }
    }
}

/// Shows the VM in the metrics.
fn show_figures(
    name: &ObjectName,
    context: &Context,
    measured: &Measured,
    status: &ProtectedVMStatus,
) {
    let figures = Figures {
        state: status
            .state
            .map(|state| format!("{state:?}"))
            .unwrap_or_default(),
        health: status
            .health
            .map(|health| format!("{health:?}"))
            .unwrap_or_default(),
        ..measured.figures.clone()
    };
    context.metrics.figures.set(name, figures);
}

fn details(gathered: &Gathered) -> Details<'_> {
    let manifest = gathered
        .datapath
        .as_ref()
        .and_then(|observed| observed.manifest.as_deref());
    let observed = gathered
        .replication
        .as_ref()
        .map(|replication| replication.disks.as_slice())
        .unwrap_or_default();
    let need = gathered.observed.resync.need.as_ref();
    let compares = need.is_some_and(|need| need.running);
    let disks = gathered.fence.iter().flat_map(|fence| &fence.machine.disks);
    let disks = disks.map(|disk| {
        let head = manifest
            .and_then(|manifest| manifest.disks.get(&disk.id))
            .map(|disk| &disk.head);
        // One that was added is copied beside those that have points.
        let copied = matches!(head, None | Some(Head::Copying { .. }));
        DiskDetails {
            slot: disk.slot.clone(),
            id: disk.id.clone(),
            size: disk.size,
            head,
            copy: observed
                .iter()
                .find(|observed| observed.disk == disk.id)
                .filter(|_| copied || compares),
        }
    });
    Details {
        host: gathered.found.as_ref().map(|found| found.host.to_string()),
        vm_id: gathered
            .found
            .as_ref()
            .map(|found| found.machine.id.to_string()),
        replica_id: gathered
            .record
            .as_ref()
            .map(|record| record.replica.to_string()),
        disks: disks.collect(),
        points: manifest
            .map(|manifest| manifest.points.as_slice())
            .unwrap_or_default(),
        active_side: gathered.fence.as_ref().map(|fence| fence.active_side),
        epoch: gathered.fence.as_ref().map(|fence| fence.epoch),
        credentials_expire: gathered
            .replication
            .as_ref()
            .map(|replication| replication.credentials_expire),
    }
}
