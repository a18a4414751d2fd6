//! Serves the calls of `host::lab::protocol`: reads a line, does it, writes a line.
//!
//! A call goes on to its end whether or not its caller still listens; nothing is held for a caller between two calls.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::host::lab::failure::Failure;
use crate::host::lab::fault::Place;
use crate::host::lab::protocol::{About, Call, Manage, REQUEST_MAX, Reply, WAIT_MAX_MS};
use crate::host::{Error, Kind, Result};
use crate::ids::{DiskSlot, VmId};
use crate::lab::hypervisor::describe::describe;
use crate::lab::hypervisor::listen::Stream;
use crate::lab::hypervisor::service::Service;
use crate::lab::hypervisor::{checkpoint, create, point, power};

/// Clients that are served at one time: calls that wait take one each.
pub(crate) const CLIENTS_MAX: usize = 256;
/// How long a client may take to send its next request or to take a reply.
const IDLE: Duration = Duration::from_secs(300);

/// Serves one client until it goes away.
pub(crate) fn serve(service: &Arc<Service>, about: &About, stream: Stream) {
    if let Err(error) = converse(service, about, stream) {
        tracing::debug!(%error, "a client went away");
    }
}

fn converse(service: &Arc<Service>, about: &About, stream: Stream) -> io::Result<()> {
    stream.set_patience(Some(IDLE))?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = lines
            .by_ref()
            .take(REQUEST_MAX)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let reply = match serde_json::from_slice(&line) {
            Ok(call) if whole => answer(service, about, call),
            Ok(_) => refuse("the request does not end in a line of its own"),
            Err(error) => refuse(&format!("the request is not understood: {error}")),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        out.write_all(&text)?;
        if !whole {
            // The rest of a request that was too long is no request.
            return Ok(());
        }
    }
}

fn refuse(detail: &str) -> Reply {
    Reply::Failed(Failure::new(Kind::Internal, detail))
}

fn answer(service: &Arc<Service>, about: &About, call: Call) -> Reply {
    let (place, vm, disk) = place_of(&call);
    let struck = place.map(|place| {
        service
            .context
            .faults
            .strike(place, vm.as_ref(), disk.as_ref())
    });
    if let Some(Err(failure)) = struck {
        return Reply::Failed(failure);
    }
    let done = match call {
        Call::Manage(manage) => manage_host(service, about, manage),
        call => serve_host(service, call),
    };
    match done {
        Ok(value) => Reply::Done(value),
        Err(error) => {
            tracing::info!(%error, vm = ?vm, "refused or failed");
            Reply::Failed(error.into())
        }
    }
}

/// Where faults strike that were set for a call, and for which machine and disk it is.
fn place_of(call: &Call) -> (Option<Place>, Option<VmId>, Option<DiskSlot>) {
    let (place, vm, disk) = match call {
        Call::Machines => (Place::Machines, None, None),
        Call::WaitForChange { .. } => (Place::WaitForChange, None, None),
        Call::Machine { vm } => (Place::Machine, Some(vm), None),
        Call::StartTracking { vm, .. } => (Place::StartTracking, Some(vm), None),
        Call::StopTracking { vm } => (Place::StopTracking, Some(vm), None),
        Call::Freeze { vm, .. } => (Place::Freeze, Some(vm), None),
        Call::Points { vm } => (Place::Points, Some(vm), None),
        Call::Open { vm, disk, .. } => (Place::Open, Some(vm), Some(disk)),
        Call::Changes { vm, disk, .. } => (Place::Changes, Some(vm), Some(disk)),
        Call::Commit { vm, .. } => (Place::Commit, Some(vm), None),
        Call::Abandon { vm, .. } => (Place::Abandon, Some(vm), None),
        Call::Forget { vm, .. } => (Place::Forget, Some(vm), None),
        Call::Power { vm, .. } | Call::SetStartAction { vm, .. } => (Place::Power, Some(vm), None),
        Call::Manage(_) => return (None, None, None),
    };
    (Some(place), vm.cloned(), disk.cloned())
}

