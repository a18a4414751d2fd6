//! Whether a recovery point is what its source was, said by programs that are not ours.
//!
//! ```text
//! frozen chain ────────7zz──────────► content ─┐
//!                                              ├─ digests of every MiB ─► equal?      (`judge.py`)
//! blob snapshots ──azure-storage-blob─► content ┘
//! ```
//! A chain holds still only between a barrier and its release, so [`Witness`] holds the release at a gate of the lab
//! hypervisor while 7-Zip reads. Guests write on meanwhile: into children that the point does not have.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::durable;
use crate::host::lab::LabHypervisor;
use crate::host::lab::connection::Connection;
use crate::host::lab::console::Console;
use crate::host::lab::fault::{Effect, Fault, Place};
use crate::host::lab::protocol::{Call, FrozenChain};
use crate::host::{FrozenPoint, Hypervisor as _};
use crate::ids::{DiskSlot, VmId};
use crate::lab::azurite::Azurite;
use crate::lab::file::{FileError, file_error};
use crate::lab::tools::{self, Tools, debian};
use crate::report::Code;

const JUDGE: &str = include_str!("verdict/judge.py");
const SEVEN_ZIP: &str = "7zz";

/// A comparison that could not be made. One that found a difference is no error: see [`Compared::wrong`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot keep the judge")]
    Judge(#[from] durable::Error),
    #[error("cannot obtain a program")]
    Tools(#[from] tools::Error),
    #[error("cannot run {program}")]
    Run { program: String, source: io::Error },
    #[error("{program} failed: {said}")]
    Failed { program: String, said: String },
    #[error("the hypervisor refuses")]
    Host(#[from] Box<crate::host::Error>),
    #[error("the hypervisor does not open {disk}: {said}")]
    Open { disk: DiskSlot, said: String },
    #[error("{vm} has {number} frozen points instead of one")]
    Points { vm: VmId, number: usize },
    #[error("the judge answers `{said}`")]
    Answer { said: String },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::File(_) | Error::Judge(_) | Error::Run { .. } => Code::Configuration,
            Error::Tools(source) => source.code(),
            Error::Host(source) => source.code(),
            Error::Failed { .. }
            | Error::Open { .. }
            | Error::Points { .. }
            | Error::Answer { .. } => Code::Internal,
        }
    }
}

/// The programs that judge.
#[derive(Clone, Debug)]
pub struct Judge {
    python: PathBuf,
    script: PathBuf,
    folder: PathBuf,
}

/// What the disks of a machine held at a barrier.
#[derive(Clone, Debug)]
pub struct Source {
    pub time: Timestamp,
    /// A file with the digests of each disk.
    digests: Vec<(DiskSlot, PathBuf)>,
}

/// A disk of a recovery point, compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Compared {
    /// Bytes of the point that are not zero, in whole MiB.
    pub bytes: u64,
    /// Offsets of MiB that differ; the first ten.
    pub wrong: Vec<u64>,
}

impl Judge {
    /// Obtains the programs; `folder` keeps the judge and what it found. Blocks, the first time for a while.
    ///
    /// # Errors
    /// If a program cannot be obtained or a file not be written.
    pub fn obtain(tools: &Tools, folder: &Path) -> Result<Self, Error> {
        tools.ensure_packages(&[debian::SEVEN_ZIP])?;
        let python = tools.python()?;
        std::fs::create_dir_all(folder).map_err(file_error("create", folder))?;
        let script = folder.join("judge.py");
        durable::write(&script, JUDGE.as_bytes())?;
        Ok(Judge {
            python,
            script,
            folder: folder.to_owned(),
        })
    }

    /// Reads an image with its parents and keeps the digests of its content in a file called `name`.
    fn digest(&self, image: &Path, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        let file = std::fs::File::create(&path).map_err(file_error("create", &path))?;
        let is_vhdx = image
            .extension()
            .is_some_and(|extension| extension.to_string_lossy().ends_with("vhdx"));
        let kind = if is_vhdx { "-tvhdx" } else { "-tvhd" };
        let run_error = |program: &str| {
            let program = program.to_owned();
            move |source| Error::Run { program, source }
        };
        let mut reader = Command::new(SEVEN_ZIP)
            .args(["e", "-so", kind])
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(run_error(SEVEN_ZIP))?;
        let content = reader.stdout.take().expect("standard output is a pipe");
        let output = Command::new(&self.python)
            .arg(&self.script)
            .arg("source")
            .stdin(content)
            .stdout(file)
            .stderr(Stdio::piped())
            .output();
        let read = reader.wait();
        let output = output.map_err(run_error("judge.py"))?;
        let read = read.map_err(run_error(SEVEN_ZIP))?;
        if !read.success() {
            let said = format!("{read} on {}", image.display());
            return Err(failed(SEVEN_ZIP, said));
        }
        if !output.status.success() {
            return Err(failed("judge.py", text(&output.stderr)));
        }
        Ok(path)
    }

