//! The console's files, embedded in the binary. They hold no data: pages ask the API for it with the reader's token.

use crate::http::respond::{self, Response};
use hyper::StatusCode;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

/// Path, content type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../../assets/console/index.html")),
    ("/console/console.css", "text/css; charset=utf-8", include_str!("../../assets/console/console.css")),
    ("/console/main.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/main.js")),
    ("/console/api.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/api.js")),
    ("/console/draw.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/draw.js")),
    ("/console/live.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/live.js")),
    ("/console/overview.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/overview.js")),
    ("/console/troubles.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/troubles.js")),
    ("/console/plans.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/plans.js")),
    ("/console/plan.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/plan.js")),
    ("/console/icon.svg", "image/svg+xml", include_str!("../../assets/console/icon.svg")),
];

/// Nothing but our own files, no inline script or style, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file under a path.
pub(super) fn file(path: &str) -> Option<Response> {
    let &(_, kind, content) = FILES.iter().find(|(name, _, _)| *name == path)?;
    let mut response = respond::with_type(StatusCode::OK, kind, content);
    let headers = response.headers_mut();
    let fixed = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_load_nothing_from_elsewhere_and_hold_no_inline_script() {
        for (path, kind, content) in FILES {
            let response = file(path).unwrap();
            assert!(response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
            let foreign = content.replace("http://www.w3.org/", "").replace("https://img.example/", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path} names another site");
            if kind.starts_with("text/html") {
                assert!(!content.contains(" style=") && !content.contains("onclick") && !content.contains("<style"));
                assert!(content.matches("<script").count() == 1 && content.contains("src=\"/console/main.js\""));
            }
            assert!(!content.contains("innerHTML"), "{path}: text from records must never become markup");
        }
        assert!(file("/console/../openapi.json").is_none());
    }
}
