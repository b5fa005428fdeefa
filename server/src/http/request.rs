//! A request as handlers see it: headers read, body not yet.

use super::body::{Body, BodyError};
use super::respond::{Fault, X_REQUEST_ID};
use crate::ids::ID_BYTES_MAX;
use crate::meters::Endpoint;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest `x-request-id` taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Identifies one request in its answer and in logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The client's id if it is sane (1 to 128 letters, digits and `. _ : -`), else a new one.
    #[must_use]
    pub fn take_or_make(headers: &HeaderMap) -> Self {
        let sane = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b))
        };
        headers.get(X_REQUEST_ID).filter(sane).cloned().map_or_else(Self::make, Self)
    }

    fn make() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static PREFIX: OnceLock<u64> = OnceLock::new();
        // Every `RandomState` is keyed at random, which is enough to tell two processes apart.
        let prefix = PREFIX.get_or_init(|| RandomState::new().build_hasher().finish());
        let text = format!("{prefix:016x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self(HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0")))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a header value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request. Dropping it frees what its body holds.
#[derive(Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Who is at the other end of the connection.
    pub peer: SocketAddr,
    /// When the headers were complete: deadlines count from here.
    pub arrived: Instant,
    /// Identifier, sent back as `x-request-id`.
    pub id: RequestId,
    /// Which endpoint the path belongs to.
    pub endpoint: Endpoint,
    pub(super) body: Body,
}

impl Request {
    /// The path, still percent-encoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The first value of a query parameter, decoded (`+` is a space); `None` if absent or no UTF-8.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        query_pairs(self.uri.query()?).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// A header as text; `None` if absent or no visible ASCII.
    #[must_use]
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole body, decompressed, at most `bytes_max` before and after. Counts against the memory of all bodies until
    /// the request is dropped.
    pub async fn bytes(&mut self, bytes_max: usize) -> Result<Bytes, BodyError> {
        self.body.collect(&self.headers, bytes_max).await
    }

    /// The next piece of a long body, decompressed; `None` at its end. `idle` is the longest wait for a byte.
    pub async fn piece(&mut self, idle: Duration) -> Result<Option<Bytes>, BodyError> {
        self.body.piece(&self.headers, idle).await
    }

    /// Checks that a body is JSON by its content type; none at all counts as JSON.
    pub fn expect_json(&self) -> Result<(), Fault> {
        match self.header(header::CONTENT_TYPE) {
            None if !self.headers.contains_key(header::CONTENT_TYPE) => Ok(()),
            Some(kind) if kind.split(';').next().is_some_and(is_json) => Ok(()),
            kind => Err(Fault::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                format!("content-type is {}; send application/json", kind.unwrap_or("not readable")),
            )),
        }
    }
}

fn is_json(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    kind == "application/json"
        || kind == "application/x-ndjson"
        || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The id that a part of a path stands for, percent-decoded: one way, and one error, for every route.
///
/// # Errors
/// 400 on `id`: a `%` without two hexadecimal digits after it, bytes that are no UTF-8, none, or more than [`ID_BYTES_MAX`].
pub fn path_id(encoded: &str) -> Result<String, Fault> {
    let escape = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    // The decoder leaves a bad escape as it stands, where it would name another id.
    let whole = encoded.split('%').skip(1).all(escape);
    let id = percent_encoding::percent_decode_str(encoded).decode_utf8().ok().filter(|_| whole);
    id.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()))
        .map(Cow::into_owned)
        .ok_or_else(|| Fault::invalid("id", format!("must be 1 to {ID_BYTES_MAX} bytes of UTF-8, percent-encoded")))
}

/// Decoded pairs of a query; pairs that are no UTF-8 are left out.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    })
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_encoding::percent_decode_str(&spaced)
            .decode_utf8()
            .ok()
            .map(|text| Cow::Owned(text.into_owned()));
    }
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}
