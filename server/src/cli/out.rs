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

/// Prints rows under a header, columns aligned to the right except the first.
pub fn table(header: &[String], rows: &[Vec<String>]) {
    let all = || std::iter::once(header).chain(rows.iter().map(Vec::as_slice));
    let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    for row in all() {
        let cells =
            row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                if at == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") }
            });
        line(cells.collect::<String>().trim_end());
    }
}
