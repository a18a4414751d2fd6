//! Writes status: server-side apply of exactly what the controller owns, paced over all objects, and only what is new.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
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

/// Status writes per second of one controller: a lost site with ten thousand VMs does not become a storm.
const RATE: u32 = 20;
/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The controller's status writes.
pub struct StatusWriter<S> {
    client: Client,
    /// What was written last, and when.
    written: Mutex<HashMap<ObjectName, (S, Instant)>>,
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
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written.get(object) {
            Some((status, at)) => (status.clone(), at.elapsed()),
            None => (found.clone(), Duration::MAX),
        }
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, object: &ObjectName) {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object);
    }

    /// Writes a status.
    ///
    /// # Errors
    /// If the API server refuses it, or does not answer in time.
    pub async fn write<K>(&self, pace: &Pace, object: &ObjectName, status: &S) -> Result<(), Fault>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        pace.turn().await;
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
                written.insert(object.clone(), (status.clone(), Instant::now()));
                Ok(())
            }
            // It was deleted meanwhile: nobody reads its status any more.
            Ok(Err(kube::Error::Api(said))) if said.code == 404 => Ok(()),
            Ok(Err(error)) => Err(failed(crate::report::chain(&error))),
            Err(_) => Err(failed("the API server did not answer".to_owned())),
        }
    }
}

/// The pace of all status writes.
#[derive(Debug)]
pub struct Pace(Mutex<Instant>);

impl Default for Pace {
    fn default() -> Self {
        Pace(Mutex::new(Instant::now()))
    }
}

impl Pace {
    /// Waits for the next turn; unused turns of up to a second may be made up for.
    async fn turn(&self) {
        let at = {
            let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(Duration::from_secs(1));
            let at = earliest.map_or(*next, |earliest| (*next).max(earliest));
            *next = at + Duration::from_secs(1) / RATE;
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_writes_keep_to_the_pace() {
        let pace = Pace::default();
        let began = Instant::now();
        for _ in 0..RATE * 10 {
            pace.turn().await;
        }
        assert!(
            began.elapsed() >= Duration::from_secs(8),
            "{:?}",
            began.elapsed()
        );
        assert!(began.elapsed() <= Duration::from_secs(10));
    }
}
