//! Times as the service writes them: HTTP dates in headers and listings, ISO 8601 in signatures and keys.

use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// `Wed, 21 Jan 2026 10:00:00 GMT`.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// `Wed, 21 Jan 2026 10:00:00 GMT`, for `x-ms-date`.
pub(crate) fn http(at: Timestamp) -> String {
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&at)
        .expect("RFC 9110 lacks only years before 0, which no clock shows")
}

/// `2026-01-21T10:00:00Z`: whole seconds, because a signature repeats it letter by letter.
pub(crate) fn iso(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_comes_back_as_it_was_written() {
        let at: Timestamp = "2026-01-21T10:00:00Z".parse().unwrap();
        assert_eq!(http(at), "Wed, 21 Jan 2026 10:00:00 GMT");
        assert_eq!(parse(&http(at)), Some(at));
        assert_eq!(iso(at), "2026-01-21T10:00:00Z");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for wrong in [
            "",
            "yesterday",
            "2026-01-21T10:00:00Z",
            "Wed, 99 Jan 2026 10:00:00 GMT",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
