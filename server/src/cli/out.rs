//! The one place of the binary that prints.

use serde::Serialize;
use std::io::Write as _;

/// Prints one line on standard output.
pub fn line(text: impl AsRef<str>) {
    // A reader that went away (`| head`) is no fault of the command.
    let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
}

/// Prints one line on standard error.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Prints what went wrong on standard error.
pub fn fault(text: &str) {
    for text in text.lines() {
        note(format!("longbow: {text}"));
    }
}

/// Prints the closing JSON line if it was asked for.
pub fn json(asked: bool, figures: &impl Serialize) -> anyhow::Result<()> {
    if asked {
        line(serde_json::to_string(figures)?);
    }
    Ok(())
}
