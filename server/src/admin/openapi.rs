//! The description of this port for programs: OpenAPI 3.1, written by hand in `assets/openapi.json` and held against the routes by a test.

use crate::http::respond::{self, Response};
use hyper::StatusCode;

/// The document.
pub const OPENAPI: &str = include_str!("../../assets/openapi.json");

pub(super) fn answer() -> Response {
    respond::json_bytes(StatusCode::OK, OPENAPI)
}
