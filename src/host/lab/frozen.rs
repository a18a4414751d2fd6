//! A frozen disk, read from its files: what `virtdisk.dll` is on a Hyper-V host.
//!
//! The files are another process's. They stay as they are while the point stands, and change when it is merged away;
//! before that its marker loses its name. So the marker is looked at *after* each read: what was read is believed only
//! if the marker still had its name then. This holds whether or not the hypervisor runs.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use crate::formats::extent::Content;
use crate::formats::{self, Image, OpenOptions, Parents};
use crate::host::lab::connection::Connection;
use crate::host::lab::failure;
use crate::host::lab::protocol::{Call, Changed, FrozenChain};
use crate::host::{Error, FrozenDisk, Kind, Ranges, Result, TrackingCursor};
use crate::ids::{DiskSlot, FrozenPointId, VmId};
use crate::units::ByteRange;

/// Which disk of which point.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) vm: VmId,
    pub(super) point: FrozenPointId,
    pub(super) disk: DiskSlot,
}

pub(super) struct Frozen {
    connection: Connection,
    name: Name,
    image: Image,
    marker: File,
}

impl Frozen {
    pub(super) fn open(connection: Connection, name: Name, chain: &FrozenChain) -> Result<Self> {
        const OPERATION: &str = "open a frozen disk";
        let marker = File::open(&chain.marker).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => name.gone(OPERATION),
            _ => name.error(Kind::Io, OPERATION, error.to_string()),
        })?;
        let Some((top, parents)) = chain.layers.split_first() else {
            return Err(name.error(Kind::Internal, OPERATION, "no file was named"));
        };
        let options = OpenOptions {
            parents: Parents::At(parents.to_vec()),
            ..OpenOptions::default()
        };
        let opened = formats::open(top, &options)
            .map_err(|error| name.own(failure::of_image(OPERATION, &error)));
        // The chain may be in the middle of a merge by now; then the marker is why.
        check(&name, &marker, OPERATION)?;
        Ok(Frozen {
            connection,
            name,
            image: opened?,
            marker,
        })
    }

    /// What was found, if the point still stood when it was found.
    fn believe<T>(&self, operation: &'static str, found: formats::Result<T>) -> Result<T> {
        check(&self.name, &self.marker, operation)?;
        found.map_err(|error| self.name.own(failure::of_image(operation, &error)))
    }
}

impl FrozenDisk for Frozen {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let read = self.image.read_at(offset, buffer);
        self.believe("read a frozen disk", read)
    }

    fn allocated(&self, window: ByteRange) -> Result<Ranges> {
        let mapped = self.image.map(window);
        let extents = self.believe("map a frozen disk", mapped)?;
        let data = extents
            .extents
            .iter()
            .filter(|extent| extent.content == Content::Data);
        Ok(Ranges {
            ranges: data.map(|extent| extent.range).collect(),
            covered: extents.covered,
        })
    }

    fn changes(&self, since: &TrackingCursor, window: ByteRange) -> Result<Ranges> {
        const OPERATION: &str = "find what changed on a disk";
        let Name { vm, point, disk } = self.name.clone();
        let call = Call::Changes {
            vm,
            point,
            disk,
            since: since.clone(),
            window,
        };
        let changed: std::result::Result<Changed, _> = self.connection.call(&call);
        let changed = changed.map_err(|failure| self.name.own(failure.of(OPERATION)))?;
        Ok(Ranges {
            ranges: changed.ranges,
            covered: changed.covered,
        })
    }
}

fn check(name: &Name, marker: &File, operation: &'static str) -> Result<()> {
    match marker.metadata() {
        Ok(metadata) if metadata.nlink() > 0 => Ok(()),
        Ok(_) => Err(name.gone(operation)),
        Err(error) => Err(name.error(Kind::Io, operation, error.to_string())),
    }
}

impl Name {
    fn own(&self, error: Error) -> Error {
        error.on(&self.vm).of_disk(&self.disk)
    }

    fn error(&self, kind: Kind, operation: &'static str, detail: impl Into<String>) -> Error {
        self.own(Error::new(kind, operation, detail))
    }

    fn gone(&self, operation: &'static str) -> Error {
        let detail = format!("the point {} was released", self.point);
        self.error(Kind::PointNotFound, operation, detail)
    }
}
