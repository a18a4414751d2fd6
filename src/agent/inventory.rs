//! The machines of the host, as they are now: one thread listens to the hypervisor, everybody else looks at the result.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::host::{self, Hypervisor, Machine, Revision};
use crate::report::Fault;

/// How long the hypervisor is listened to before it is asked anew. Free space changes without an event.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failed question, the next one is asked this much later.
const PAUSE: Duration = Duration::from_secs(2);

/// What is known of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub machines: Vec<Machine>,
    /// Why the machines could not be listed; they are then those of before.
    pub fault: Option<Fault>,
    /// Whether the hypervisor has answered once: until then nothing is known.
    pub answered: bool,
}

/// The host's machines.
#[derive(Clone)]
pub struct Inventory {
    seen: watch::Receiver<Seen>,
}

impl Inventory {
    /// Listens to `hypervisor` until `stop`.
    pub fn watch(hypervisor: Arc<dyn Hypervisor>, stop: CancellationToken) -> Self {
        let (publish, seen) = watch::channel(Seen::default());
        tokio::task::spawn_blocking(move || listen(hypervisor.as_ref(), &publish, &stop));
        Inventory { seen }
    }

    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }
}

/// Says that the hypervisor does not answer, and that it does again: once each.
fn say(before: &Seen, fault: Option<&Fault>) {
    match (&before.fault, fault) {
        (None, Some(fault)) => tracing::warn!(%fault, "waits for the hypervisor"),
        (Some(_), None) => tracing::info!("the hypervisor answers"),
        (None, None) | (Some(_), Some(_)) => {}
    }
}

fn listen(hypervisor: &dyn Hypervisor, publish: &watch::Sender<Seen>, stop: &CancellationToken) {
    let mut revision = Revision::default();
    while !stop.is_cancelled() {
        // The revision is taken before the machines are listed: what changes in between is seen again.
        let listed = hypervisor
            .wait_for_change(
                revision,
                if publish.borrow().answered {
                    PATIENCE
                } else {
                    Duration::ZERO
                },
            )
            .and_then(|now| {
                revision = now;
                hypervisor.machines()
            });
        let failed = listed.is_err();
        say(
            &publish.borrow(),
            listed.as_ref().err().map(host::Error::fault).as_ref(),
        );
        publish.send_if_modified(|seen| {
            let next = match listed {
                Ok(mut machines) => {
                    machines.sort_by(|a, b| a.id.cmp(&b.id));
                    Seen {
                        machines,
                        fault: None,
                        answered: true,
                    }
                }
                Err(error) => Seen {
                    fault: Some(error.fault()),
                    ..seen.clone()
                },
            };
            let changed = *seen != next;
            *seen = next;
            changed
        });
        if failed {
            std::thread::sleep(PAUSE);
        }
    }
}
