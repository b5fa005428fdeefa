//! Answers and errors in the shape of their endpoint.

use crate::meters::Endpoint;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::io::Write as _;

/// An answer whose body is in memory.
pub type Response = hyper::Response<Bytes>;

/// Names the fault of a request to /openrtb2/*, whose errors have no body.
pub const X_LONGBOW_ERROR: HeaderName = HeaderName::from_static("x-longbow-error");
/// Identifies a request in answers and logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Stage times of a request.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Longest text put into `x-longbow-error`.
const ERROR_HEADER_BYTES_MAX: usize = 512;

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// 204: no bid.
#[must_use]
pub fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// A body of any type.
#[must_use]
pub fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON body that is already serialised.
#[must_use]
pub fn json_bytes(status: StatusCode, body: impl Into<Bytes>) -> Response {
    with_type(status, "application/json", body)
}

/// A JSON body. A value that cannot be serialised (a map with keys that are no text) answers 500.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_bytes(status, body),
        Err(error) => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()).json(),
    }
}

/// What is wrong with a request: status, code for programs, message for people, field if one is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Status of the answer.
    pub status: StatusCode,
    /// Stable word for programs, for example `too_large`.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
    /// JSON path of the field at fault.
    pub field: Option<String>,
    /// Seconds after which a retry makes sense.
    pub retry_after_s: Option<u32>,
    /// Methods for `allow`, with 405.
    pub allow: Option<&'static str>,
}

impl Fault {
    /// A fault without a field.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None, retry_after_s: None, allow: None }
    }

    /// 400 on `field`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(StatusCode::BAD_REQUEST, "invalid", message) }
    }

    /// 404.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} here"))
    }

    /// 405 with the methods that are allowed, as in `"GET, PUT"`.
    #[must_use]
    pub fn method(method: &Method, allow: &'static str) -> Self {
        let message = format!("{method} is not allowed here; allowed: {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    /// 503 `overloaded`: refused at once because the server as a whole, not this client, asks too much of itself (429 would blame
    /// the client).
    #[must_use]
    pub fn overloaded(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { code: "overloaded", ..Self::unavailable(message, retry_after_s) }
    }

    /// 503: not now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self {
            retry_after_s: Some(retry_after_s),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        }
    }

    /// The answer in the shape of `endpoint`: for bids no body and the header `x-longbow-error`, else a JSON body.
    #[must_use]
    pub fn respond(self, endpoint: Endpoint) -> Response {
        if endpoint != Endpoint::Bid {
            return self.json();
        }
        let text = match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        };
        let mut response = empty(self.status);
        response.headers_mut().insert(X_LONGBOW_ERROR, header_text(&text));
        self.decorate(response)
    }

    /// The answer with a JSON body: `{"error":{"code","message","field"}}`.
    #[must_use]
    pub fn json(self) -> Response {
        let mut error = serde_json::Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), self.message.as_str().into());
        if let Some(field) = &self.field {
            error.insert("field".to_owned(), field.as_str().into());
        }
        let body = serde_json::json!({ "error": error }).to_string();
        let response = json_bytes(self.status, body);
        self.decorate(response)
    }

    fn decorate(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// Text as a header value: visible ASCII and spaces only, shortened to a fixed length.
#[must_use]
pub fn header_text(text: &str) -> HeaderValue {
    let safe: String = text
        .chars()
        .take(ERROR_HEADER_BYTES_MAX)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect();
    HeaderValue::from_str(safe.trim()).unwrap_or(HeaderValue::from_static("fault"))
}

/// True if the client takes gzip.
#[must_use]
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named =
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip"));
        let refused = parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)));
        named && !refused
    })
}

/// Compresses the body where that helps: text of at least `bytes_min` that is not encoded yet. The caller has checked
/// [`accepts_gzip`].
#[must_use]
pub fn compressed(response: Response, bytes_min: usize) -> Response {
    let is_text =
        response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| {
            ["application/json", "application/x-ndjson", "text/", "image/svg"].iter().any(|text| kind.starts_with(text))
        });
    if response.body().len() < bytes_min || !is_text || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The fastest level: this runs on an IO thread.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), Compression::fast());
    let Ok(small) = encoder.write_all(&body).and_then(|()| encoder.finish()) else {
        return Response::from_parts(parts, body);
    };
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(parts, small.into())
}
