//! Compares a replica with what it says of itself, and changes nothing.
//!
//! ```text
//! manifest ► listing ► manifest again   every snapshot, head and table part that both manifests name is listed
//!          ► tables                     each part read whole: order, bounds, BLAKE3
//!          ► content                    each disk of one point against its composed table; padding and footer
//! inbox    ► manifest                   each seal that waits: chain, logs
//! ```
//! It may run beside a data path. What it misses is looked up in a fresh manifest: if that does not name it any more, it
//! was pruned, folded or applied meanwhile, and is reported as gone, not as damage. An error of storage itself ends the
//! verification: nothing is called damaged that could not be read.

mod inventory;
pub mod report;
mod seals;

use futures::{StreamExt, TryStreamExt};

use crate::blob::names::BlobRef;
use crate::datapath::content::compare::Compared;
use crate::datapath::content::{self, Progress, Subject, Want};
use crate::datapath::disk;
use crate::datapath::inspect::{self, Error};
use crate::datapath::store::Store;
use crate::datapath::verify::report::{DiskReport, Findings, Report};
use crate::formats::vhd;
use crate::ids::{DiskId, RecoveryPointId};
use crate::replica::manifest::{Manifest, Point, TableRef};
use crate::replica::names;
use crate::report::Code;
use crate::units::{ByteRange, SECTOR, is_zero};

/// Chunk table parts that are read at the same time.
const PARTS: usize = 4;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What a point's id begins with; the newest if nothing is said.
    pub point: Option<String>,
    /// Leaves out what takes time in proportion to the disks.
    pub without_content: bool,
}

/// Verifies a replica.
///
/// # Errors
/// If there is no manifest or it cannot be understood, the wanted point does not exist, a document is of a newer
/// format, or storage cannot be read. Damage is no error: it is in the report.
pub async fn verify(
    store: &Store,
    options: &Options,
    progress: &Progress,
) -> Result<Report, Error> {
    let manifest = inspect::manifest(store).await?;
    let point = match (&options.point, manifest.points.is_empty()) {
        (None, true) => None,
        (wanted, _) => Some(inspect::find_point(&manifest, wanted.as_deref())?.clone()),
    };
    let verifier = Verifier { store };
    let mut findings = Findings::default();
    let counted = verifier.inventory(&manifest, &mut findings).await?;
    let tables = verifier.tables(&manifest, &mut findings).await?;
    let mut disks = Vec::new();
    if let Some(point) = point.as_ref().filter(|_| !options.without_content) {
        progress.expect(point.disks.values().map(|disk| disk.size).sum());
        for disk in point.disks.keys() {
            let compared = verifier
                .content(point, disk, progress, &mut findings)
                .await?;
            disks.push(DiskReport {
                disk: disk.clone(),
                size: point.disks[disk].size,
                compared,
            });
        }
    }
    let inbox = verifier.seals(&mut findings).await?;
    Ok(Report {
        replica: store.id.clone(),
        applied: manifest.last_applied.sequence,
        points: manifest.points.len(),
        snapshots: counted.snapshots,
        tables,
        point: point.map(|point| point.id),
        disks,
        inbox,
        findings,
    })
}

struct Verifier<'a> {
    store: &'a Store,
}

