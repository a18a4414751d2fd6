//! Access tokens of Entra ID for one service.
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

/// Token services answer within a second; many requests wait for one token, so that a hanging one must not hold them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a client's tokens come from.
pub(crate) struct Tokens {
    credential: Arc<dyn TokenCredential>,
    scope: String,
    last: ArcSwapOption<AccessToken>,
}

impl Tokens {
    /// Tokens for the service that `scope` names: its audience, and `/.default`.
    pub(crate) fn of(credential: Arc<dyn TokenCredential>, scope: impl Into<String>) -> Self {
        Tokens {
            credential,
            scope: scope.into(),
            last: ArcSwapOption::empty(),
        }
    }

    /// A token that is valid at `now`.
    ///
    /// # Errors
    /// [`NoToken`], which says whether the identity was refused or nobody answered.
    pub(crate) async fn get(&self, now: Timestamp) -> Result<Arc<AccessToken>, NoToken> {
        let scopes = [self.scope.as_str()];
        let asked = self.credential.get_token(&scopes, None);
        let failed = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(token)) => {
                let token = Arc::new(token);
                self.last.store(Some(token.clone()));
                return Ok(token);
            }
            Ok(Err(error)) => NoToken::because(error),
            Err(_) => NoToken {
                why: Why::Unavailable,
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

/// Whose fault it is that there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The identity is refused: a human must act.
    Refused,
    /// Nobody answers who could issue one.
    Unavailable,
}

/// Why there is no token.
pub(crate) struct NoToken {
    pub(crate) why: Why,
    pub(crate) source: Option<azure_core::Error>,
}

impl NoToken {
    fn because(error: azure_core::Error) -> Self {
        NoToken {
            why: why(&error),
            source: Some(error),
        }
    }
}

/// Whether `error` is the identity's fault. The credential wraps what happened; the innermost that says something
/// decides.
fn why(error: &azure_core::Error) -> Why {
    let mut found = Why::Refused;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(inner) = cause.downcast_ref::<azure_core::Error>() {
            found = match inner.kind() {
                ErrorKind::HttpResponse { status, .. } => of_status(u16::from(*status)),
                ErrorKind::Connection | ErrorKind::Io | ErrorKind::DataConversion => {
                    Why::Unavailable
                }
                _ => found,
            };
        }
        next = cause.source();
    }
    found
}

/// 404 and 410 are the metadata service of a virtual machine that is being updated.
const fn of_status(status: u16) -> Why {
    match status {
        404 | 408 | 410 | 429 => Why::Unavailable,
        400..=499 => Why::Refused,
        _ => Why::Unavailable,
    }
}

#[cfg(test)]
mod tests;
