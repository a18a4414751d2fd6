//! What an agent ships, made of the product's own parts: logs as a capture writes and packs them, seals by the ledger.

use std::io::Cursor;

use anyhow::Context as _;
use jiff::Timestamp;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use site_recovery::blob::parameters::PutOptions;
use site_recovery::engine::ledger::Ledger;
use site_recovery::engine::pack;
use site_recovery::host::TrackingCursor;
use site_recovery::hrl::{Identity, LogWriter};
use site_recovery::ids::{DiskId, FrozenPointId};
use site_recovery::replica::names;
use site_recovery::replica::seal::{Barrier, Consistency, DiskCursor, Kind, SealedDisk, SealedLog};
use site_recovery::units::{ByteRange, to_u64, to_usize};
use uuid::Uuid;

/// A disk that is shipped.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    /// Bytes that the guest sees.
    pub(crate) size: u64,
}

/// Ships a first copy: of each disk so many random bytes from its beginning, and then the changes since, of which there
/// are none. With no bytes the disk was never written.
pub(crate) async fn first_copy(
    ledger: &mut Ledger,
    disks: &[Disk],
    data: u64,
) -> anyhow::Result<()> {
    let point: FrozenPointId = "first".parse().context("a valid name")?;
    let mut copied = Vec::new();
    for disk in disks {
        let logs = match data {
            0 => Vec::new(),
            data => vec![ship(ledger, disk, 0, data).await?],
        };
        copied.push(SealedDisk {
            disk: disk.id.clone(),
            size: disk.size,
            kind: Kind::Copy,
            logs,
            cursor: DiskCursor::Copied {
                point: point.clone(),
            },
        });
    }
    ledger.seal(copied, None).await?;
    let unchanged = disks.iter().map(|disk| delta(disk, Vec::new())).collect();
    Ok(ledger.seal(unchanged, Some(now())).await?)
}

/// Ships a delta: so many random bytes at `offset` of each disk.
pub(crate) async fn changes(
    ledger: &mut Ledger,
    disks: &[Disk],
    offset: u64,
    data: u64,
) -> anyhow::Result<()> {
    let mut changed = Vec::new();
    for disk in disks {
        changed.push(delta(disk, vec![ship(ledger, disk, offset, data).await?]));
    }
    Ok(ledger.seal(changed, Some(now())).await?)
}

fn delta(disk: &Disk, logs: Vec<SealedLog>) -> SealedDisk {
    SealedDisk {
        disk: disk.id.clone(),
        size: disk.size,
        kind: Kind::Delta,
        logs,
        cursor: DiskCursor::Tracking {
            cursor: TrackingCursor::new("bench"),
        },
    }
}

fn now() -> Barrier {
    Barrier {
        time: Timestamp::now(),
        consistency: Consistency::Crash,
    }
}

/// Writes a log of one range, and puts it into the inbox.
async fn ship(ledger: &Ledger, disk: &Disk, offset: u64, data: u64) -> anyhow::Result<SealedLog> {
    let range = ByteRange::at(offset, data).context("a range of the disk")?;
    let log = Uuid::new_v4();
    let identity = Identity {
        id: log,
        previous: None,
        disk_size: disk.size,
        created: Timestamp::now(),
    };
    let mut content = vec![0; to_usize(data)];
    StdRng::seed_from_u64(rand::random()).fill(content.as_mut_slice());
    let mut writer = LogWriter::new(Cursor::new(Vec::new()), identity)?;
    writer.write(offset, &content)?;
    let bytes = writer.finish(Timestamp::now())?.into_inner();
    let packed = pack::pack(log, range, bytes.into(), true);
    debug_assert!(to_u64(packed.body.len()) > data, "it is random");
    let name = names::log(ledger.next(), &log);
    let inbox = &ledger.store().inbox;
    inbox.put(&name, packed.body, &PutOptions::create()).await?;
    Ok(packed.sealed)
}
