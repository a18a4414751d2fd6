//! What the account tells about itself: settings of its blob service, and keys that sign for a token.

use std::collections::BTreeMap;

use crate::blob::answer::ServiceProperties;
use crate::blob::xml::{Malformed, Step, number, walk};
use crate::secret::Secret;

/// A key that signs shared access signatures in the name of an Entra identity (Get User Delegation Key).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationKey {
    pub object_id: String,
    pub tenant_id: String,
    /// ISO 8601, as the signature repeats it.
    pub start: String,
    pub expiry: String,
    pub service: String,
    pub version: String,
    /// Base64 of the key.
    pub value: Secret,
}

/// The settings that make page blobs costly.
///
/// # Errors
/// If it is malformed.
pub fn properties(xml: &[u8]) -> Result<ServiceProperties, Malformed> {
    let mut properties = ServiceProperties::default();
    let (mut keeps, mut days) = (None, None);
    walk(xml, &mut |step| {
        match step {
            Step::Close {
                parent: "DeleteRetentionPolicy",
                name: "Enabled",
                text,
                ..
            } => {
                keeps = Some(text == "true");
            }
            Step::Close {
                parent: "DeleteRetentionPolicy",
                name: "Days",
                text,
                ..
            } => {
                days = u32::try_from(number("Days", text)?).ok();
            }
            Step::Close {
                name: "IsVersioningEnabled",
                text,
                ..
            } => {
                properties.versioning = Some(text == "true");
            }
            Step::Open { .. } | Step::Close { .. } => {}
        }
        Ok(())
    })?;
    properties.soft_delete_days = keeps.map(|keeps| if keeps { days.unwrap_or(1) } else { 0 });
    Ok(properties)
}

/// A user delegation key.
///
/// # Errors
/// If it is malformed or incomplete.
pub fn delegation_key(xml: &[u8]) -> Result<DelegationKey, Malformed> {
    let mut fields = BTreeMap::new();
    walk(xml, &mut |step| {
        if let Step::Close {
            parent: "UserDelegationKey",
            name,
            text,
            ..
        } = step
        {
            fields.insert(name.to_owned(), text.to_owned());
        }
        Ok(())
    })?;
    let mut field = |name: &str| {
        fields
            .remove(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Malformed::new(format!("a user delegation key without {name}")))
    };
    Ok(DelegationKey {
        object_id: field("SignedOid")?,
        tenant_id: field("SignedTid")?,
        start: field("SignedStart")?,
        expiry: field("SignedExpiry")?,
        service: field("SignedService")?,
        version: field("SignedVersion")?,
        value: Secret::new(field("Value")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_delete_is_days_or_zero_or_not_told() {
        let told = |policy: &str| {
            let xml = format!("<StorageServiceProperties>{policy}</StorageServiceProperties>");
            properties(xml.as_bytes()).unwrap().soft_delete_days
        };
        let policy =
            |inner: &str| format!("<DeleteRetentionPolicy>{inner}</DeleteRetentionPolicy>");
        assert_eq!(
            told(&policy("<Enabled>true</Enabled><Days>7</Days>")),
            Some(7)
        );
        assert_eq!(told(&policy("<Enabled>false</Enabled>")), Some(0));
        assert_eq!(told(""), None);
    }

    #[test]
    fn a_delegation_key_without_its_value_is_an_error() {
        let xml = "<UserDelegationKey><SignedOid>o</SignedOid><SignedTid>t</SignedTid><SignedStart>s</SignedStart>\
            <SignedExpiry>e</SignedExpiry><SignedService>b</SignedService><SignedVersion>v</SignedVersion>\
            <Value>a2V5</Value></UserDelegationKey>";
        let key = delegation_key(xml.as_bytes()).unwrap();
        assert_eq!((key.object_id.as_str(), key.value.expose()), ("o", "a2V5"));
        assert!(delegation_key(xml.replace("a2V5", "").as_bytes()).is_err());
    }
}