impl Verifier<'_> {
    /// Reads every part of every chunk table: how many there are.
    async fn tables(&self, manifest: &Manifest, findings: &mut Findings) -> Result<u64, Error> {
        let mut parts = Vec::new();
        for disk in manifest.disks.values() {
            parts.extend(disk.tables.iter().map(|part| (part.clone(), disk.size)));
        }
        let checks = parts.into_iter().map(|(part, size)| async move {
            let wrong = self.part(&part, size).await?;
            Ok::<_, Error>((part, wrong))
        });
        let mut checked = futures::stream::iter(checks).buffered(PARTS);
        let mut count = 0;
        while let Some((part, wrong)) = checked.try_next().await? {
            count += 1;
            match wrong {
                None => {}
                Some(Wrong::Gone) => findings.gone(&part.blob, "it was folded meanwhile"),
                Some(Wrong::Damaged(what)) => {
                    findings.damage(Code::ReplicaDamaged, &part.blob, what);
                }
            }
        }
        self.spans(manifest, findings);
        Ok(count)
    }

    async fn part(&self, part: &TableRef, size: u64) -> Result<Option<Wrong>, Error> {
        match content::table::check(self.store, part, size).await {
            Ok(()) => Ok(None),
            Err(Error::Table(error)) => Ok(Some(Wrong::Damaged(error.to_string()))),
            Err(error) if error.is_not_found() => {
                if inspect::manifest(self.store).await?.names_part(&part.blob) {
                    let what = "replica.json names it, and it is not there".to_owned();
                    return Ok(Some(Wrong::Damaged(what)));
                }
                Ok(Some(Wrong::Gone))
            }
            Err(error) => Err(error),
        }
    }

    /// Parts on both sides of a point stay apart: else its table cannot be told.
    fn spans(&self, manifest: &Manifest, findings: &mut Findings) {
        for (id, disk) in &manifest.disks {
            let points = || {
                manifest
                    .points
                    .iter()
                    .filter(|at| at.disks.contains_key(id))
            };
            for part in &disk.tables {
                let inside = |at: &&Point| part.from <= at.sequence && at.sequence < part.to;
                if let Some(point) = points().find(inside) {
                    let what = format!("it spans recovery point {}", point.id);
                    findings.damage(Code::ReplicaDamaged, &part.blob, what);
                }
            }
        }
    }

    /// Compares a disk of a point with its table; nothing if that could not be done.
    async fn content(
        &self,
        point: &Point,
        disk: &DiskId,
        progress: &Progress,
        findings: &mut Findings,
    ) -> Result<Option<Compared>, Error> {
        let compared = match self.compare(point, disk, progress).await {
            Ok(compared) => compared,
            Err(error) => {
                self.uncompared(&point.id, disk, error, findings).await?;
                return Ok(None);
            }
        };
        let (compared, end) = compared;
        let object = format!("{} at recovery point {}", names::disk(disk), point.id);
        if let Some(first) = compared.differing_at.first() {
            let what = format!(
                "{} of {} chunks are not what the chunk table says, the first at byte {first}",
                compared.differing,
                compared.total()
            );
            findings.damage(Code::ReplicaDamaged, &object, what);
        }
        if let Some(what) = end {
            findings.damage(Code::ReplicaDamaged, &object, what);
        }
        Ok(Some(compared))
    }

    async fn compare(
        &self,
        point: &Point,
        disk: &DiskId,
        progress: &Progress,
    ) -> Result<(Compared, Option<String>), Error> {
        let (subject, table) = content::subject(self.store, &point.id, disk).await?;
        let pieces = content::pieces(self.store, &subject, Some(table), Want::Comparison);
        let mut pieces = std::pin::pin!(pieces);
        let mut compared = Compared::default();
        while let Some(piece) = pieces.try_next().await? {
            compared += piece.compared;
            progress.advance(piece.range.len());
        }
        Ok((compared, self.end(&subject).await?))
    }

    /// What is wrong behind the disk's last byte: padding up to whole MiB, and the footer.
    async fn end(&self, subject: &Subject) -> Result<Option<String>, Error> {
        let padded = disk::padded(subject.size);
        let range = ByteRange::new(subject.size, padded + SECTOR).expect("the footer is behind");
        let got = self
            .store
            .replica
            .get(&subject.snapshot, Some(range), range.len());
        let got = got
            .await
            .map_err(Error::storage("read the end of a recovery point"))?;
        let expected = vhd::fixed_footer(
            padded,
            disk::identity_of(&subject.disk),
            jiff::Timestamp::UNIX_EPOCH,
        );
        let wrong = match got.bytes.strip_suffix(&expected[..]) {
            None => Some("its VHD footer is damaged".to_owned()),
            Some(padding) if !is_zero(padding) => Some(format!(
                "bytes after its last at {} are not zero",
                subject.size
            )),
            Some(_) => None,
        };
        Ok(wrong)
    }

    /// Why a disk could not be compared: gone with its point, or damaged. Else it is an error.
    async fn uncompared(
        &self,
        point: &RecoveryPointId,
        disk: &DiskId,
        error: Error,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let object = format!("{} at recovery point {point}", names::disk(disk));
        let missing = error.is_not_found() || matches!(error, Error::NoPoint { .. });
        if missing {
            let now = inspect::manifest(self.store).await?;
            if now.points.iter().all(|known| known.id != *point) {
                findings.gone(&object, "the recovery point was pruned meanwhile");
                return Ok(());
            }
        }
        if !missing && error.code() != Code::ReplicaDamaged {
            return Err(error);
        }
        let what = format!("it cannot be compared: {}", error.fault().message);
        findings.damage(Code::ReplicaDamaged, &object, what);
        Ok(())
    }
}

/// What is wrong with something that the manifest names.
enum Wrong {
    /// The manifest does not name it any more.
    Gone,
    Damaged(String),
}

/// The head of a disk.
fn head(disk: &DiskId) -> BlobRef {
    BlobRef::head(names::disk(disk))
}
