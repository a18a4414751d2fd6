//! All state: resources, what is under way, the files of disks. What is answered is on disk before.
//!
//! ```text
//! <folder>/resources/<digest of the id>.json   a resource      <folder>/disks/<unique id>.raw   the bytes of a disk
//! <folder>/operations/<id>.json                a job
//! ```
//! Time does not run by itself here: whatever looks first lets come true what is due ([`crate::lab::arm::jobs`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::lab::arm::admission::Throttle;
use crate::lab::arm::faults::Faults;
use crate::lab::arm::jobs::{self, Job, State};
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::route::{Route, key, route};
use crate::lab::arm::{Error, Options, content, import};
use crate::report;
use crate::units::ByteRange;

/// Requests that are remembered for whoever asks.
const JOURNAL_MAX: usize = 20_000;
/// Operations that are remembered.
const JOBS_MAX: usize = 5000;

/// A resource, as it is answered and what is known of it besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resource {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) body: Value,
    /// Of a disk or a snapshot: the file of its bytes.
    #[serde(default)]
    pub(crate) file: Option<String>,
    /// Of a machine: `running`, `stopped`, `deallocated`.
    #[serde(default)]
    pub(crate) power: Option<String>,
    #[serde(default)]
    pub(crate) grant: Option<Grant>,
}

/// A signature that is valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) signature: String,
    pub(crate) expires: Timestamp,
}

impl Resource {
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer)?.as_str()
    }

    pub(crate) fn properties(&mut self) -> &mut serde_json::Map<String, Value> {
        let object = self.body.as_object_mut();
        let object = object.expect("a body is an object: others are refused");
        let properties = object
            .entry("properties")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        properties.as_object_mut().expect("checked with the body")
    }

    pub(crate) fn set(&mut self, property: &str, value: impl Into<Value>) {
        self.properties().insert(property.to_owned(), value.into());
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.text("/properties/provisioningState") == Some("Succeeded")
    }

    /// The machine that it is attached to.
    pub(crate) fn machine(&self) -> Option<&str> {
        let of_disk = self.text("/managedBy");
        of_disk.or_else(|| self.text("/properties/virtualMachine/id"))
    }
}

/// What changes together.
pub(crate) struct Inner {
    folder: PathBuf,
    pub(crate) resources: BTreeMap<String, Resource>,
    pub(crate) jobs: BTreeMap<String, Job>,
}

impl Inner {
    pub(crate) fn get(&self, id: &str) -> Option<&Resource> {
        self.resources.get(&key(id))
    }

    pub(crate) fn need(&self, id: &str) -> Refusable<&Resource> {
        self.get(id).ok_or_else(|| Refusal::not_found(id))
    }

    /// Keeps a resource, durably.
    pub(crate) fn put(&mut self, resource: Resource) -> Refusable<()> {
        self.write("resources", &key(&resource.id), &resource)?;
        self.resources.insert(key(&resource.id), resource);
        Ok(())
    }

    /// Forgets a resource and its bytes.
    pub(crate) fn remove(&mut self, id: &str) -> Refusable<()> {
        let Some(resource) = self.resources.get(&key(id)) else {
            return Ok(());
        };
        let file = resource.file.as_deref().map(|file| self.file(file));
        self.erase("resources", &key(id))?;
        self.resources.remove(&key(id));
        // The bytes of what is gone: nobody asks for them, and the next start would not miss them.
        if let Some(file) = file {
            let _gone = fs::remove_file(file);
        }
        Ok(())
    }

    pub(crate) fn put_job(&mut self, job: Job) -> Refusable<()> {
        if self.jobs.len() >= JOBS_MAX && !self.jobs.contains_key(&job.id) {
            self.forget()?;
        }
        self.write("operations", &job.id, &job)?;
        self.jobs.insert(job.id.clone(), job);
        Ok(())
    }

