//! That something changed, never what: a listener looks it up. So a lost event costs a look at everything, no more.

use tokio::sync::broadcast;

use crate::controller::gateway::refusals::Claimant;
use crate::ids::{HostName, ObjectName, ReplicaId};

/// Events that a slow listener may be behind before it is told to look at everything.
pub(crate) const BEHIND_MAX: usize = 4096;

/// What to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A host was connected or lost, or its machines changed.
    HostChanged { site: ObjectName, host: HostName },
    /// A replication changed, appeared or is gone.
    ReplicationChanged {
        site: ObjectName,
        host: HostName,
        replica: ReplicaId,
    },
    /// Somebody was refused for a new reason; or a host was let in after it had been refused.
    Refused(Claimant),
    /// Anything may have changed.
    Everything,
}

/// A listener's end.
pub struct Changes(broadcast::Receiver<Event>);

impl Changes {
    pub(crate) fn new(events: &broadcast::Sender<Event>) -> Self {
        Changes(events.subscribe())
    }

    /// The next change; nothing after the registry is gone. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                // What is still queued is older than the look at everything that follows.
                self.0 = self.0.resubscribe();
                Some(Event::Everything)
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(host: &str) -> Event {
        Event::HostChanged {
            site: ObjectName::new("dr", "factory").unwrap(),
            host: host.parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_listener_that_was_too_slow_is_told_to_look_at_everything() {
        let (events, _) = broadcast::channel(2);
        let mut changes = Changes::new(&events);
        for host in ["hv1", "hv2", "hv3", "hv4"] {
            events.send(changed(host)).unwrap();
        }
        assert_eq!(changes.next().await, Some(Event::Everything));
        events.send(changed("hv5")).unwrap();
        assert_eq!(changes.next().await, Some(changed("hv5")));
        drop(events);
        assert_eq!(changes.next().await, None);
    }
}
