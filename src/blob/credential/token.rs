//! Access tokens of Entra ID for the storage service.
//!
//! The credential behind it keeps a token until five minutes before its end. When no new one can be had then, the old
//! one is used to its end: an outage of the token service shorter than that is not seen at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use azure_core::credentials::{AccessToken, TokenCredential};
use azure_core::error::ErrorKind;
use jiff::Timestamp;

use crate::blob::error::Kind;

/// The audience of blob storage, the same in every cloud.
const SCOPE: &str = "https://storage.azure.com/.default";
/// Token services answer within a second; many requests wait for one token, so that a hanging one must not hold them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a client's tokens come from.
pub(crate) struct Tokens {
    credential: Arc<dyn TokenCredential>,
    last: ArcSwapOption<AccessToken>,
}

impl Tokens {
    pub(crate) fn of(credential: Arc<dyn TokenCredential>) -> Self {
        Tokens {
            credential,
            last: ArcSwapOption::empty(),
        }
    }

    /// A token that is valid at `now`.
    ///
    /// # Errors
    /// [`NoToken`], which says whether the identity was refused or nobody answered.
    pub(crate) async fn get(&self, now: Timestamp) -> Result<Arc<AccessToken>, NoToken> {
        let failed =
            match tokio::time::timeout(PATIENCE, self.credential.get_token(&[SCOPE], None)).await {
                Ok(Ok(token)) => {
                    let token = Arc::new(token);
                    self.last.store(Some(token.clone()));
                    return Ok(token);
                }
                Ok(Err(error)) => NoToken::because(error),
                Err(_) => NoToken {
                    kind: Kind::TokenUnavailable,
                    source: None,
                },
            };
        match self.last.load_full() {
            Some(token) if token.expires_on.unix_timestamp() > now.as_second() => Ok(token),
            Some(_) | None => Err(failed),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// Why there is no token.
pub(crate) struct NoToken {
    /// [`Kind::Unauthorized`] or [`Kind::TokenUnavailable`].
    pub(crate) kind: Kind,
    pub(crate) source: Option<azure_core::Error>,
}

impl NoToken {
    fn because(error: azure_core::Error) -> Self {
        NoToken {
            kind: kind(&error),
            source: Some(error),
        }
    }
}

/// Whether `error` is the identity's fault. The credential wraps what happened; the innermost that says something
/// decides.
fn kind(error: &azure_core::Error) -> Kind {
    let mut found = Kind::Unauthorized;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(inner) = cause.downcast_ref::<azure_core::Error>() {
            found = match inner.kind() {
                ErrorKind::HttpResponse { status, .. } => of_status(u16::from(*status)),
                ErrorKind::Connection | ErrorKind::Io | ErrorKind::DataConversion => {
                    Kind::TokenUnavailable
                }
                _ => found,
            };
        }
        next = cause.source();
    }
    found
}

/// 404 and 410 are the metadata service of a virtual machine that is being updated.
const fn of_status(status: u16) -> Kind {
    match status {
        404 | 408 | 410 | 429 => Kind::TokenUnavailable,
        400..=499 => Kind::Unauthorized,
        _ => Kind::TokenUnavailable,
    }
}

#[cfg(test)]
mod tests;
