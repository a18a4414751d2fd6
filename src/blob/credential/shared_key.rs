//! Shared Key: every request is signed with the account's key (Authorize with Shared Key, version 2015-02-21 and later).
//!
//! ```text
//! VERB \n Content-Encoding \n Content-Language \n Content-Length \n Content-MD5 \n Content-Type \n Date \n
//! If-Modified-Since \n If-Match \n If-None-Match \n If-Unmodified-Since \n Range \n
//! x-ms-…:value \n          each, sorted by name
//! /account/path            the path as the request line has it; an emulator's repeats the account
//! \n name:value            each query parameter, decoded, sorted by name
//! ```
//! `Content-Length` is empty for an empty body, `Date` because `x-ms-date` is sent, `Range` because `x-ms-range` is.

use http::{HeaderMap, Method};

use crate::blob::credential::AccountKey;

/// Headers whose values stand in the text by position, after the verb.
const POSITIONAL: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// A request as far as it is signed.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a Method,
    pub(crate) account: &'a str,
    /// As the request line has it, without query.
    pub(crate) path: &'a str,
    /// Decoded.
    pub(crate) query: &'a [(&'static str, String)],
    pub(crate) headers: &'a HeaderMap,
}

/// The value of `Authorization`.
pub(crate) fn authorization(key: &AccountKey, request: &Signed<'_>) -> String {
    let signature = key.sign(&string_to_sign(request));
    format!("SharedKey {}:{signature}", request.account)
}

fn string_to_sign(request: &Signed<'_>) -> String {
    let mut text = format!("{}\n", request.method);
    for name in POSITIONAL {
        let value = header(request.headers, name);
        if !(name == "content-length" && value == "0") {
            text.push_str(value);
        }
        text.push('\n');
    }
    let mut own: Vec<(&str, &str)> = request
        .headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("x-ms-"))
        .map(|name| (name, header(request.headers, name)))
        .collect();
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{}{}", request.account, request.path));
    let mut query: Vec<&(&str, String)> = request.query.iter().collect();
    query.sort_unstable();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

/// Headers of ours are ASCII; what is not could not be signed and is refused by the service.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn the_signed_text_is_what_the_service_puts_together() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-ms-version", "2023-11-03"),
            ("x-ms-date", "Wed, 21 Jan 2026 10:00:00 GMT"),
            ("x-ms-blob-type", "BlockBlob"),
            ("content-length", "11"),
            ("content-type", "application/json"),
            ("if-none-match", "*"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let query = [("timeout", "30".to_owned()), ("comp", "block".to_owned())];
        let request = Signed {
            method: &Method::PUT,
            account: "devstoreaccount1",
            path: "/devstoreaccount1/inbox/a%20b",
            query: &query,
            headers: &headers,
        };
        let expected = "PUT\n\n\n11\n\napplication/json\n\n\n\n*\n\n\n\
            x-ms-blob-type:BlockBlob\nx-ms-date:Wed, 21 Jan 2026 10:00:00 GMT\nx-ms-version:2023-11-03\n\
            /devstoreaccount1/devstoreaccount1/inbox/a%20b\ncomp:block\ntimeout:30";
        assert_eq!(string_to_sign(&request), expected);
    }

    #[test]
    fn an_empty_body_is_signed_as_no_length() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "0".parse().unwrap());
        let request = Signed {
            method: &Method::PUT,
            account: "acct1",
            path: "/c",
            query: &[],
            headers: &headers,
        };
        assert_eq!(
            string_to_sign(&request),
            "PUT\n\n\n\n\n\n\n\n\n\n\n\n/acct1/c"
        );
    }

    #[test]
    fn the_signature_is_keyed_with_the_decoded_account_key() {
        let key = AccountKey::new(&Secret::new("a2V5")).unwrap();
        // HMAC-SHA256(key = "key", "The quick brown fox jumps over the lazy dog"), a published test value.
        let signature = key.sign("The quick brown fox jumps over the lazy dog");
        assert_eq!(signature, "97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg=");
    }
}
