//! Where a storage account is reached, and how its containers and blobs are named in URLs.
//!
//! ```text
//! host style   https://ACCOUNT.blob.core.windows.net[:port]/CONTAINER/BLOB        any cloud, custom domains
//! path style   http://127.0.0.1:10000/ACCOUNT/CONTAINER/BLOB                      emulators
//! ```
//! Plain http is for loopback addresses alone: what is sent there does not leave the machine. Nothing else may make a
//! URL of a name.

use std::fmt;
use std::sync::Arc;

use crate::blob::names::{self, Invalid};
use crate::report::Code;
use crate::transport::http::is_loopback;

/// An endpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no blob endpoint: {rule}")]
pub struct NotAnEndpoint {
    /// Without its query, where a signature might be.
    text: String,
    rule: &'static str,
}

impl NotAnEndpoint {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// The blob endpoint of one storage account. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host, port and, for path style, the account; no slash at the end.
    base: Arc<str>,
    /// What of `base` is path: empty, or a slash and the account.
    base_path: Arc<str>,
    account: Arc<str>,
    secure: bool,
    loopback: bool,
}

impl Endpoint {
    /// Reads an endpoint and takes the account's name from it: from the path, or else the first label of the host.
    ///
    /// # Errors
    /// If it is no URL of an account, holds a query, or would send plain text over a network.
    pub fn parse(text: &str) -> Result<Self, NotAnEndpoint> {
        Endpoint::read(text, None)
    }

    /// Reads an endpoint whose host does not begin with the account's name (a custom domain).
    ///
    /// # Errors
    /// As [`Endpoint::parse`], and if the path names another account.
    pub fn of_account(text: &str, account: &str) -> Result<Self, NotAnEndpoint> {
        Endpoint::read(text, Some(account))
    }

    fn read(text: &str, account: Option<&str>) -> Result<Self, NotAnEndpoint> {
        let wrong = |rule| NotAnEndpoint {
            text: text
                .split(['?', '#'])
                .next()
                .unwrap_or_default()
                .chars()
                .take(120)
                .collect(),
            rule,
        };
        if text.contains(['?', '#', '@']) {
            return Err(wrong("it has a query, a fragment or a user"));
        }
        let url = reqwest::Url::parse(text).map_err(|_| wrong("it is no URL"))?;
        let host = url.host_str().ok_or(wrong("it has no host"))?;
        let loopback = is_loopback(host);
        let secure = match url.scheme() {
            "https" => true,
            "http" if loopback => false,
            "http" => {
                return Err(wrong(
                    "plain http is for loopback addresses alone; use https",
                ));
            }
            _ => return Err(wrong("it is neither https nor http")),
        };
        let path = url.path().trim_end_matches('/');
        let named = match path.strip_prefix('/') {
            Some(name) => name,
            None => account
                .or_else(|| host.split('.').next())
                .ok_or(wrong("it names no account"))?,
        };
        if account.is_some_and(|account| account != named) {
            return Err(wrong("its path names another account"));
        }
        if !is_account(named) {
            return Err(wrong(
                "an account's name is 3 to 63 of a-z, 0-9 and hyphens",
            ));
        }
        let base = format!("{}{path}", url.origin().ascii_serialization());
        Ok(Endpoint {
            base: base.into(),
            base_path: path.into(),
            account: named.into(),
            secure,
            loopback,
        })
    }

    pub fn account(&self) -> &str {
        &self.account
    }

    /// Whether the connection is TLS.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether the service runs on this machine.
    pub const fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// The URL of the account, a container or a blob, without query.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn url(&self, container: Option<&str>, blob: Option<&str>) -> Result<String, Invalid> {
        Ok(format!("{}{}", self.base, path_of(container, blob)?))
    }

    /// The path of [`Endpoint::url`] as a request line has it and a signature repeats it.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn path(&self, container: Option<&str>, blob: Option<&str>) -> Result<String, Invalid> {
        let inside = path_of(container, blob)?;
        Ok(match (&*self.base_path, inside.as_str()) {
            ("", "") => "/".to_owned(),
            (base, inside) => format!("{base}{inside}"),
        })
    }

    /// What an error calls the account, a container or a blob: for people, so not encoded and not checked.
    pub fn object(&self, container: Option<&str>, blob: Option<&str>) -> String {
        let mut object = self.base.to_string();
        for name in [container, blob].into_iter().flatten() {
            object.push('/');
            object.extend(name.escape_debug());
        }
        object
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Azure's own accounts have 3 to 24 letters and digits; emulators and private clouds are less strict.
fn is_account(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=63).contains(&name.len()) && name.bytes().all(known)
}