fn serve_host(service: &Arc<Service>, call: Call) -> Result<Value> {
    match call {
        Call::Machines => {
            let machines = service.machines();
            done(
                machines
                    .iter()
                    .map(|machine| describe(machine))
                    .collect::<Vec<_>>(),
            )
        }
        Call::Machine { vm } => done(describe(service.machine(&vm)?.as_ref())),
        Call::WaitForChange { seen, patience_ms } => {
            done(service.context.revisions.wait(seen, wait(patience_ms)))
        }
        Call::StartTracking { vm, disks } => done(point::start_tracking(
            service.machine(&vm)?.as_ref(),
            &disks,
        )?),
        Call::StopTracking { vm } => done(point::stop_tracking(&service.machine(&vm)?)?),
        Call::Freeze { vm, disks, wanted } => {
            done(point::freeze(&service.machine(&vm)?, &disks, wanted)?)
        }
        Call::Points { vm } => {
            let record = service.machine(&vm)?.home.store.get();
            done(
                record
                    .point
                    .iter()
                    .map(|point| &point.point)
                    .collect::<Vec<_>>(),
            )
        }
        Call::Open { vm, point, disk } => {
            done(point::open(service.machine(&vm)?.as_ref(), &point, &disk)?)
        }
        Call::Changes {
            vm,
            point,
            disk,
            since,
            window,
        } => {
            let machine = service.machine(&vm)?;
            done(point::changes(&machine, &point, &disk, &since, window)?)
        }
        Call::Commit { vm, point } => {
            let cursors = point::commit(&service.machine(&vm)?, &point)?;
            done(cursors.into_iter().collect::<Vec<_>>())
        }
        Call::Abandon { vm, point } => done(point::abandon(&service.machine(&vm)?, &point)?),
        Call::Forget { vm, keep } => done(point::forget(service.machine(&vm)?.as_ref(), &keep)?),
        Call::Power {
            vm,
            operation,
            patience_ms,
        } => {
            let (machine, patience) = (service.machine(&vm)?, Duration::from_millis(patience_ms));
            done(power::change(&machine, operation, patience)?)
        }
        Call::SetStartAction { vm, action } => {
            let machine = service.machine(&vm)?;
            done(power::set_start_action(&machine, action)?)
        }
        Call::Manage(_) => Err(Error::new(
            Kind::Internal,
            "serve a call",
            "it is another's",
        )),
    }
}

fn manage_host(service: &Arc<Service>, about: &About, manage: Manage) -> Result<Value> {
    let faults = &service.context.faults;
    match manage {
        Manage::About => done(about),
        Manage::Create(spec) => done(service.create(&spec)?),
        Manage::Delete { vm, images } => done(service.delete(&vm, images)?),
        Manage::HandOver { vm, to } => done(service.hand_over(&vm, &to)?),
        Manage::TakeIn { from, arrival } => done(service.take_in(&from, &arrival)?),
        Manage::Attach { vm, disk } => done(create::attach(service.machine(&vm)?.as_ref(), &disk)?),
        Manage::Detach { vm, disk } => done(create::detach(service.machine(&vm)?.as_ref(), &disk)?),
        Manage::Settings { vm } => done(&service.machine(&vm)?.home.store.get().settings),
        Manage::Configure { vm, settings } => {
            let machine = service.machine(&vm)?;
            machine.home.store.update("change the settings", |record| {
                record.settings = *settings;
            })?;
            service.context.revisions.bump();
            done(())
        }
        Manage::Suspend { vm, state } => {
            done(power::suspend(service.machine(&vm)?.as_ref(), state)?)
        }
        Manage::Checkpoint { vm, name } => {
            done(checkpoint::take(service.machine(&vm)?.as_ref(), &name)?)
        }
        Manage::Checkpoints { vm } => {
            done(checkpoint::list(&service.machine(&vm)?.home.store.get()))
        }
        Manage::ApplyCheckpoint { vm, checkpoint } => done(checkpoint::apply(
            service.machine(&vm)?.as_ref(),
            checkpoint,
        )?),
        Manage::DeleteCheckpoint { vm, checkpoint } => {
            done(checkpoint::delete(&service.machine(&vm)?, checkpoint)?)
        }
        Manage::Fault(fault) => {
            let full = || Error::new(Kind::Busy, "set a fault", "too many are set");
            done(faults.set(fault).then_some(()).ok_or_else(full)?)
        }
        Manage::ClearFaults => {
            faults.clear();
            done(())
        }
        Manage::AwaitHeld { gate, patience_ms } => {
            done(faults.await_held(&gate, wait(patience_ms)))
        }
        Manage::Release { gate } => {
            faults.release(&gate);
            done(())
        }
    }
}

/// A wait that a client asks for, within what it may ask for.
fn wait(patience_ms: u64) -> Duration {
    Duration::from_millis(patience_ms.min(WAIT_MAX_MS))
}

fn done(value: impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| {
        let detail = format!("the reply cannot be said: {error}");
        Error::new(Kind::Internal, "answer a call", detail)
    })
}
