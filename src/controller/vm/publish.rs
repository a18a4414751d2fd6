//! Writes a VM's status where that is worth it and its turn has come, and says in events what changed by it.
//!
//! A status that waits for its turn is computed anew until then: what is written is what is so, with the times at which it
//! became so.

use std::time::Duration;

use crate::api::condition::{Condition, types};
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::context::Context;
use crate::controller::status::{Lane, Turn};
use crate::controller::unsupported;
use crate::controller::vm::health;
use crate::controller::vm::memory::{Unwritten, VmMemory};
use crate::controller::vm::report::quiet;
use crate::ids::ObjectName;
use crate::report::Code;

/// What a status is of, and what stands there.
pub struct Change<'a> {
    pub vm: &'a ProtectedVM,
    pub name: &'a ObjectName,
    pub last: &'a ProtectedVMStatus,
    /// Since when.
    pub age: Duration,
    /// Fields of the spec that this version does not act upon.
    pub unsupported: &'a [&'static str],
}

/// Writes `status` if it is worth it: how long to wait for that, if it has to wait.
pub async fn publish(
    status: ProtectedVMStatus,
    change: &Change<'_>,
    context: &Context,
    memory: &mut VmMemory,
) -> Option<Duration> {
    // Whoever asked for a recovery point looks whether it is there.
    let comes = memory.awaited.as_ref().is_some_and(|of| of.came(&status));
    let lane = match comes {
        true => Some(Lane::News),
        false => quiet::worth(change.last, &status, change.age),
    };
    let Some(lane) = lane else {
        memory.turn = Turn::default();
        return None;
    };
    if let Some(wait) = memory.turn.wait(&context.pace, lane) {
        memory.pending = Some(Box::new(status));
        return Some(wait);
    }
    let name = change.name;
    if let Err(fault) = context.vm_status.write::<ProtectedVM>(name, &status).await {
        let pause = memory.unwritten.failed();
        tracing::warn!(vm = %name, %fault, ?pause, "the status is written later");
        memory.pending = Some(Box::new(status));
        return Some(pause);
    }
    memory.unwritten = Unwritten::default();
    memory.awaited.take_if(|_| comes);
    // What changed is announced once it stands there: what is not written is found changed again.
    announce(change, context, &status).await;
    tell_site(change, context, &status);
    None
}

/// Has the site looked at again, which counts its VMs.
fn tell_site(change: &Change<'_>, context: &Context, status: &ProtectedVMStatus) {
    let Change { vm, name, last, .. } = change;
    if (last.state, last.health) != (status.state, status.health)
        && let Ok(site) = ObjectName::new(name.namespace(), &vm.spec.site_ref.name)
    {
        context.site_looks.ask(&site);
    }
}

/// An event is a write, too: it takes the turn of one.
pub async fn warn(vm: &ProtectedVM, context: &Context, reason: &str, note: &str) {
    context.pace.turn(Lane::News);
    context.events.warning(vm, reason, note).await;
}

/// Events of what changed: one per distinct failure, one when the VM is protected, one for fields without effect.
async fn announce(change: &Change<'_>, context: &Context, status: &ProtectedVMStatus) {
    let Change {
        vm,
        last,
        unsupported,
        ..
    } = *change;
    if last.observed_generation != status.observed_generation && !unsupported.is_empty() {
        let note = format!("this version does not act upon: {}", unsupported.join(", "));
        warn(vm, context, unsupported::REASON, &note).await;
    }
    let failure = |status: &ProtectedVMStatus| {
        let stalled =
            find(&status.conditions, types::STALLED).map(|stalled| stalled.reason.clone());
        stalled.or_else(|| {
            status
                .retry
                .as_ref()
                .map(|retry| retry.last_error.code.clone())
        })
    };
    let code = failure(status);
    // That a host cannot be reached is its site's event, not one of each of its VMs.
    let told = code
        .as_deref()
        .filter(|code| *code != Code::AgentUnreachable.as_str());
    if let Some(code) = told.filter(|_| failure(last) != code) {
        let message = find(&status.conditions, types::READY)
            .map(|ready| ready.message.clone())
            .unwrap_or_default();
        warn(vm, context, code, &message).await;
    }
    for (reason, line) in health::news(&last.health_reasons, &status.health_reasons) {
        if code.as_deref() != Some(reason) {
            warn(vm, context, reason, line).await;
        }
    }
    if let Some(ready) = find(&status.conditions, types::READY)
        && ready.status == "True"
        && find(&last.conditions, types::READY).is_none_or(|before| before.status == "False")
    {
        context.pace.turn(Lane::News);
        context
            .events
            .normal(vm, &ready.reason, &ready.message)
            .await;
    }
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}
