//! What a service of Azure says when it does not do as it was told, whatever words it comes in.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;

/// A message of the service is cut here: it is for one line of a log.
pub(crate) const MESSAGE_MAX: usize = 300;
/// Error codes and request ids are short; a proxy's header of the same name may not be.
pub(crate) const CODE_MAX: usize = 80;

/// What the service said when it did not do as it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The service's error code, for example `BlobNotFound`.
    pub code: Option<String>,
    /// `x-ms-request-id`, which Azure's support asks for.
    pub request_id: Option<String>,
    /// The first line of the service's message.
    pub message: Option<String>,
    /// How long the service wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

/// `x-ms-retry-after-ms`, or `Retry-After` in seconds. Its other form, a date, is not used by Azure.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?;
        text.trim().parse::<u32>().ok()
    };
    number("x-ms-retry-after-ms")
        .map(|milliseconds| Duration::from_millis(u64::from(milliseconds)))
        .or_else(|| number("retry-after").map(|seconds| Duration::from_secs(u64::from(seconds))))
}

/// Without control characters, and cut.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(max)
        .collect::<String>()
        .trim()
        .to_owned()
}
