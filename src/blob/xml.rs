//! Reads the service's XML: event by event, bounded in depth, without entities other than XML's own.
//!
//! The bytes come over a network and, in listings, hold names that others chose: nothing here panics, and memory stays
//! in proportion to the answer, whose length was bounded before it was read.

pub mod listing;
pub mod pages;
pub mod service;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// The service nests seven deep at most; what nests deeper is not its.
const DEPTH_MAX: usize = 16;
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// What of an answer is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer holds {0}")]
pub struct Malformed(pub(crate) String);

impl Malformed {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        let what: String = what.into();
        Malformed(what.chars().take(200).collect())
    }
}

/// A place in the document, in the document's order. `parent` is empty at the root.
pub enum Step<'a> {
    Open {
        parent: &'a str,
        name: &'a str,
    },
    Close {
        parent: &'a str,
        name: &'a str,
        /// The element's own text.
        text: &'a str,
        /// The text is percent-encoded, because XML could not hold it.
        encoded: bool,
    },
}

/// An element that is open.
struct Frame {
    name: String,
    text: String,
    encoded: bool,
}

/// Shows every element of `xml` to `visit`.
///
/// # Errors
/// If it is not well-formed, ends early, nests too deep, or `visit` says no.
pub fn walk(
    xml: &[u8],
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut reader = Reader::from_reader(xml.strip_prefix(BYTE_ORDER_MARK).unwrap_or(xml));
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Frame> = Vec::new();
    let mut elements = 0_u64;
    loop {
        match reader.read_event().map_err(|e| not_xml(&e))? {
            Event::Start(start) => {
                let frame = Frame::open(&start)?;
                let parent = open.last().map_or("", |frame| &frame.name);
                visit(Step::Open {
                    parent,
                    name: &frame.name,
                })?;
                if open.len() == DEPTH_MAX {
                    return Err(Malformed::new("elements that nest too deep"));
                }
                open.push(frame);
                elements += 1;
            }
            Event::End(_) => {
                let frame = open
                    .pop()
                    .ok_or(Malformed::new("an end tag without a start"))?;
                visit(Step::Close {
                    parent: open.last().map_or("", |frame| &frame.name),
                    name: &frame.name,
                    text: &frame.text,
                    encoded: frame.encoded,
                })?;
            }
            Event::Text(text) => append(&mut open, &text.decode().map_err(not_utf8)?),
            Event::CData(text) => append(&mut open, &text.decode().map_err(not_utf8)?),
            Event::GeneralRef(reference) => {
                append(&mut open, resolve(&reference)?.encode_utf8(&mut [0; 4]));
            }
            Event::DocType(_) => return Err(Malformed::new("a document type")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::Empty(_) => {}
            Event::Eof if open.is_empty() && elements > 0 => return Ok(()),
            Event::Eof => return Err(Malformed::new("XML that ends early")),
        }
    }
}

impl Frame {
    fn open(start: &BytesStart<'_>) -> Result<Self, Malformed> {
        let name = std::str::from_utf8(start.local_name().into_inner())
            .map_err(not_utf8)?
            .to_owned();
        let encoded = name == "Name"
            && start
                .try_get_attribute("Encoded")
                .map_err(|e| not_xml(&e))?
                .is_some_and(|attribute| attribute.value.eq_ignore_ascii_case(b"true"));
        Ok(Frame {
            name,
            text: String::new(),
            encoded,
        })
    }
}

/// Text outside the root is white space or nonsense: either way it belongs to nothing.
fn append(open: &mut [Frame], text: &str) {
    if let Some(frame) = open.last_mut() {
        frame.text.push_str(text);
    }
}

/// The character that `&lt;` or `&#60;` stands for.
fn resolve(reference: &BytesRef<'_>) -> Result<char, Malformed> {
    let by_number = reference.resolve_char_ref().map_err(|e| not_xml(&e))?;
    if let Some(character) = by_number {
        return Ok(character);
    }
    match reference.decode().map_err(not_utf8)?.as_ref() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(Malformed::new(format!("entity `{other}`"))),
    }
}

fn not_xml(error: &dyn std::error::Error) -> Malformed {
    Malformed::new(format!("no XML: {error}"))
}

fn not_utf8(_: impl std::error::Error) -> Malformed {
    Malformed::new("text that is not UTF-8")
}

/// What an error answer says, as far as it says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    pub code: Option<String>,
    pub message: Option<String>,
}

/// Reads the body of an error answer. A proxy's page of HTML, or a body that was cut, tells what it tells.
pub fn error_body(body: &[u8]) -> ErrorBody {
    let mut told = ErrorBody::default();
    let walked = walk(body, &mut |step| {
        if let Step::Close {
            parent: "Error",
            name,
            text,
            ..
        } = step
        {
            match name {
                "Code" => told.code = Some(text.to_owned()),
                "Message" => told.message = Some(text.to_owned()),
                _ => {}
            }
        }
        Ok(())
    });
    if walked.is_err() {
        tracing::trace!("the body of an error answer is not XML");
    }
    told
}

/// A number in decimal digits alone.
pub(crate) fn number(name: &str, text: &str) -> Result<u64, Malformed> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        Ok(_) | Err(_) => Err(Malformed::new(format!(
            "`{}` as {name}",
            text.escape_debug()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(xml: &str) -> Result<Vec<String>, Malformed> {
        let mut found = Vec::new();
        walk(xml.as_bytes(), &mut |step| {
            if let Step::Close {
                parent,
                name,
                text,
                encoded,
            } = step
            {
                found.push(format!(
                    "{parent}/{name}={text}{}",
                    if encoded { "!" } else { "" }
                ));
            }
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn text_keeps_its_spaces_and_its_escaped_characters() {
        let found = leaves(
            "\u{feff}<?xml version=\"1.0\"?><A><B> a&amp;b&#x3c;<![CDATA[<c>]]> </B><D/></A>",
        );
        assert_eq!(found.unwrap(), ["A/B= a&b<<c> ", "A/D=", "/A="]);
    }

    #[test]
    fn an_encoded_name_is_marked() {
        assert_eq!(
            leaves(r#"<A><Name Encoded="true">a%00</Name></A>"#).unwrap()[0],
            "A/Name=a%00!"
        );
    }

    #[test]
    fn hostile_documents_are_errors() {
        let deep = "<a>".repeat(10_000);
        for hostile in [
            "",
            "   ",
            "hello",
            "<a>",
            "<a></b>",
            "</a>",
            "<a>&unknown;</a>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a>&#x110000;</a>",
            "<a><b></a></b>",
            deep.as_str(),
        ] {
            assert!(
                leaves(hostile).is_err(),
                "{}",
                &hostile[..hostile.len().min(40)]
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        assert!(walk(b"<a>\xff\xfe</a>", &mut |_| Ok(())).is_err());
        assert!(walk(b"<\xff></\xff>", &mut |_| Ok(())).is_err());
    }

    #[test]
    fn a_page_of_html_tells_nothing_and_hurts_nothing() {
        assert_eq!(
            error_body(b"<html><head><title>502</head>"),
            ErrorBody::default()
        );
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number("n", "18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "+1", "-1", " 1", "1.0", "18446744073709551616", "0x1"] {
            assert!(number("n", wrong).is_err(), "{wrong}");
        }
    }
}
