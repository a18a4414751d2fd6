//! Shared access signatures on a container: a service SAS signed with the account's key, or a user-delegation SAS
//! signed with a key that was got for a token. For signed version 2023-11-03, whose texts are:
//!
//! ```text
//! service           sp st se /blob/account/container si sip spr sv sr snapshot ses rscc rscd rsce rscl rsct
//! user delegation   sp st se /blob/account/container skoid sktid skt ske sks skv saoid suoid scid sip spr sv sr
//!                   snapshot ses rscc rscd rsce rscl rsct
//! ```
//! Each on a line of its own, empty where it is not used (Create a service SAS; Create a user delegation SAS).

use jiff::{SignedDuration, Timestamp};

use crate::blob::VERSION;
use crate::blob::credential::{AccountKey, NotAKey};
use crate::blob::date;
use crate::blob::endpoint::percent_encode;
use crate::blob::parameters::Permissions;
use crate::blob::xml::service::DelegationKey;
use crate::secret::SasToken;

/// The longest that a user delegation key, and so what it signs, may live.
pub const DELEGATION_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long a key is asked for, if no signature needs it longer: a day less than allowed, for clocks that differ.
const DELEGATION_USUAL: SignedDuration = SignedDuration::from_hours(6 * 24);
/// `sr`: the container and all that is in it.
const CONTAINER: &str = "c";

/// What a signature grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) account: &'a str,
    pub(crate) container: &'a str,
    pub(crate) permissions: Permissions,
    pub(crate) start: Timestamp,
    pub(crate) expiry: Timestamp,
    /// Over TLS alone; a loopback emulator has none.
    pub(crate) secure_only: bool,
}

impl Grant<'_> {
    const fn protocol(&self) -> &'static str {
        if self.secure_only {
            "https"
        } else {
            "https,http"
        }
    }

    /// The lines that both kinds begin with.
    fn head(&self) -> [String; 4] {
        [
            self.permissions.letters(),
            date::iso(self.start),
            date::iso(self.expiry),
            format!("/blob/{}/{}", self.account, self.container),
        ]
    }

    /// The query parameters that both kinds have.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let [permissions, start, expiry, _] = self.head();
        vec![
            ("sv", VERSION.to_owned()),
            ("spr", self.protocol().to_owned()),
            ("st", start),
            ("se", expiry),
            ("sr", CONTAINER.to_owned()),
            ("sp", permissions),
        ]
    }
}

/// A signature with the account's key.
pub(crate) fn service(key: &AccountKey, grant: &Grant<'_>) -> SasToken {
    let signature = key.sign(&service_text(grant));
    token(grant.parameters(), signature)
}

fn service_text(grant: &Grant<'_>) -> String {
    let mut lines = Vec::from(grant.head());
    // No stored policy, no address range; then no snapshot, no encryption scope, no response headers.
    lines.extend(["", "", grant.protocol(), VERSION, CONTAINER].map(str::to_owned));
    lines.extend(std::iter::repeat_n(String::new(), 7));
    lines.join("\n")
}

/// A signature with a key that was got for a token.
///
/// # Errors
/// If the key is not one.
pub(crate) fn user_delegation(key: &DelegationKey, grant: &Grant<'_>) -> Result<SasToken, NotAKey> {
    let signer = AccountKey::new(&key.value)?;
    let signature = signer.sign(&user_delegation_text(key, grant));
    let mut parameters = grant.parameters();
    parameters.extend(
        [
            ("skoid", &key.object_id),
            ("sktid", &key.tenant_id),
            ("skt", &key.start),
            ("ske", &key.expiry),
            ("sks", &key.service),
            ("skv", &key.version),
        ]
        .map(|(name, value)| (name, value.clone())),
    );
    Ok(token(parameters, signature))
}

fn user_delegation_text(key: &DelegationKey, grant: &Grant<'_>) -> String {
    let mut lines = Vec::from(grant.head());
    let of_key = [
        &key.object_id,
        &key.tenant_id,
        &key.start,
        &key.expiry,
        &key.service,
        &key.version,
    ];
    lines.extend(of_key.map(String::clone));
    // No other principals (saoid, suoid, scid), no address range; the rest as above.
    lines.extend(["", "", "", "", grant.protocol(), VERSION, CONTAINER].map(str::to_owned));
    lines.extend(std::iter::repeat_n(String::new(), 7));
    lines.join("\n")
}

