//! The guests of the machines: what an operating system writes when little happens.

use std::time::Duration;

use crate::lab::demo::{Error, Machine};
use crate::lab::guest::client::Address;
use crate::lab::guest::{Guest, Workload};
use crate::lab::stage::host::Host;
use crate::units::{ByteRange, KIB, MIB};

/// Bytes per second and disk: log files and page files, not a load test.
const RATE: u64 = 256 * KIB;
const RECORD: u32 = 16 * 1024;
/// How long the first write of a guest may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Guests at work. Dropping them ends them.
#[derive(Debug)]
pub struct Guests(Vec<Guest>);

impl Guests {
    /// Starts a guest on every disk, and returns when each has written. Blocks for a moment.
    ///
    /// # Errors
    /// If one cannot be started, or writes nothing.
    pub fn start(host: &Host, machines: &[Machine]) -> Result<Self, Error> {
        let disks = machines
            .iter()
            .flat_map(|machine| machine.disks.iter().map(move |disk| (machine, disk)));
        let guests = disks
            .map(|(machine, disk)| {
                Guest::start(Workload {
                    address: Address::Tcp(host.nbd()),
                    export: format!("{}/{disk}", machine.name),
                    area: ByteRange::new(0, 128 * MIB).expect("it is not empty"),
                    record: RECORD,
                    bytes_per_second: RATE,
                    records_per_flush: 16,
                    seed: rand::random(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let idle = guests
            .iter()
            .any(|guest| !guest.wait_until(PATIENCE, |counters| counters.written > 0));
        if idle {
            return Err(Error::Idle);
        }
        Ok(Guests(guests))
    }

    /// Bytes that all have written so far.
    pub fn written(&self) -> u64 {
        self.0.iter().map(|guest| guest.counters().written).sum()
    }
}
