//! Versions of records (`ETag`) and changes that depend on them (`If-Match`, `If-None-Match: *`; RFC 9110, sections 8.8.3, 13.1.1 and
//! 13.1.2): of two people who change or make a record at once, the second is told instead of undoing what the first did. A read that
//! names the version it has (`If-None-Match`) is answered 304.

use crate::http::respond::{self, Fault};
use crate::http::{Request, Response};
use hyper::StatusCode;
use hyper::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
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
        let tags = named(request, IF_MATCH)?;
        if request.headers.contains_key(IF_NONE_MATCH) {
            let fault = "must be * (make the record only if there is none) and stand without if-match";
            return match (tags, named(request, IF_NONE_MATCH)) {
                (None, Ok(Some(Named::Any))) => Ok(Self::Absent),
                _ => Err(Fault::invalid("if-none-match", fault)),
            };
        }
        Ok(match tags {
            None => Self::Anything,
            Some(Named::Any) => Self::Exists,
            Some(Named::Tags(tags)) => Self::Tags(tags),
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

/// What a condition names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// `*`.
    Any,
    /// Tags in their quotes, weak ones with `W/` before, so that they equal no version.
    Tags(Vec<String>),
}

/// The tags of a field, which may stand in several lines; `None` where it does not stand.
fn named(request: &Request, field: HeaderName) -> Result<Option<Named>, Fault> {
    let wrong = || {
        let fault = format!("must be *, or at most {TAGS_MAX} tags as answers carry them in etag, in quotes");
        Fault::invalid(field.as_str(), fault)
    };
    let (mut tags, mut any) = (Vec::new(), false);
    for value in request.headers.get_all(&field) {
        // Empty entries of a list mean nothing (section 5.6.1.2).
        let filler = [',', ' ', '\t'];
        let mut rest = value.to_str().map_err(|_| wrong())?.trim_matches(filler);
        while !rest.is_empty() {
            let length = length_of_first(rest).filter(|_| !any && tags.len() < TAGS_MAX).ok_or_else(wrong)?;
            let (tag, after) = rest.split_at(length);
            any = tag == "*";
            if !any {
                tags.push(tag.to_owned());
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start_matches(filler),
                None if after.is_empty() => after,
                None => return Err(wrong()),
            };
        }
    }
    match (any, tags.is_empty()) {
        (true, true) => Ok(Some(Named::Any)),
        (true, false) => Err(wrong()),
        (false, false) => Ok(Some(Named::Tags(tags))),
        (false, true) if request.headers.contains_key(&field) => Err(wrong()),
        (false, true) => Ok(None),
    }
}

/// Bytes of the tag or star that a list begins with. A tag may hold commas.
fn length_of_first(list: &str) -> Option<usize> {
    if list.starts_with('*') {
        return Some(1);
    }
    let prefix = if list.starts_with("W/") { 2 } else { 0 };
    let inside = list[prefix..].strip_prefix('"')?;
    Some(prefix + inside.find('"')? + 2)
}

/// The answer to a read of one record: 304 without it where the caller names its version in `if-none-match`. The comparison is the weak
/// one: what was marked weak on the way (by a proxy that compresses) is still the same record.
///
/// # Errors
/// A header that is no list of tags.
pub(super) fn answer(request: &Request, record: &Value) -> Result<Response, Fault> {
    let now = tag_of(record);
    let known = match named(request, IF_NONE_MATCH)? {
        None => false,
        Some(Named::Any) => true,
        Some(Named::Tags(tags)) => tags.iter().any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == now),
    };
    let response = if known { respond::empty(StatusCode::NOT_MODIFIED) } else { respond::json(StatusCode::OK, record) };
    Ok(tagged(response, record))
}

/// The answer with the version of the record in it.
pub(super) fn tagged(mut response: Response, record: &Value) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&tag_of(record)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
