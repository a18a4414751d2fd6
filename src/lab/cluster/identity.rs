//! What makes a cluster the same one after a restart: its ports, its administrator's token and its keys.
//!
//! ```text
//! pki/           keys, written first
//! cluster.json   the record, written last: where it stands, the keys are whole
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::lab::cluster::error::{Error, of_durable};
use crate::lab::cluster::keys::Keys;
use crate::lab::process::port;
use crate::secret::Secret;

const RECORD: &str = "cluster.json";
const KEYS: &str = "pki";

/// The record. It holds a secret; `durable` makes files that only the user can read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    pub(super) etcd_port: u16,
    pub(super) api_port: u16,
    pub(super) admin_token: Secret,
}

impl Identity {
    /// What the cluster's folder holds, or something new where it holds nothing.
    ///
    /// # Errors
    /// If it cannot be read, made or written.
    pub(super) fn open(folder: &Path) -> Result<(Self, Keys), Error> {
        let record = folder.join(RECORD);
        let pki = folder.join(KEYS);
        let (identity, keys) = match durable::read_record(&record).map_err(of_durable)? {
            Some(old) => (Identity::with_free_ports(old)?, Keys::within(&pki)),
            None => (Identity::new()?, Keys::create(&pki)?),
        };
        durable::write_record(&record, &identity).map_err(of_durable)?;
        Ok((identity, keys))
    }

    fn new() -> Result<Self, Error> {
        Ok(Identity {
            etcd_port: port::free()?,
            api_port: port::free()?,
            admin_token: Secret::new(format!("{:032x}", rand::random::<u128>())),
        })
    }

    /// The same, with other ports for those that somebody else has taken in the meantime.
    fn with_free_ports(self) -> Result<Self, Error> {
        Ok(Identity {
            etcd_port: port::again(self.etcd_port)?,
            api_port: port::again(self.api_port)?,
            admin_token: self.admin_token,
        })
    }
}
