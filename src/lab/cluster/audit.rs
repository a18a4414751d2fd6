//! Counts the writes that clients ask of the API server, from its own audit log.
//!
//! ```text
//! RequestReceived    logged before the request is handled: a client that has an answer finds its write in the log
//! ResponseComplete   logged a moment after the client has the answer: says how it ended
//! ```
//! So a write is counted by its first event and waits a little for its second. Lines are appended whole; a server that
//! is killed can leave half a line at the end, which is cut off before the next one starts. A write that was in flight
//! then keeps an unknown outcome.
//!
//! Reads are not logged. The file is never rotated, since a [`Mark`] is an offset in it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::lab::cluster::error::Error;
use crate::lab::file::file_error;
use crate::units::{MIB, to_u64};

/// Every request that changes something, who and what, without its content.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
";
/// Each event is written before its request goes on; megabytes that no test comes near, so that nothing rotates.
pub(super) const FLAGS: [&str; 4] = [
    "--audit-log-mode",
    "blocking",
    "--audit-log-maxsize",
    "1000000",
];

const FILE: &str = "audit.log";
/// How long a count waits for the outcome of writes that are still being handled.
const PATIENCE: Duration = Duration::from_secs(5);
/// Many times the length of a line, which has no object's content.
const LINE_MAX: u64 = MIB;
const POLL: Duration = Duration::from_millis(10);

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// One write that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `admin`, or `system:serviceaccount:<namespace>:<name>`; the API server's own are `system:apiserver`.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// The plural, followed by the subresource if there is one: `protectedvms/status`.
    pub resource: String,
    pub namespace: String,
    /// Empty where the server draws the name.
    pub name: String,
    /// The HTTP status; nothing if it was not answered, or not yet.
    pub status: Option<u16>,
}

/// How many of `writes` each user made to each resource: `(user, resource)` to count.
pub fn by_user_and_resource(writes: &[Write]) -> BTreeMap<(&str, &str), usize> {
    let mut counts = BTreeMap::new();
    for write in writes {
        *counts
            .entry((write.user.as_str(), write.resource.as_str()))
            .or_default() += 1;
    }
    counts
}

/// The log of one cluster.
#[derive(Debug)]
pub(super) struct Audit {
    path: PathBuf,
    /// Where the running API server began: what is unanswered before it stays so.
    run: u64,
}

