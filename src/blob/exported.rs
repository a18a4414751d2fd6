//! A managed disk, or a snapshot of one, by the URL that Azure's control plane grants: a page blob that is only read.
//!
//! The URL is used as it is, host and all; to it belong `comp=pagelist` and headers, nothing else. What differs from an
//! older snapshot is asked for by that one's own URL (`x-ms-previous-snapshot-url`; Get Page Ranges, managed disks). The
//! blob is the disk and a footer of 512 bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;

use crate::blob::answer::{Got, PageRanges};
use crate::blob::client::blob_calls::inclusive;
use crate::blob::client::{Options, read};
use crate::blob::date;
use crate::blob::error::classify::{self, Right};
use crate::blob::error::{Error, Kind, Operation};
use crate::blob::names::{Invalid, PAGES_MAX};
use crate::blob::xml::pages::ranges;
use crate::blob::{Result, VERSION};
use crate::retry;
use crate::secret::Secret;
use crate::transport::http::{Answer, Broken, Http, exchange, is_loopback};
use crate::units::{ByteRange, MIB};

/// A page of a list of ranges.
const PAGE_LIST_MAX: u64 = 16 * MIB;
const LENGTH: &str = "x-ms-blob-content-length";

/// What a granted URL leads to.
pub struct Exported {
    http: Http,
    /// With its signature.
    url: reqwest::Url,
    /// Without it.
    object: String,
    options: Options,
}

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exported({})", self.object)
    }
}

impl Exported {
    /// # Errors
    /// If it is no URL, or would send its signature over a network in plain text.
    pub fn new(http: &Http, access: &Secret, options: Options) -> Result<Self> {
        let invalid = |rule| {
            let why = Invalid::new("the URL of a disk", rule);
            Error::invalid(Operation::GetProperties, "an exported disk", why)
        };
        let url = reqwest::Url::parse(access.expose()).map_err(|_| invalid("it is no URL"))?;
        let loopback = url.host_str().is_some_and(is_loopback);
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(invalid("it is not https"));
        }
        let mut plain = url.clone();
        plain.set_query(None);
        plain.set_fragment(None);
        Ok(Exported {
            http: http.clone(),
            object: plain.to_string(),
            url,
            options,
        })
    }

    /// One page of the ranges of `window` that hold anything, or that differ from `previous`, an older snapshot of the
    /// same disk.
    ///
    /// # Errors
    /// [`Kind::SignatureRefused`] if access has ended; [`Kind::Conflict`] if `previous` is no snapshot of this disk.
    pub async fn page_ranges(
        &self,
        window: Option<ByteRange>,
        previous: Option<&Exported>,
        marker: Option<&str>,
    ) -> Result<PageRanges> {
        let mut query = vec![("comp", "pagelist")];
        query.extend(marker.map(|marker| ("marker", marker)));
        let mut headers = HeaderMap::new();
        if let Some(window) = window {
            headers.insert("x-ms-range", header(&inclusive(window)));
        }
        if let Some(previous) = previous {
            let mut url = header(previous.url.as_str());
            url.set_sensitive(true);
            headers.insert("x-ms-previous-snapshot-url", url);
        }
        let operation = Operation::GetPageRanges;
        let answer = self
            .send(operation, &query, &headers, PAGE_LIST_MAX)
            .await?;
        let length = answer
            .headers
            .get(LENGTH)
            .and_then(|text| text.to_str().ok());
        let length: Option<u64> = length.and_then(|text| text.parse().ok());
        let malformed = || Error::new(operation, &self.object, Kind::Malformed);
        let length = length.ok_or_else(malformed)?;
        let pages = ranges(&answer.body, length).map_err(|why| malformed().because(why))?;
        let stored = read::stored(&answer).map_err(|why| malformed().because(why))?;
        Ok(PageRanges {
            ranges: pages.ranges,
            next: pages.next,
            blob_length: length,
            etag: stored.etag,
            date: stored.date,
        })
    }

    /// A part of the disk and its footer, at most 4 MiB.
    ///
    /// # Errors
    /// [`Kind::SignatureRefused`] if access has ended; [`Kind::Refused`] if the range is empty, too long, or begins
    /// beyond the end.
    pub async fn get(&self, range: ByteRange) -> Result<Got> {
        let operation = Operation::GetBlob;
        if range.is_empty() || range.len() > PAGES_MAX {
            let why = Invalid::new(range.to_string(), "one request reads 1 byte to 4 MiB");
            return Err(Error::invalid(operation, &self.object, why));
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-range", header(&inclusive(range)));
        let answer = self.send(operation, &[], &headers, range.len()).await?;
        read::got(&answer, Some(range))
            .map_err(|why| Error::new(operation, &self.object, Kind::Malformed).because(why))
    }

    async fn send(
        &self,
        operation: Operation,
        query: &[(&str, &str)],
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<Answer> {
        let Options {
            patience,
            stop,
            clock,
        } = &self.options;
        let attempt = || self.attempt(operation, query, headers, limit, clock.now());
        retry::with(*patience, stop, Error::again, attempt).await
    }

    async fn attempt(
        &self,
        operation: Operation,
        query: &[(&str, &str)],
        headers: &HeaderMap,
        limit: u64,
        now: Timestamp,
    ) -> Result<Answer> {
        let error = |kind| Error::new(operation, &self.object, kind);
        let mut url = self.url.clone();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = reqwest::Request::new(Method::GET, url);
        *request.headers_mut() = headers.clone();
        let own = [
            ("x-ms-version", VERSION.to_owned()),
            ("x-ms-date", date::http(now)),
        ];
        for (name, value) in own {
            request.headers_mut().insert(name, header(&value));
        }
        *request.body_mut() = Some(Bytes::new().into());
        let client = match self.url.host_str().is_some_and(is_loopback) {
            true => self.http.direct(),
            false => self.http.routed(),
        };
        let answer = match exchange(client, request, 0, limit).await {
            Ok(answer) => answer,
            Err(Broken::NotConnected(why)) => return Err(error(Kind::Unreachable).because(why)),
            Err(Broken::Lost(why)) => return Err(error(Kind::Interrupted).because(why)),
            Err(Broken::Stalled) => return Err(error(Kind::Interrupted)),
            Err(Broken::TooLarge { .. }) => return Err(error(Kind::Malformed)),
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        let refusal = classify::refusal(answer.status, &answer.headers, &answer.body);
        let kind = classify::kind(&refusal, Right::Signature, false);
        Err(error(kind).refused(refusal))
    }
}

/// Ours are ASCII; a URL that was parsed is, too.
fn header(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("ranges, dates and URLs are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_neither_printed_nor_sent_in_plain_text() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = Http::new(&[]).unwrap();
        let open = |url: &str| Exported::new(&http, &Secret::new(url), Options::default());
        let exported =
            open("https://md-1.z12.blob.storage.azure.net/abc/abcd?sv=1&sig=secret").unwrap();
        assert!(!format!("{exported:?}").contains("secret"));
        assert!(open("http://127.0.0.1:1/md-1/abcd?sig=secret").is_ok());
        let error = open("http://md-1.blob.storage.azure.net/abcd?sig=secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