    /// Compares the point of `source`'s barrier with it. `disks` names the replica's disk at each slot.
    ///
    /// # Errors
    /// If the point is not there or cannot be read.
    pub fn compare(
        &self,
        azurite: &Azurite,
        replica: &str,
        source: &Source,
        disks: &[(DiskSlot, String)],
    ) -> Result<Vec<(DiskSlot, Compared)>, Error> {
        let account = azurite.account();
        let mut command = Command::new(&self.python);
        command
            .arg(&self.script)
            .args(["point", &azurite.endpoint(), &account.name, replica])
            .arg(source.time.to_string())
            .env("ACCOUNT_KEY", account.key.expose());
        for (slot, disk) in disks {
            let of_slot = source.digests.iter().find(|(known, _)| known == slot);
            if let Some((_, digests)) = of_slot {
                command.arg(format!("{disk}={}", digests.display()));
            }
        }
        let output = command.output().map_err(|source| Error::Run {
            program: "judge.py".to_owned(),
            source,
        })?;
        if !output.status.success() {
            return Err(failed("judge.py", text(&output.stderr)));
        }
        let unclear = || Error::Answer {
            said: text(&output.stdout),
        };
        let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| unclear())?;
        disks
            .iter()
            .map(|(slot, disk)| {
                let compared = Compared::deserialize(&answer["disks"][disk]);
                Ok((slot.clone(), compared.map_err(|_| unclear())?))
            })
            .collect()
    }
}

/// Sees what a machine's disks hold at the barrier of its first recovery point.
#[derive(Clone, Debug)]
pub struct Witness {
    judge: Judge,
    console: Console,
    socket: PathBuf,
    vm: VmId,
}

impl Witness {
    pub fn new(judge: Judge, socket: PathBuf, vm: VmId) -> Self {
        Witness {
            judge,
            console: Console::new(&socket),
            socket,
            vm,
        }
    }

    fn gate(&self, number: u32) -> String {
        format!("{}/release-{number}", self.vm)
    }

    fn hold(&self, number: u32) -> Result<(), Error> {
        let fault = Fault {
            place: Place::Commit,
            vm: Some(self.vm.clone()),
            disk: None,
            times: 1,
            effect: Effect::Hold {
                gate: self.gate(number),
            },
        };
        Ok(self.console.fault(&fault).map_err(Box::new)?)
    }

    /// Arranges that the machine's next release waits for [`Witness::observe`]. Blocks.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    pub fn prepare(&self) -> Result<(), Error> {
        self.hold(1)
    }

    /// Waits for the first copy to end and then for the barrier after it, and reads what the disks hold there. Blocks
    /// as long as that takes; `go_on` is asked in between whether to.
    ///
    /// # Errors
    /// If the hypervisor refuses, or a program fails. Nothing is left held.
    pub fn observe(&self, go_on: &dyn Fn() -> bool) -> Result<Option<Source>, Error> {
        if !self.await_held(1, go_on)? {
            return Ok(None);
        }
        self.hold(2)?;
        self.release(1)?;
        if !self.await_held(2, go_on)? {
            return Ok(None);
        }
        let source = self.read();
        self.release(2)?;
        source.map(Some)
    }

    fn await_held(&self, number: u32, go_on: &dyn Fn() -> bool) -> Result<bool, Error> {
        while go_on() {
            if self
                .console
                .await_held(&self.gate(number))
                .map_err(Box::new)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn release(&self, number: u32) -> Result<(), Error> {
        Ok(self.console.release(&self.gate(number)).map_err(Box::new)?)
    }

    fn read(&self) -> Result<Source, Error> {
        let points = LabHypervisor::new(&self.socket)
            .points(&self.vm)
            .map_err(Box::new)?;
        let [point] = points.as_slice() else {
            return Err(Error::Points {
                vm: self.vm.clone(),
                number: points.len(),
            });
        };
        let digests = point
            .disks
            .iter()
            .map(|disk| {
                let image = self.image(point, disk)?;
                let name = format!("{}-{disk}.json", self.vm).replace(':', "-");
                Ok((disk.clone(), self.judge.digest(&image, &name)?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Source {
            time: point.taken_at,
            digests,
        })
    }

    fn image(&self, point: &FrozenPoint, disk: &DiskSlot) -> Result<PathBuf, Error> {
        let call = Call::Open {
            vm: self.vm.clone(),
            point: point.id.clone(),
            disk: disk.clone(),
        };
        let unopened = |said: String| Error::Open {
            disk: disk.clone(),
            said,
        };
        let chain: FrozenChain = Connection::new(&self.socket)
            .call(&call)
            .map_err(|failure| unopened(failure.detail))?;
        let image = chain.layers.into_iter().next();
        image.ok_or_else(|| unopened("the chain has no image".to_owned()))
    }
}

fn failed(program: &str, said: String) -> Error {
    Error::Failed {
        program: program.to_owned(),
        said,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
