//! Versions of records (`ETag`) and changes that depend on them (`If-Match`, `If-None-Match: *`; RFC 9110, sections 8.8.3, 13.1.1 and
//! 13.1.2): of two people who change or make a record at once, the second is told instead of undoing what the first did.

use crate::http::respond::Fault;
use crate::http::{Request, Response};
use hyper::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Tags named by one request at most.
const TAGS_MAX: usize = 16;

/// The version of a record: the same for equal records, whenever and wherever they are read.
#[must_use]
pub fn tag_of(record: &Value) -> String {
    let digest = Sha256::digest(record.to_string());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// What a record must be for a change to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IfMatch {
    /// Anything, or nothing yet.
    #[default]
    Anything,
    /// There (`*`).
    Exists,
    /// One of these versions.
    Tags(Vec<String>),
    /// Not there (`if-none-match: *`).
    Absent,
}

impl IfMatch {
    /// The condition of a request.
    ///
    /// # Errors
    /// A header that is no list of tags, `if-none-match` with anything but a star, or both headers.
    pub(super) fn of(request: &Request) -> Result<Self, Fault> {
        let mut tags = Vec::new();
        for value in request.headers.get_all(IF_MATCH) {
            let list = value.to_str().map_err(|_| wrong())?;
            for tag in list.split(',').map(str::trim) {
                // Weak tags are tags, and never match.
                let quoted = tag.strip_prefix("W/").unwrap_or(tag);
                let whole = quoted.len() >= 2 && quoted.starts_with('"') && quoted.ends_with('"');
                if !(whole || tag == "*") || tags.len() == TAGS_MAX {
                    return Err(wrong());
                }
                tags.push(tag.to_owned());
            }
        }
        if request.headers.contains_key(IF_NONE_MATCH) {
            let star = request.header(IF_NONE_MATCH).is_some_and(|value| value.trim() == "*");
            let alone = tags.is_empty() && request.headers.get_all(IF_NONE_MATCH).iter().count() == 1;
            let fault = "must be * (make the record only if there is none) and stand without if-match";
            return if star && alone { Ok(Self::Absent) } else { Err(Fault::invalid("if-none-match", fault)) };
        }
        Ok(match tags.as_slice() {
            [] => Self::Anything,
            [any] if any == "*" => Self::Exists,
            _ if tags.iter().any(|tag| tag == "*") => return Err(wrong()),
            _ => Self::Tags(tags),
        })
    }

    /// Whether a change of `record`, as it stands, may be made; `None` where there is none.
    #[must_use]
    pub fn allows(&self, record: Option<&Value>) -> bool {
        match (self, record) {
            (Self::Anything, _) | (Self::Exists, Some(_)) | (Self::Absent, None) => true,
            (Self::Exists | Self::Tags(_), None) | (Self::Absent, Some(_)) => false,
            (Self::Tags(tags), Some(record)) => tags.contains(&tag_of(record)),
        }
    }
}

fn wrong() -> Fault {
    Fault::invalid(
        "if-match",
        format!("must be *, or at most {TAGS_MAX} tags as answers carry them in etag, in quotes"),
    )
}

/// The answer with the version of the record in it.
pub(super) fn tagged(mut response: Response, record: &Value) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&tag_of(record)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
