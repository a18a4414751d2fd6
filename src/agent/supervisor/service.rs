//! What the controller commands, in force: each command is admitted, written down, and then done.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use crate::agent::routes::Service;
use crate::agent::state::Replication;
use crate::agent::supervisor::{Supervised, Supervisor};
use crate::engine::{self, capture, demand};
use crate::host;
use crate::ids::{DiskId, DiskSlot, ReplicaId, VmId};
use crate::report::{Code, Fault};
use crate::wire::{
    Answer, Command, Hello, HelloReply, HostCommand, Observations, RelatedDisk, Relationship,
    Remove, Resynchronize, Settings, Start, Synchronize,
};

#[async_trait]
impl Service for Supervisor {
    fn hello(&self, _: &Hello, version: u32) -> HelloReply {
        HelloReply {
            version,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            session: self.board.session(),
        }
    }

    async fn observations(
        &self,
        session: Option<Uuid>,
        after: u64,
        deadline: Instant,
    ) -> Result<Observations, Fault> {
        Ok(self.board.read(session, after, deadline).await)
    }

    async fn settings(&self, command: HostCommand<Settings>) -> Result<Answer, Fault> {
        self.state
            .keep_settings(&command.body)
            .map_err(|error| error.fault())?;
        self.throttle.set_rate(command.body.bandwidth);
        Ok(Answer {
            operation: command.operation,
            repeated: false,
        })
    }

    async fn create_relationship(&self, command: Command<Relationship>) -> Result<Answer, Fault> {
        let replica = command.body.replica.clone();
        let mut place = self.place(&replica).await;
        let known = place.as_ref();
        let repeated = self
            .admit(&replica, known.map(|known| &known.replication), &command)
            .await?;
        let answer = Answer {
            operation: command.operation.clone(),
            repeated,
        };
        if repeated {
            return Ok(answer);
        }
        if known.is_none() {
            self.check_fence(&command.body, command.generation).await?;
        }
        let mut next = match known {
            Some(known) => known.replication.clone(),
            None => Replication::new(command.body.clone(), command.generation),
        };
        let same_work = known.is_some_and(|known| is_same_work(&known.replication, &command));
        next.relationship = command.body;
        next.generation = command.generation;
        next.done(command.operation);
        self.keep(&next)?;
        let vm = &next.relationship.vm;
        if known.is_none_or(|known| known.replication.relationship.vm != *vm) {
            self.machines.lock().await.insert(replica, vm.clone());
        }
        let old = place.take();
        let before = old.as_ref().map(|old| old.replication.relationship.clone());
        let same_disks = before
            .as_ref()
            .is_some_and(|before| before.disks == next.relationship.disks);
        let old = old.and_then(|old| old.running);
        let mut tidied = Ok(());
        let running = match old.filter(|running| !running.is_over()) {
            Some(running) if next.relationship.suspended && same_disks => {
                running.finish(&next);
                Some(running)
            }
            Some(running) if same_work => {
                running.renew(&next.relationship.storage);
                // One that waits after a failure tries at once: the signatures may have been what it lacked, or somebody
                // asked for it. One that is at work is not disturbed, and remembers nothing of this.
                running.retry.notify_waiters();
                Some(running)
            }
            old => {
                if let Some(old) = old {
                    old.end().await;
                }
                tidied = self.tidy(before.as_ref(), &next.relationship).await;
                self.run_if_started(&next)
            }
        };
        self.show_if_idle(&next, running.as_ref());
        *place = Some(Supervised {
            replication: next,
            running,
        });
        // What is commanded holds all the same, and whoever commands it again has it tried again.
        tidied.map(|()| answer)
    }

    async fn start(&self, replica: ReplicaId, command: Command<Start>) -> Result<Answer, Fault> {
        let mut place = self.place(&replica).await;
        let supervised = self.known(&mut place, &replica)?;
        let repeated = self
            .admit(&replica, Some(&supervised.replication), &command)
            .await?;
        if !supervised.replication.started || supervised.running.is_none() {
            let mut next = supervised.replication.clone();
            next.started = true;
            next.done(command.operation.clone());
            self.keep(&next)?;
            supervised.running = self.run_if_started(&next);
            supervised.replication = next;
        }
        Ok(Answer {
            operation: command.operation,
            repeated,
        })
    }

    async fn synchronize(
        &self,
        replica: ReplicaId,
        command: Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        let mut place = self.place(&replica).await;
        let supervised = self.known(&mut place, &replica)?;
        let repeated = self
            .admit(&replica, Some(&supervised.replication), &command)
            .await?;
        let Some(running) = &supervised.running else {
            let message = format!("replication of {replica} is suspended or was not started");
            return Err(Fault::new(Code::NotReplicating, message));
        };
        if !repeated {
            running.synchronize.notify_one();
            self.remember(supervised, &command.operation)?;
        }
        Ok(Answer {
            operation: command.operation,
            repeated,
        })
    }

