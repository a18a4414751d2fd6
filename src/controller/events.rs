//! Kubernetes events: one per thing that people should know, not one per attempt.

use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::MANAGER;

/// The longest note that the API server takes.
const NOTE_MAX: usize = 1024;
/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes events; one for the whole process, so that repeats are counted instead of repeated.
pub struct Events(Recorder);

impl Events {
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(instance),
        };
        Events(Recorder::new(client, reporter))
    }

    /// Something that should be so.
    pub async fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        note: &str,
    ) {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    /// Something that somebody should look at.
    pub async fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        note: &str,
    ) {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    /// An event that cannot be published is logged: it must not hold up what it tells of.
    async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        note: &str,
    ) {
        let mut note = note.to_owned();
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX - 3)
                .rev()
                .find(|end| note.is_char_boundary(*end))
                .unwrap_or(0);
            note.truncate(end);
            note.push('…');
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let mut reference = object.object_ref(&());
        // Repeats are found by the object, whatever its version.
        reference.resource_version = None;
        match tokio::time::timeout(TIMEOUT, self.0.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = crate::report::chain(&error),
                reason,
                "cannot publish an event"
            ),
            Err(_) => tracing::warn!(
                reason,
                "cannot publish an event: the API server does not answer"
            ),
        }
    }
}
