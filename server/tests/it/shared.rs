//! The real data beside the checkout; tests that need it say so and return when it is absent.

use std::path::PathBuf;

/// A path under `../shared`, if it exists.
#[expect(clippy::print_stdout, reason = "says why a test was skipped")]
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    println!("skipped: ../shared is absent ({path})");
    None
}

/// The recorded bid requests, one a line.
pub(crate) fn exchange_requests() -> Option<Vec<String>> {
    let text = std::fs::read_to_string(shared("data/openrtb/exchange-requests.jsonl")?).unwrap();
    Some(text.lines().map(str::to_owned).collect())
}