fn path_of(container: Option<&str>, blob: Option<&str>) -> Result<String, Invalid> {
    let mut path = String::new();
    if let Some(container) = container {
        names::check_container(container)?;
        path.push('/');
        path.push_str(container);
    }
    if let Some(blob) = blob {
        names::check_blob(blob)?;
        path.push('/');
        path.push_str(&percent_encode(blob, b"/"));
    }
    Ok(path)
}

/// Encodes all but unreserved characters (RFC 3986 §2.3) and those of `kept`.
pub(crate) fn percent_encode(text: &str, kept: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_every_cloud_and_of_the_emulator_are_read() {
        for (text, account, base) in [
            (
                "https://acct1.blob.core.windows.net/",
                "acct1",
                "https://acct1.blob.core.windows.net",
            ),
            (
                "https://acct1.blob.core.chinacloudapi.cn",
                "acct1",
                "https://acct1.blob.core.chinacloudapi.cn",
            ),
            (
                "https://acct1.z12.blob.storage.azure.net",
                "acct1",
                "https://acct1.z12.blob.storage.azure.net",
            ),
            (
                "http://127.0.0.1:10000/devstoreaccount1",
                "devstoreaccount1",
                "http://127.0.0.1:10000/devstoreaccount1",
            ),
            (
                "http://[::1]:10000/devstoreaccount1/",
                "devstoreaccount1",
                "http://[::1]:10000/devstoreaccount1",
            ),
            (
                "https://localhost:10000/devstoreaccount1",
                "devstoreaccount1",
                "https://localhost:10000/devstoreaccount1",
            ),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(
                (endpoint.account(), endpoint.to_string().as_str()),
                (account, base),
                "{text}"
            );
        }
        let custom = Endpoint::of_account("https://blobs.example.com", "acct1").unwrap();
        assert_eq!(custom.account(), "acct1");
    }

    #[test]
    fn an_endpoint_that_would_send_plain_text_over_a_network_is_refused() {
        for text in [
            "http://acct1.blob.core.windows.net",
            "http://10.0.0.1:10000/devstoreaccount1",
            "http://localhost.example.com/devstoreaccount1",
            "http://127.0.0.1.example.com/devstoreaccount1",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_printing_a_signature() {
        for text in [
            "acct1.blob.core.windows.net",
            "ftp://acct1.blob.core.windows.net",
            "https://user:secret@acct1.blob.core.windows.net",
            "https://acct1.blob.core.windows.net/a/b",
            "https://acct1.blob.core.windows.net/?sv=1&sig=secret",
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(!error.to_string().contains("sig="), "{error}");
        }
        assert!(Endpoint::of_account("http://127.0.0.1:1/other", "acct1").is_err());
    }

    #[test]
    fn a_blob_name_stays_one_name_in_its_url() {
        let endpoint = Endpoint::parse("https://acct1.blob.core.windows.net").unwrap();
        let url = endpoint.url(Some("inbox"), Some("a b/ä?#%41+\\c")).unwrap();
        assert_eq!(
            url,
            "https://acct1.blob.core.windows.net/inbox/a%20b/%C3%A4%3F%23%2541%2B%5Cc"
        );
        assert_eq!(reqwest::Url::parse(&url).unwrap().as_str(), url);
        assert!(endpoint.url(Some("inbox"), Some("../other/blob")).is_err());
    }

    #[test]
    fn the_path_of_the_account_itself_is_a_slash_or_its_name() {
        let azure = Endpoint::parse("https://acct1.blob.core.windows.net").unwrap();
        let emulator = Endpoint::parse("http://127.0.0.1:1/devstoreaccount1").unwrap();
        assert_eq!(azure.path(None, None).unwrap(), "/");
        assert_eq!(emulator.path(None, None).unwrap(), "/devstoreaccount1");
        assert_eq!(
            emulator.path(Some("abc"), Some("d")).unwrap(),
            "/devstoreaccount1/abc/d"
        );
    }
}