    /// Azure forgets operations some time after they have ended; here the oldest half goes.
    fn forget(&mut self) -> Refusable<()> {
        let ended = self
            .jobs
            .values()
            .filter(|job| job.state != State::InProgress);
        let mut ended: Vec<(Timestamp, String)> =
            ended.map(|job| (job.begun, job.id.clone())).collect();
        ended.sort();
        for (_, id) in &ended[..ended.len() / 2] {
            self.remove_job(id)?;
        }
        Ok(())
    }

    pub(crate) fn remove_job(&mut self, id: &str) -> Refusable<()> {
        self.erase("operations", id)?;
        self.jobs.remove(id);
        Ok(())
    }

    /// The file of a disk's bytes.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join("disks").join(format!("{name}.raw"))
    }

    fn path(&self, shelf: &str, name: &str) -> PathBuf {
        let digest = blake3::hash(name.as_bytes()).to_hex();
        self.folder
            .join(shelf)
            .join(format!("{}.json", &digest[..32]))
    }

    fn write(&self, shelf: &str, name: &str, value: &impl Serialize) -> Refusable<()> {
        durable::write_record(&self.path(shelf, name), value)
            .map_err(|error| Refusal::internal(report::chain(&error)))
    }

    fn erase(&self, shelf: &str, name: &str) -> Refusable<()> {
        durable::remove(&self.path(shelf, name))
            .map_err(|error| Refusal::internal(report::chain(&error)))
    }
}

pub(crate) struct Cloud {
    pub(crate) options: Options,
    port: u16,
    pub(crate) faults: Faults,
    pub(crate) throttle: Option<Throttle>,
    inner: Mutex<Inner>,
    takes: Mutex<Duration>,
    requests: Mutex<Vec<Request>>,
    stop: CancellationToken,
}

/// A request that changed something or was to, and its answer's status.
struct Request {
    method: String,
    path: String,
    body: Value,
    status: u16,
}

