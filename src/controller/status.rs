//! Writes status: server-side apply of exactly what the controller owns, paced over all objects, and only what is new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use crate::api::MANAGER;
use crate::ids::ObjectName;
use crate::report::{Code, Fault};

/// Status writes per second of one controller, by lane: a lost site with ten thousand VMs does not become a storm, and
/// numbers that move do not hold up what has happened.
const SITES: u32 = 5;
const NEWS: u32 = 30;
const NUMBERS: u32 = 10;
/// Turns that were not used are made up for, as far back as this.
const MADE_UP: Duration = Duration::from_secs(1);
/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The controller's status writes.
pub struct StatusWriter<S> {
    client: Client,
    written: Mutex<HashMap<ObjectName, Written<S>>>,
}

/// A write.
struct Written<S> {
    at: Instant,
    /// What was written, until the watch has brought it: then the object says it.
    unseen: Option<Arc<S>>,
}

impl<S> StatusWriter<S>
where
    S: Clone + PartialEq + Serialize,
{
    pub fn new(client: Client) -> Self {
        StatusWriter {
            client,
            written: Mutex::default(),
        }
    }

    /// What was last written to an object, and how long ago; after a start, what the object says, long ago.
    pub fn last(&self, object: &ObjectName, found: &S) -> (S, Duration) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Written { at, unseen }) = written.get_mut(object) else {
            return (found.clone(), Duration::MAX);
        };
        if unseen.as_deref() == Some(found) {
            *unseen = None;
        }
        let last = unseen.as_deref().unwrap_or(found).clone();
        (last, at.elapsed())
    }

    /// What was last written to an object that the watch has not brought yet.
    pub fn unseen(&self, object: &ObjectName) -> Option<Arc<S>> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(object)?.unseen.clone()
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, object: &ObjectName) {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object);
    }

    /// Writes a status; whoever does has a turn of the [`Pace`].
    ///
    /// # Errors
    /// If the API server refuses it, or does not answer in time.
    pub async fn write<K>(&self, object: &ObjectName, status: &S) -> Result<(), Fault>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), object.namespace());
        let body =
            json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&body);
        let write = api.patch_status(object.name(), &params, &patch);
        let failed = |why: String| {
            Fault::new(
                Code::Internal,
                format!("cannot write the status of {object}: {why}"),
            )
        };
        match tokio::time::timeout(TIMEOUT, write).await {
            Ok(Ok(_)) => {
                let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Written {
                    at: Instant::now(),
                    unseen: Some(Arc::new(status.clone())),
                };
                written.insert(object.clone(), now);
                Ok(())
            }
            // It was deleted meanwhile: nobody reads its status any more.
            Ok(Err(kube::Error::Api(said))) if said.code == 404 => Ok(()),
            Ok(Err(error)) => Err(failed(crate::report::chain(&error))),
            Err(_) => Err(failed("the API server did not answer".to_owned())),
        }
    }
}

/// Who waits behind whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Of a site: a few write for many VMs.
    Sites,
    /// Something has happened to a VM.
    News,
    /// Something moves.
    Numbers,
}

/// The pace of all status writes. Nobody is held up by it: who has no turn yet goes on, and writes what is so by then.
#[derive(Debug)]
pub struct Pace(Mutex<[Instant; 3]>);

impl Default for Pace {
    fn default() -> Self {
        Pace(Mutex::new([Instant::now(); 3]))
    }
}

impl Pace {
    /// Takes the next turn of a lane: when it is.
    pub fn turn(&self, lane: Lane) -> Instant {
        let (place, rate) = match lane {
            Lane::Sites => (0, SITES),
            Lane::News => (1, NEWS),
            Lane::Numbers => (2, NUMBERS),
        };
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(MADE_UP);
        let at = earliest.map_or(lanes[place], |earliest| lanes[place].max(earliest));
        lanes[place] = at + Duration::from_secs(1) / rate;
        at
    }
}

/// An object's turn, from when it was taken until it is used.
#[derive(Debug, Default)]
pub struct Turn(Option<(Lane, Instant)>);

impl Turn {
    /// Whether the object may write now; else how long it has to wait, and it keeps its turn. What has happened does not
    /// wait for the turn of a number.
    pub fn wait(&mut self, pace: &Pace, lane: Lane) -> Option<Duration> {
        let (lane, at) = match self.0 {
            Some((held, at)) if held == lane || held == Lane::News => (held, at),
            Some((_, before)) => (lane, pace.turn(lane).min(before)),
            None => (lane, pace.turn(lane)),
        };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.0 = None;
            return None;
        }
        self.0 = Some((lane, at));
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn many_writes_keep_to_the_pace_and_take_their_turns_in_order() {
        let pace = Pace::default();
        let mut turns: Vec<Turn> = (0..NEWS * 10).map(|_| Turn::default()).collect();
        let waits: Vec<Duration> = turns
            .iter_mut()
            .map(|turn| turn.wait(&pace, Lane::News).unwrap_or_default())
            .collect();
        assert!(waits.is_sorted());
        let last = waits[waits.len() - 1];
        assert!(last >= 8 * SECOND && last <= 10 * SECOND, "{last:?}");

        tokio::time::advance(5 * SECOND).await;

        let asked_again = turns
            .iter_mut()
            .map(|turn| turn.0.is_none() || turn.wait(&pace, Lane::News).is_none());
        let written = asked_again.filter(|written| *written).count();
        let due = usize::try_from(5 * NEWS).unwrap();
        assert!(
            written >= due && written <= due + usize::try_from(NEWS).unwrap() + 1,
            "{written}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_happened_is_not_held_up_by_numbers() {
        let pace = Pace::default();
        for _ in 0..NUMBERS * 1000 {
            pace.turn(Lane::Numbers);
        }
        let mut turn = Turn::default();
        assert!(turn.wait(&pace, Lane::Numbers) > Some(900 * SECOND));
        assert_eq!(turn.wait(&pace, Lane::News), None);
    }
}
