//! What must never reach a log, an event or a status.
//!
//! The types here have no `Display`, a masked `Debug`, and hand out their content only by a call that can be searched
//! for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key, password or token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The content, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The query string of a shared access signature, without the question mark.
///
/// Its `Debug` keeps what helps to find a mistake (permissions, expiry) and masks the signature.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SasToken(String);

impl SasToken {
    pub fn new(query: impl Into<String>) -> Self {
        SasToken(query.into().trim_start_matches('?').to_owned())
    }

    /// The content, for the one place that puts it on a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SasToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.split('&').filter(|pair| !pair.starts_with("sig="));
        write!(f, "SasToken({}&sig=…)", kept.collect::<Vec<_>>().join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
        let sas = SasToken::new("?sv=2023-11-03&sp=rcl&sig=abc%3D");
        assert_eq!(format!("{sas:?}"), "SasToken(sv=2023-11-03&sp=rcl&sig=…)");
    }
}
