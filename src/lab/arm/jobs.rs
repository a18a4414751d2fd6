//! What takes its time: begun by a change, come true when its time is over.
//!
//! ```text
//! InProgress ── its time is over, and its bytes are there ──► Succeeded: the effect stands in the resource
//!      └────── it was to fail, or its bytes cannot be had ──► Failed: the resource says so
//! ```

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lab::arm::cloud::{Grant, Inner};
use crate::lab::arm::machines;
use crate::lab::arm::refusal::Refusable;
use crate::lab::arm::route::key;

/// What comes true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Make,
    Remove,
    Start,
    PowerOff,
    Deallocate,
    Grant,
    Revoke,
}

/// A blob that is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    /// Which of the storage accounts.
    pub(crate) account: String,
    pub(crate) container: String,
    pub(crate) blob: String,
    pub(crate) done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    InProgress,
    Succeeded,
    Failed { code: String, message: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) resource: String,
    pub(crate) change: Change,
    pub(crate) begun: Timestamp,
    pub(crate) ends: Timestamp,
    pub(crate) state: State,
    pub(crate) import: Option<Import>,
    /// It is to fail in the end.
    pub(crate) fails: Option<(String, String)>,
    /// What it is for: how long access is granted.
    pub(crate) seconds: u64,
    pub(crate) result: Option<Value>,
}

impl Job {
    pub(crate) fn new(resource: &str, change: Change, takes: Duration) -> Self {
        let begun = Timestamp::now();
        Job {
            id: uuid::Uuid::new_v4().to_string(),
            resource: resource.to_owned(),
            change,
            begun,
            ends: begun.checked_add(takes).unwrap_or(Timestamp::MAX),
            state: State::InProgress,
            import: None,
            fails: None,
            seconds: 0,
            result: None,
        }
    }

    pub(crate) fn awaits_import(&self) -> bool {
        self.state == State::InProgress && self.import.as_ref().is_some_and(|import| !import.done)
    }

    /// The body of its status.
    pub(crate) fn told(&self) -> Value {
        let status = match &self.state {
            State::InProgress => "InProgress",
            State::Succeeded => "Succeeded",
            State::Failed { .. } => "Failed",
        };
        let mut told = json!({
            "name": self.id,
            "startTime": self.begun.to_string(),
            "status": status,
        });
        if let State::Failed { code, message } = &self.state {
            told["error"] = json!({ "code": code, "message": message });
        }
        if let Some(result) = &self.result {
            told["properties"] = json!({ "output": result });
        }
        told
    }
}

/// Lets come true what is due.
pub(crate) fn settle(inner: &mut Inner, now: Timestamp) {
    let due =
        |job: &&Job| job.state == State::InProgress && job.ends <= now && !job.awaits_import();
    let due: Vec<Job> = inner.jobs.values().filter(due).cloned().collect();
    for mut job in due {
        let done = match job.fails.clone() {
            Some((code, message)) => fail(inner, &mut job, code, message),
            None => succeed(inner, &mut job, now),
        };
        if let Err(refusal) = done.and_then(|()| inner.put_job(job)) {
            tracing::error!(
                why = refusal.message,
                "what was due is not kept; it is due again"
            );
        }
    }
}

/// An import could not be made.
pub(crate) fn fail(
    inner: &mut Inner,
    job: &mut Job,
    code: String,
    message: String,
) -> Refusable<()> {
    job.state = State::Failed { code, message };
    if let Some(resource) = inner.get(&job.resource) {
        let mut resource = resource.clone();
        resource.set("provisioningState", "Failed");
        inner.put(resource)?;
    }
    Ok(())
}

fn succeed(inner: &mut Inner, job: &mut Job, now: Timestamp) -> Refusable<()> {
    job.state = State::Succeeded;
    let id = job.resource.clone();
    if job.change == Change::Remove {
        return remove(inner, &id);
    }
    let Some(resource) = inner.get(&id) else {
        return Ok(());
    };
    let mut resource = resource.clone();
    resource.set("provisioningState", "Succeeded");
    match job.change {
        Change::Make if resource.power.is_some() => {
            machines::attached(inner, &resource, "Attached")?;
        }
        Change::Make | Change::Remove => {}
        Change::Start => {
            resource.power = Some("running".to_owned());
            machines::attached(inner, &resource, "Attached")?;
        }
        Change::PowerOff => resource.power = Some("stopped".to_owned()),
        Change::Deallocate => {
            resource.power = Some("deallocated".to_owned());
            machines::attached(inner, &resource, "Reserved")?;
        }
        Change::Grant => {
            if let Some(result) = &job.result {
                let signature = result["signature"].as_str().unwrap_or_default().to_owned();
                let life = Duration::from_secs(job.seconds);
                let expires = now.checked_add(life).unwrap_or(Timestamp::MAX);
                resource.grant = Some(Grant { signature, expires });
                resource.set("diskState", "ActiveSAS");
            }
        }
        Change::Revoke => {
            resource.grant = None;
            resource.set("diskState", "Unattached");
        }
    }
    inner.put(resource)
}

/// A resource goes; of a machine what it is attached to is free then, or goes with it; a group takes all that it holds.
fn remove(inner: &mut Inner, id: &str) -> Refusable<()> {
    let Some(resource) = inner.get(id).cloned() else {
        return Ok(());
    };
    match resource.kind.as_str() {
        "microsoft.compute/virtualmachines" => machines::detach(inner, &resource)?,
        "resourcegroup" => {
            let below = format!("{}/", key(id));
            let held: Vec<String> = inner
                .resources
                .keys()
                .filter(|id| id.starts_with(&below))
                .cloned()
                .collect();
            for id in held {
                inner.remove(&id)?;
            }
        }
        _ => {}
    }
    inner.remove(id)
}