impl Audit {
    pub(super) fn new(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(file_error("create", &path))?;
        Ok(Audit { path, run: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// To be called while no API server runs and before one starts.
    pub(super) fn begin_run(&mut self) -> Result<(), Error> {
        self.run = self.end_of_last_line()?;
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(self.run))
            .map_err(file_error("cut the end of", &self.path))?;
        Ok(())
    }

    /// The end of the log, before a line that is being written.
    pub(super) fn mark(&self) -> Result<Mark, Error> {
        self.end_of_last_line().map(Mark)
    }

    fn end_of_last_line(&self) -> Result<u64, Error> {
        let read_end = || -> io::Result<(u64, Vec<u8>)> {
            let mut file = File::open(&self.path)?;
            let from = file.metadata()?.len().saturating_sub(LINE_MAX);
            file.seek(SeekFrom::Start(from))?;
            let mut end = Vec::new();
            file.take(LINE_MAX).read_to_end(&mut end)?;
            Ok((from, end))
        };
        let (from, end) = read_end().map_err(file_error("read", &self.path))?;
        let newline = end.iter().rposition(|&byte| byte == b'\n');
        Ok(from + newline.map_or(0, |newline| to_u64(newline) + 1))
    }

    /// Every write since `mark`; waits for outcomes only while the API server is `running`.
    pub(super) async fn writes_since(
        &self,
        mark: Mark,
        running: bool,
    ) -> Result<Vec<Write>, Error> {
        let begun = Instant::now();
        loop {
            let seen = self.read(mark)?;
            let complete = !running || !seen.awaits_answers(self.run);
            if complete || begun.elapsed() > PATIENCE {
                return Ok(seen.writes.into_iter().map(|(_, write)| write).collect());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn read(&self, mark: Mark) -> Result<Seen, Error> {
        let failed = |source| file_error("read", &self.path)(source);
        let mut file = File::open(&self.path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < mark.0 {
            return Err(Error::AuditCut {
                path: self.path.clone(),
                length,
                mark: mark.0,
            });
        }
        file.seek(SeekFrom::Start(mark.0)).map_err(failed)?;
        let mut reader = BufReader::new(file);
        let mut seen = Seen::default();
        let mut offset = mark.0;
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(failed)?;
            // The rest of a line that is being written comes with the next reading.
            let Some(event) = line.strip_suffix(b"\n") else {
                return Ok(seen);
            };
            let event = serde_json::from_slice(event).map_err(|source| Error::Audit {
                path: self.path.clone(),
                offset,
                source,
            })?;
            seen.add(offset, event);
            offset += to_u64(line.len());
        }
    }
}

/// One line of the log (`audit.k8s.io/v1`, kind Event), as far as we read it.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "auditID")]
    id: String,
    stage: String,
    verb: String,
    user: User,
    #[serde(default, rename = "objectRef")]
    object: Object,
    #[serde(rename = "responseStatus")]
    response: Option<Response>,
}

#[derive(Debug, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Response {
    code: Option<u16>,
}

/// The writes of one reading, in the order of their first events, with the offset of those.
#[derive(Debug, Default)]
struct Seen {
    writes: Vec<(u64, Write)>,
    unanswered: BTreeMap<String, usize>,
}

impl Seen {
    fn add(&mut self, offset: u64, event: Event) {
        if event.stage == "RequestReceived" {
            self.unanswered.insert(event.id.clone(), self.writes.len());
            self.writes.push((offset, Write::from(event)));
        } else if let Some(index) = self.unanswered.remove(&event.id) {
            // ResponseComplete, or Panic.
            self.writes[index].1.status = event.response.and_then(|response| response.code);
        }
        // What is left is the answer to a write from before the mark.
    }

    /// Whether writes that began at `run` or later have no outcome yet.
    fn awaits_answers(&self, run: u64) -> bool {
        self.unanswered
            .values()
            .any(|&index| self.writes[index].0 >= run)
    }
}

impl From<Event> for Write {
    fn from(event: Event) -> Self {
        let Object {
            api_group,
            mut resource,
            subresource,
            namespace,
            name,
        } = event.object;
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        Write {
            user: event.user.username,
            verb: event.verb,
            group: api_group,
            resource,
            namespace,
            name,
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn event(id: &str, stage: &str, verb: &str, code: Option<u16>) -> String {
        let mut event = serde_json::json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": id, "stage": stage, "verb": verb,
            "user": {"username": "admin", "groups": ["system:masters"]},
            "objectRef": {"resource": "protectedvms", "subresource": "status", "namespace": "prod", "name": "web",
                "apiGroup": "siterecovery.dev", "apiVersion": "v1alpha1"},
        });
        if let Some(code) = code {
            event["responseStatus"] = serde_json::json!({"metadata": {}, "code": code});
        }
        format!("{event}\n")
    }

    fn log_of(lines: &[String]) -> (tempfile::TempDir, Audit) {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path()).unwrap();
        fs::write(audit.path(), lines.concat()).unwrap();
        (folder, audit)
    }

    #[tokio::test]
    async fn a_write_is_counted_once_with_its_outcome() {
        let (_folder, audit) = log_of(&[
            event("a", "RequestReceived", "patch", None),
            event("b", "RequestReceived", "delete", None),
            event("b", "ResponseComplete", "delete", Some(404)),
            event("a", "ResponseComplete", "patch", Some(200)),
        ]);

        let writes = audit.writes_since(Mark(0), true).await.unwrap();

        let outcome: Vec<_> = writes.iter().map(|w| (w.verb.as_str(), w.status)).collect();
        assert_eq!(outcome, [("patch", Some(200)), ("delete", Some(404))]);
        let counts = by_user_and_resource(&writes);
        assert_eq!(counts[&("admin", "protectedvms/status")], 2);
        assert_eq!((&*writes[0].namespace, &*writes[0].name), ("prod", "web"));
    }

    #[tokio::test]
    async fn what_was_asked_before_the_mark_does_not_count() {
        let before = event("a", "RequestReceived", "patch", None);
        let mark = Mark(to_u64(before.len()));
        let (_folder, audit) = log_of(&[
            before,
            event("a", "ResponseComplete", "patch", Some(200)),
            event("b", "RequestReceived", "create", None),
            event("b", "ResponseComplete", "create", Some(201)),
        ]);
        let writes = audit.writes_since(mark, true).await.unwrap();
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].verb, "create");
    }

    #[tokio::test]
    async fn a_killed_server_leaves_an_unknown_outcome_and_a_readable_log() {
        let mut torn = event("b", "ResponseComplete", "create", Some(201));
        torn.truncate(40);
        let (_folder, mut audit) = log_of(&[event("b", "RequestReceived", "create", None), torn]);

        audit.begin_run().unwrap();

        // Nothing runs that could still answer, so this returns at once.
        let writes = audit.writes_since(Mark(0), true).await.unwrap();
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].status, None);
    }

    #[tokio::test]
    async fn a_damaged_line_is_an_error_with_its_place() {
        let good = event("a", "RequestReceived", "patch", None);
        let place = to_u64(good.len());
        let (_folder, audit) = log_of(&[good, "not json\n".to_owned()]);
        let error = audit.writes_since(Mark(0), true).await.unwrap_err();
        assert!(matches!(error, Error::Audit { offset, .. } if offset == place));
    }

    #[tokio::test]
    async fn a_log_that_was_cut_is_not_taken_for_one_without_writes() {
        let (_folder, audit) = log_of(&[]);
        let error = audit.writes_since(Mark(1), true).await.unwrap_err();
        assert!(matches!(error, Error::AuditCut { .. }));
    }
}