    async fn resynchronize(
        &self,
        replica: ReplicaId,
        command: Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        let mut place = self.place(&replica).await;
        let supervised = self.known(&mut place, &replica)?;
        let repeated = self
            .admit(&replica, Some(&supervised.replication), &command)
            .await?;
        if !repeated {
            if let Some(running) = supervised.running.take() {
                running.end().await;
            }
            let disks = supervised.replication.relationship.disks.iter();
            let reason = Fault::new(Code::ResyncRequested, "a resynchronization was asked for");
            let demanded = demand::add(
                &self.state.of(&replica),
                disks.map(|disk| disk.id.clone()),
                reason,
            );
            let demanded = match demanded {
                Ok(_) => self.remember(supervised, &command.operation),
                Err(error) => Err(Fault::of(Code::HostIo, &error)),
            };
            // Whatever could not be written down: what was replicated is.
            supervised.running = self.run_if_started(&supervised.replication);
            demanded?;
        }
        Ok(Answer {
            operation: command.operation,
            repeated,
        })
    }

    async fn remove(&self, replica: ReplicaId, command: Command<Remove>) -> Result<Answer, Fault> {
        let mut place = self.place(&replica).await;
        let Some(supervised) = place.as_mut() else {
            return Ok(Answer {
                operation: command.operation,
                repeated: true,
            });
        };
        self.admit(&replica, Some(&supervised.replication), &command)
            .await?;
        if let Some(running) = supervised.running.take() {
            running.end().await;
        }
        let ended = supervised.replication.relationship.clone();
        self.sweep_logs(&ended, &[]).await?;
        // Another object may have the machine by now, and counts on what is tracked.
        let mut machines = self.machines.lock().await;
        let is_other = |(id, vm): (&ReplicaId, &VmId)| *id != replica && *vm == ended.vm;
        if !machines.iter().any(is_other) {
            self.stop_tracking(&ended.vm).await?;
        }
        self.state.forget(&replica).map_err(|error| error.fault())?;
        machines.remove(&replica);
        *place = None;
        self.board.hide(&replica);
        Ok(Answer {
            operation: command.operation,
            repeated: false,
        })
    }
}

impl Supervisor {
    /// Removes what `now` does not need of what was begun by `before`.
    async fn tidy(&self, before: Option<&Relationship>, now: &Relationship) -> Result<(), Fault> {
        if now.suspended {
            self.release_points(&now.vm).await?;
        }
        match before {
            Some(before) => self.sweep_logs(before, &now.disks).await,
            None => Ok(()),
        }
    }

    /// Removes the captured logs of disks that are not among those `still` replicated: they lie beside the disks, and
    /// may be half as long.
    async fn sweep_logs(
        &self,
        relationship: &Relationship,
        still: &[RelatedDisk],
    ) -> Result<(), Fault> {
        let disks = relationship.disks.iter();
        let gone = disks.filter(|disk| still.iter().all(|still| still.id != disk.id));
        let gone: BTreeMap<DiskId, DiskSlot> = gone
            .map(|disk| (disk.id.clone(), disk.slot.clone()))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let (vm, hypervisor) = (relationship.vm.clone(), self.edges.hypervisor.clone());
        let sweeping = tokio::task::spawn_blocking(move || match hypervisor.machine(&vm) {
            // Nothing of ours can be left at a machine that is not there.
            Err(error) if error.kind == host::Kind::VmNotFound => Ok(()),
            Err(error) => Err(engine::Error::from(error)),
            Ok(machine) => capture::sweep(&machine, &gone, &[]),
        });
        let swept = sweeping.await.map_err(|_| engine::Error::Broken {
            doing: "swept old logs",
        });
        swept.and_then(|swept| swept).map_err(|error| error.fault())
    }

    async fn stop_tracking(&self, vm: &VmId) -> Result<(), Fault> {
        let vm = vm.clone();
        let stopped = engine::source::ask(&self.edges.hypervisor, move |hypervisor| {
            match hypervisor.stop_tracking(&vm) {
                // Nothing of ours can be left at a machine that is not there.
                Err(error) if error.kind == host::Kind::VmNotFound => Ok(()),
                result => result,
            }
        });
        stopped.await.map_err(|error| error.fault())
    }

    /// Frozen points are not held over a pause: their differencing disks would grow as long as it lasts.
    async fn release_points(&self, vm: &VmId) -> Result<(), Fault> {
        let vm = vm.clone();
        let released = engine::source::ask(&self.edges.hypervisor, move |hypervisor| {
            for point in hypervisor.points(&vm)? {
                hypervisor.abandon(&vm, &point.id)?;
            }
            Ok(())
        });
        released.await.map_err(|error| error.fault())
    }
}

/// Whether a new relationship changes nothing but signatures, so that the engine can go on.
fn is_same_work(known: &Replication, command: &Command<Relationship>) -> bool {
    let mut same = known.relationship.clone();
    same.storage.inbox.sas = command.body.storage.inbox.sas.clone();
    same.storage.replica.sas = command.body.storage.replica.sas.clone();
    same.storage.expires = command.body.storage.expires;
    same == command.body && known.generation == command.generation
}
