//! The one table: every row that anything prints, as soon as it is known, so that what came before a crash or a limit stays.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Failure;

/// A row: what was looked at, what came out, what stands beside it, what was wanted, and how that ended.
pub(crate) fn row(part: &str, what: impl Display, figure: impl Display, peer: impl Display, goal: &str, verdict: &str) {
    let text = format!("| {part} | {what} | {figure} | {peer} | {goal} | {verdict} |");
    println!("{}", text.replace(['\n', '\r'], " "));
}

/// The verdict of a check.
pub(crate) fn passed(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAIL" }
}

/// The verdict of a goal that is a ratio.
pub(crate) fn met(ratio: f64, goal: f64) -> &'static str {
    if ratio >= goal { "met" } else { "short" }
}

/// Runs a part whose failure is a row of its own and hides no other; false where it failed.
pub(crate) fn guarded(part: &str, what: impl Display, run: impl FnOnce() -> Result<bool, Failure>) -> bool {
    // A function that the vendor's library lacks is a panic of the bindings.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(ok)) => ok,
        Ok(Err(failure)) => {
            row(part, what, format!("error: {failure}"), "", "", "FAIL");
            false
        }
        Err(_) => {
            row(part, what, "error: a panic, see the log", "", "", "FAIL");
            false
        }
    }
}