impl Cloud {
    pub(crate) fn open(options: Options, port: u16) -> Result<Self, Error> {
        let folder = options.folder.clone();
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Folder { path, source }
        };
        for shelf in ["resources", "operations", "disks"] {
            let path = folder.join(shelf);
            let made = fs::create_dir_all(&path).map_err(|source| durable::Error::Io {
                action: "create",
                path: path.clone(),
                source,
            });
            made.map_err(wrong(&folder))?;
            durable::sweep(&path).map_err(wrong(&folder))?;
        }
        let resources: Vec<Resource> = load(&folder.join("resources")).map_err(wrong(&folder))?;
        let jobs: Vec<Job> = load(&folder.join("operations")).map_err(wrong(&folder))?;
        let inner = Inner {
            resources: resources
                .into_iter()
                .map(|one| (key(&one.id), one))
                .collect(),
            jobs: jobs.into_iter().map(|one| (one.id.clone(), one)).collect(),
            folder,
        };
        Ok(Cloud {
            port,
            faults: Faults::default(),
            throttle: options.throttle.map(Throttle::new),
            inner: Mutex::new(inner),
            takes: Mutex::new(options.takes),
            requests: Mutex::new(Vec::new()),
            stop: CancellationToken::new(),
            options,
        })
    }

    /// What its URLs begin with.
    pub(crate) fn url(&self) -> String {
        let scheme = match self.options.tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Imports that were under way when the process ended begin anew.
    pub(crate) fn resume(self: &Arc<Self>) {
        let waiting: Vec<String> = {
            let inner = self.lock();
            let jobs = inner.jobs.values().filter(|job| job.awaits_import());
            jobs.map(|job| job.id.clone()).collect()
        };
        for job in waiting {
            self.import(job);
        }
    }

    /// Reads the blob of an import, beside everything else.
    pub(crate) fn import(self: &Arc<Self>, job: String) {
        let cloud = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = import::run(&cloud, &job) => {}
                () = cloud.stop.cancelled() => {}
            }
        });
    }

    pub(crate) fn end(&self) {
        self.stop.cancel();
    }

    /// The state, with everything that is due come true.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        jobs::settle(&mut inner, Timestamp::now());
        act(&mut inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn takes(&self) -> Duration {
        *self.takes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_takes(&self, time: Duration) {
        *self.takes.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    pub(crate) fn remember(&self, method: &str, path: &str, body: &Value, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < JOURNAL_MAX {
            requests.push(Request {
                method: method.to_owned(),
                path: path.to_owned(),
                body: body.clone(),
                status,
            });
        }
    }

    pub(crate) fn journal(&self) -> Vec<(String, String, u16)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |one: &Request| (one.method.clone(), one.path.clone(), one.status);
        requests.iter().map(told).collect()
    }

    pub(crate) fn bodies(&self) -> Vec<(String, String, Value)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let good = requests.iter().filter(|one| one.status < 300);
        good.map(|one| (one.method.clone(), one.path.clone(), one.body.clone()))
            .collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.with(|inner| inner.resources.values().map(|one| one.id.clone()).collect())
    }

    pub(crate) fn place(&self, id: &str, mut body: Value) -> Result<(), Error> {
        let kind = match route(id) {
            Route::Resource { kind, .. } => kind,
            Route::Group { .. } => "resourcegroup".to_owned(),
            _ => return Err(Error::Console(format!("{id} is no resource's id"))),
        };
        if let Some(object) = body.as_object_mut() {
            object.insert("id".to_owned(), Value::from(id));
        }
        let mut resource = Resource {
            id: id.to_owned(),
            kind,
            body,
            file: None,
            power: None,
            grant: None,
        };
        resource.set("provisioningState", "Succeeded");
        self.with(|inner| inner.put(resource))
            .map_err(|refusal| Error::Console(refusal.message))
    }

    /// The disk at a place of a machine that runs.
    pub(crate) fn disk_of_running(
        &self,
        machine: &str,
        lun: Option<u64>,
    ) -> Result<String, String> {
        self.with(|inner| {
            let found = inner.get(machine).ok_or("there is no such machine")?;
            if found.power.as_deref() != Some("running") {
                return Err(format!("{machine} does not run"));
            }
            let profile = "/properties/storageProfile";
            let disk = match lun {
                None => found.text(&format!("{profile}/osDisk/managedDisk/id")),
                Some(lun) => {
                    let disks = found.body.pointer(&format!("{profile}/dataDisks"));
                    let mut disks = disks.and_then(Value::as_array).into_iter().flatten();
                    let disk = disks.find(|disk| disk["lun"].as_u64() == Some(lun));
                    disk.and_then(|disk| disk.pointer("/managedDisk/id")?.as_str())
                }
            };
            disk.map(str::to_owned)
                .ok_or_else(|| format!("{machine} has no such disk"))
        })
    }

    pub(crate) fn write_disk(&self, id: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        // Under the lock: a snapshot is of one moment.
        self.with(|inner| {
            let path = path_of(inner, id)?;
            content::write(&path, offset, bytes).map_err(|error| error.to_string())
        })
    }

    pub(crate) fn read_disk(&self, id: &str, range: ByteRange) -> Result<Vec<u8>, String> {
        let path = self.with(|inner| path_of(inner, id))?;
        content::read(&path, range).map_err(|error| error.to_string())
    }
}

fn path_of(inner: &Inner, id: &str) -> Result<PathBuf, String> {
    let file = inner.get(id).and_then(|one| one.file.as_deref());
    file.map(|file| inner.file(file))
        .ok_or_else(|| format!("{id} has no bytes"))
}

fn load<T: DeserializeOwned>(folder: &Path) -> Result<Vec<T>, durable::Error> {
    let wrong = |source| durable::Error::Io {
        action: "list",
        path: folder.to_owned(),
        source,
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        all.extend(durable::read_record(&entry.map_err(wrong)?.path())?);
    }
    Ok(all)
}