fn token(parameters: Vec<(&'static str, String)>, signature: String) -> SasToken {
    let query: Vec<String> = parameters
        .into_iter()
        .chain([("sig", signature)])
        .map(|(name, value)| format!("{name}={}", percent_encode(&value, b"")))
        .collect();
    SasToken::new(query.join("&"))
}

/// The life to ask a delegation key for, so that it signs `start..expiry` and what follows in the next days too.
/// Nothing if no key lives that long.
pub(crate) fn key_life(start: Timestamp, expiry: Timestamp) -> Option<(Timestamp, Timestamp)> {
    let life = expiry.duration_since(start);
    (life <= DELEGATION_MAX)
        .then(|| start.checked_add(life.max(DELEGATION_USUAL)).ok())
        .flatten()
        .map(|end| (start, end))
}

/// Whether `key` may sign for `start..expiry`.
pub(crate) fn covers(key: &DelegationKey, start: Timestamp, expiry: Timestamp) -> bool {
    match (
        key.start.parse::<Timestamp>(),
        key.expiry.parse::<Timestamp>(),
    ) {
        (Ok(from), Ok(to)) => from <= start && expiry <= to,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    /// The emulator's key, published in Azure's documentation.
    const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    fn grant(secure_only: bool) -> Grant<'static> {
        Grant {
            account: "devstoreaccount1",
            container: "inbox",
            permissions: Permissions::INBOX,
            start: "2026-01-01T00:00:00Z".parse().unwrap(),
            expiry: "2100-01-01T00:00:00Z".parse().unwrap(),
            secure_only,
        }
    }

    fn delegation_key() -> DelegationKey {
        DelegationKey {
            object_id: "11059fcc-5514-4800-b5f8-49808b9cfab6".to_owned(),
            tenant_id: "ab1f708d-50f6-404c-a006-d71b2ac7a606".to_owned(),
            start: "2026-01-01T00:00:00Z".to_owned(),
            expiry: "2100-01-01T00:00:00Z".to_owned(),
            service: "b".to_owned(),
            version: "2026-06-06".to_owned(),
            value: Secret::new("Ln29MLMjJOxtf2Qthqh9ClpRqEA/5FrwOhvxx+/RQ/k="),
        }
    }

    #[test]
    fn a_service_signature_is_the_one_that_the_emulator_accepts() {
        let key = AccountKey::new(&Secret::new(KEY)).unwrap();
        let expected = "sv=2023-11-03&spr=https%2Chttp&st=2026-01-01T00%3A00%3A00Z&se=2100-01-01T00%3A00%3A00Z&sr=c&\
            sp=rcl&sig=Fdp07inHIKyr1wgkSo5XuOSFgZUDxJSmsaC7%2FDaBOWs%3D";
        assert_eq!(service(&key, &grant(false)).expose(), expected);
    }

    #[test]
    fn a_user_delegation_signature_is_the_one_that_the_emulator_accepts() {
        let sas = user_delegation(&delegation_key(), &grant(true)).unwrap();
        let expected = "sv=2023-11-03&spr=https&st=2026-01-01T00%3A00%3A00Z&se=2100-01-01T00%3A00%3A00Z&sr=c&sp=rcl&\
            skoid=11059fcc-5514-4800-b5f8-49808b9cfab6&sktid=ab1f708d-50f6-404c-a006-d71b2ac7a606&\
            skt=2026-01-01T00%3A00%3A00Z&ske=2100-01-01T00%3A00%3A00Z&sks=b&skv=2026-06-06&\
            sig=KSD0QeBss%2B2EOphDQ0rSYsfGXpZoNKpFW97y5CRwPjA%3D";
        assert_eq!(sas.expose(), expected);
    }

    #[test]
    fn the_signed_texts_are_as_long_as_documented() {
        assert_eq!(service_text(&grant(false)).split('\n').count(), 16);
        let text = user_delegation_text(&delegation_key(), &grant(true));
        assert_eq!(text.split('\n').count(), 24);
    }

    #[test]
    fn a_key_is_asked_for_longer_than_one_signature_and_never_too_long() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let days = |days: i64| start + SignedDuration::from_hours(24 * days);
        assert_eq!(key_life(start, days(1)), Some((start, days(6))));
        assert_eq!(key_life(start, days(7)), Some((start, days(7))));
        assert_eq!(key_life(start, days(8)), None);
    }

    #[test]
    fn a_key_signs_only_for_its_own_life() {
        let key = delegation_key();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(covers(
            &key,
            at("2026-01-01T00:00:00Z"),
            at("2100-01-01T00:00:00Z")
        ));
        assert!(!covers(
            &key,
            at("2025-12-31T23:59:59Z"),
            at("2027-01-01T00:00:00Z")
        ));
        assert!(!covers(
            &key,
            at("2026-01-01T00:00:00Z"),
            at("2100-01-01T00:00:01Z")
        ));
    }
}
