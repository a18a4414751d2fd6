//! `site-recovery replica list|verify|restore`: from the storage account alone, with no cluster and no host.
//!
//! Nothing in the account is changed. Errors leave with 1, as everywhere, and what was typed wrongly with 2; `verify`
//! leaves with 3 where it found damage.

mod account;
mod list;
mod restore;
mod verify;

use std::convert::Infallible;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;

use crate::blob::Account;
use crate::cli;
use crate::cli::output;
use crate::cli::replica::account::AccountArgs;
use crate::datapath::content::Progress;
use crate::datapath::inspect::catalog::{self, Wanted};
use crate::datapath::inspect::{self, Error};
use crate::datapath::store::Store;
use crate::ids::{DiskId, ObjectName, ReplicaId};
use crate::replica::names::Prefix;
use crate::report::{Code, Fault};
use crate::shutdown;
use crate::units::Bytes;

/// How often a terminal is told how far it is.
const TOLD: Duration = Duration::from_secs(1);

/// After which time it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what an account has; of one VM its recovery points, its disks, and what waits
    List(list::Args),
    /// Compare a replica with its chunk tables and logs; exits with 3 where it found damage
    Verify(verify::Args),
    /// Write the disks of a recovery point into image files
    Restore(restore::Args),
}

/// Which replica.
#[derive(Debug, clap::Args)]
struct ReplicaArgs {
    /// The ProtectedVM as namespace/name, or the id of its replica
    #[arg(value_name = "VM")]
    vm: VmName,
    #[command(flatten)]
    account: AccountArgs,
}

#[derive(Clone, Debug)]
struct VmName(Wanted);

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse::<ReplicaId>() {
            return Ok(VmName(Wanted::Replica(id)));
        }
        match text.parse::<ObjectName>() {
            Ok(object) => Ok(VmName(Wanted::Object(object))),
            Err(_) => Err("neither namespace/name nor a replica id of 26 characters".to_owned()),
        }
    }
}

/// An account that was opened, and what of it is looked at.
struct Opened {
    account: Arc<dyn Account>,
    prefix: Option<Prefix>,
    /// For how long what it has is looked for at most.
    timeout: Option<Duration>,
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    cli::runtime()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let work = async {
            match command {
                Command::List(args) => list::run(args).await,
                Command::Verify(args) => verify::run(args).await,
                Command::Restore(args) => restore::run(args).await,
            }
        };
        tokio::select! {
            done = work => done,
            () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
        }
    })
}

impl Opened {
    async fn find(&self, wanted: &Wanted) -> anyhow::Result<Store> {
        let found = catalog::find(self.account.as_ref(), self.prefix.as_ref(), wanted);
        self.awaited(found).await
    }

    /// Waits for what storage says, and tells standard error so if it takes long: a request is sent again for some time.
    async fn awaited<T>(&self, work: impl Future<Output = Result<T, Error>>) -> anyhow::Result<T> {
        let endpoint = self.account.endpoint();
        let told = async {
            tokio::time::sleep(SILENCE).await;
            output::note(&format!(
                "waits for {endpoint}; what is not answered is given up after some minutes, or sooner with --timeout"
            ));
            std::future::pending::<Infallible>().await
        };
        let ended = async {
            let limit = self.timeout.unwrap_or(Duration::MAX);
            tokio::time::sleep(limit).await;
            limit.as_secs()
        };
        tokio::select! {
            done = work => done.map_err(said),
            seconds = ended => {
                let message = format!("{endpoint} has not said all within {seconds} seconds");
                Err(spoken(&Fault::new(Code::StorageUnreachable, message)))
            }
            never = told => match never {},
        }
    }
}

/// An error of the library as people read it: code, what happened to what, and what to do.
fn said(error: Error) -> anyhow::Error {
    spoken(&Fault::from(error))
}

fn spoken(fault: &Fault) -> anyhow::Error {
    let Fault { code, message } = fault;
    anyhow::anyhow!("{code}: {message} ({})", remedy(*code))
}

/// What whoever typed a command should do: a code's own remedy is for whoever runs a controller.
const fn remedy(code: Code) -> &'static str {
    match code {
        Code::StorageUnreachable => {
            "Check --account or --endpoint, and name resolution, proxy and firewall from this machine."
        }
        Code::StorageUnauthorized | Code::WaitingForCredentials => {
            "Check the key, signature or identity that was given: that it is of this account, has not expired, and may \
             read and list."
        }
        Code::StorageNotFound => {
            "Check --account, --prefix and the name; `replica list` shows what the account has."
        }
        Code::StorageBusy
        | Code::StorageServerError
        | Code::StorageConflict
        | Code::StorageChanged
        | Code::StorageIntegrity => {
            "Try again; if it persists, look at Azure's service health and at the network in between."
        }
        Code::FormatTooNew => "Use the version of this program that wrote it, or a newer one.",
        Code::ReplicaDamaged | Code::SealInvalid | Code::SequenceGap | Code::ForeignBlob => {
            "`replica verify` says what is damaged; `replica restore --point` restores another recovery point."
        }
        Code::HostIo | Code::HostDiskFull => "Check the disk that is written to.",
        code => code.remedy(),
    }
}

/// What a disk is called beside its id: its place in the machine, if that is known.
fn disk_name(overview: &inspect::Overview, disk: &DiskId) -> String {
    match overview.slot(disk) {
        Some(slot) => slot.to_string(),
        None => disk.to_string(),
    }
}

/// Does some work and tells standard error how far it is, if a terminal is there to show it.
async fn watched<T>(progress: &Progress, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TOLD);
    ticks.tick().await;
    loop {
        tokio::select! {
            done = &mut work => {
                output::end_progress();
                return done;
            }
            _ = ticks.tick() => {
                let (done, total) = progress.now();
                if let Some(percent) = (u128::from(done) * 100).checked_div(total.into()) {
                    output::progress(&format!("{what} {} of {}, {percent} %", Bytes(done), Bytes(total)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_remedy_sends_whoever_typed_a_command_to_a_controller_for_what_storage_says() {
        let spoken = Code::ALL
            .iter()
            .filter(|code| code.as_str().starts_with("Storage"));
        for code in spoken.filter(|code| **code != Code::StorageRefused) {
            assert_ne!(remedy(*code), code.remedy(), "{code}");
        }
        // These commands ask nothing of Azure's control plane.
        let met = Code::ALL
            .iter()
            .filter(|code| !code.as_str().starts_with("Azure"));
        for code in met {
            let remedy = remedy(*code);
            let controllers = ["the site names", "controller runs"];
            assert!(
                controllers.iter().all(|words| !remedy.contains(words)),
                "{code}: {remedy}"
            );
        }
    }

    #[test]
    fn a_vm_is_an_object_or_a_replica_id() {
        let id = ReplicaId::from_random(3);
        let read = |text: &str| text.parse::<VmName>().map(|name| name.0);
        assert_eq!(read(id.as_str()), Ok(Wanted::Replica(id.clone())));
        let object = ObjectName::new("default", "web").unwrap();
        assert_eq!(read("default/web"), Ok(Wanted::Object(object)));
        assert!(read("web").is_err());
    }
}
