//! By which right a request is sent: the account's key, an Entra token, or a shared access signature.
//!
//! Account keys and tokens are the controller's and the data path's; an agent holds signatures for two containers and
//! nothing else (DESIGN §4). Nothing here prints what it holds.

pub mod sas;
pub mod shared_key;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::blob::error::classify::Right;
use crate::report::Code;
use crate::secret::{SasToken, Secret};
use crate::transport::token::Tokens;

/// What signs or accompanies every request of a client.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    Key(AccountKey),
    Token(Arc<Tokens>),
    Signature(RenewableSas),
}

impl Credential {
    pub(crate) const fn right(&self) -> Right {
        match self {
            Credential::Key(_) | Credential::Token(_) => Right::Account,
            Credential::Signature(_) => Right::Signature,
        }
    }
}

/// A key that is not what keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account key is not base64")]
pub struct NotAKey;

impl NotAKey {
    pub const fn code(self) -> Code {
        Code::Configuration
    }
}

/// One of the two keys of a storage account.
#[derive(Clone)]
pub struct AccountKey(Arc<[u8]>);

impl AccountKey {
    /// # Errors
    /// If it is not base64, or empty.
    pub fn new(base64: &Secret) -> Result<Self, NotAKey> {
        match STANDARD.decode(base64.expose().trim()) {
            Ok(key) if !key.is_empty() => Ok(AccountKey(key.into())),
            Ok(_) | Err(_) => Err(NotAKey),
        }
    }

    /// HMAC-SHA256 over `text`, in base64.
    pub(crate) fn sign(&self, text: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(…)")
    }
}

/// A shared access signature that is replaced while it is in use. All clones see the replacement; a request that is
/// refused with the old one is sent again with the new one.
#[derive(Clone)]
pub struct RenewableSas(Arc<ArcSwap<SasToken>>);

impl RenewableSas {
    pub fn new(token: SasToken) -> Self {
        RenewableSas(Arc::new(ArcSwap::from_pointee(token)))
    }

    pub fn replace(&self, token: SasToken) {
        self.0.store(Arc::new(token));
    }

    pub(crate) fn current(&self) -> Arc<SasToken> {
        self.0.load_full()
    }
}

impl fmt::Debug for RenewableSas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RenewableSas({:?})", self.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_base64_is_refused_without_showing_it() {
        let error = AccountKey::new(&Secret::new("not a key!")).unwrap_err();
        assert_eq!(error.to_string(), "the account key is not base64");
        assert!(AccountKey::new(&Secret::new("")).is_err());
    }

    #[test]
    fn debug_output_of_credentials_holds_no_secret() {
        let key = AccountKey::new(&Secret::new("c2VjcmV0")).unwrap();
        let sas = RenewableSas::new(SasToken::new("sp=rl&sig=c2VjcmV0"));
        let said = format!(
            "{:?} {:?}",
            Credential::Key(key),
            Credential::Signature(sas)
        );
        assert!(!said.contains("c2VjcmV0"), "{said}");
    }

    #[test]
    fn every_clone_sees_the_renewed_signature() {
        let held = RenewableSas::new(SasToken::new("sig=old"));
        let clone = held.clone();
        held.replace(SasToken::new("sig=new"));
        assert_eq!(clone.current().expose(), "sig=new");
    }
}
