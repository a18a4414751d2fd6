//! Whether the seals that wait follow on what was applied, and whether their logs are what they say.

use crate::blob::names::BlobRef;
use crate::datapath;
use crate::datapath::inspect::{self, Error, pending::Listing};
use crate::datapath::logs;
use crate::datapath::room::Room;
use crate::datapath::verify::Verifier;
use crate::datapath::verify::report::{Findings, InboxReport};
use crate::replica::document::{self, Document};
use crate::replica::manifest::{Manifest, Verdict};
use crate::replica::seal::Seal;
use crate::replica::{Digest, names};
use crate::report::Code;
use crate::units::{Sequence, to_u64};

/// A seal as it was read.
enum Read {
    Seal(Box<Seal>, Digest),
    /// Applied meanwhile.
    Gone,
    Damaged(Code, String),
}

impl Verifier<'_> {
    /// The inbox is listed before the manifest is read, so that what is applied meanwhile is not missed.
    pub(super) async fn seals(&self, findings: &mut Findings) -> Result<InboxReport, Error> {
        let mut report = InboxReport::default();
        let listing = match Listing::list(self.store).await {
            Ok(listing) => listing,
            Err(error) if error.code() == Code::WaitingForCredentials => {
                report.unreadable = Some(error.fault().to_string());
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        let manifest = inspect::manifest(self.store).await?;
        let applied = manifest.last_applied.sequence;
        report.waiting = Some(listing.waiting(applied));
        let mut before = manifest.last_applied.seal;
        for sequence in listing.sealed_after(applied) {
            let name = names::seal(sequence);
            match self.seal(&manifest, sequence).await? {
                Read::Gone => findings.gone(&name, "it was applied meanwhile"),
                Read::Damaged(code, what) => findings.damage(code, &name, what),
                Read::Seal(seal, id) => match manifest.judge(&seal, before) {
                    Verdict::Garbage => report.retired += 1,
                    verdict => {
                        if verdict == Verdict::Gap {
                            let what = "the seal before it is missing: it names another one";
                            findings.damage(Code::SequenceGap, &name, what);
                        }
                        before = Some(id);
                        self.logs(&manifest, &seal, &mut report, findings).await?;
                    }
                },
            }
        }
        Ok(report)
    }

    async fn seal(&self, manifest: &Manifest, sequence: Sequence) -> Result<Read, Error> {
        let name = BlobRef::head(names::seal(sequence));
        let limit = to_u64(Seal::LENGTH_MAX);
        let got = match self.store.inbox.get(&name, None, limit).await {
            Ok(got) => got,
            Err(error) if error.is_not_found() => {
                return Ok(match self.passed(manifest, sequence).await? {
                    true => Read::Gone,
                    false => {
                        let what = "it was listed, is not applied, and is not there any more";
                        Read::Damaged(Code::SequenceGap, what.to_owned())
                    }
                });
            }
            Err(error) if error.is_too_large() => {
                let why = crate::report::chain(&document::too_long::<Seal>());
                return Ok(Read::Damaged(Code::SealInvalid, why));
            }
            Err(error) => return Err(Error::storage("read a seal")(error)),
        };
        match Seal::decode(&got.bytes, &self.store.id, sequence) {
            Ok((seal, id)) => Ok(Read::Seal(Box::new(seal), id)),
            Err(source) if source.code() == Code::FormatTooNew => Err(Error::Document {
                object: format!("{}/{}", self.store.inbox.name(), name.name),
                source,
            }),
            Err(source) => Ok(Read::Damaged(
                Code::SealInvalid,
                crate::report::chain(&source),
            )),
        }
    }

    async fn logs(
        &self,
        manifest: &Manifest,
        seal: &Seal,
        report: &mut InboxReport,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let Err(error) = logs::verify(self.store, seal, &Room::default()).await else {
            report.seals += 1;
            report.logs += to_u64(seal.disks.iter().map(|disk| disk.logs.len()).sum());
            return Ok(());
        };
        let name = names::seal(seal.sequence);
        match error {
            _ if self.passed(manifest, seal.sequence).await? => {
                findings.gone(&name, "it was applied meanwhile");
            }
            datapath::Error::Log { .. }
            | datapath::Error::LogFormat { .. }
            | datapath::Error::LogHash { .. } => {
                let what = error.fault().message;
                findings.damage(Code::SealInvalid, &name, what);
            }
            other => return Err(other.into()),
        }
        Ok(())
    }

    /// Whether a sequence was applied, or its chain retired, since `manifest` was read.
    async fn passed(&self, manifest: &Manifest, sequence: Sequence) -> Result<bool, Error> {
        let now = inspect::manifest(self.store).await?;
        Ok(now.last_applied.sequence >= sequence || now.chain != manifest.chain)
    }
}
