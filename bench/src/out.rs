//! The one place that prints: tables for people, one JSON line for programs.

#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

use serde::Serialize;

/// Prints one line.
pub(crate) fn line(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

/// Says on stderr how far a long command has come.
pub(crate) fn progress(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Prints the closing JSON line when it was asked for.
pub(crate) fn json(asked: bool, figures: &impl Serialize) -> anyhow::Result<()> {
    if asked {
        println!("{}", serde_json::to_string(figures)?);
    }
    Ok(())
}

/// Prints rows under a header, columns aligned to the right except the first.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let mut text = String::new();
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let padded = if i == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&padded);
        }
        line(text.trim_end());
    };
    print(header.to_vec());
    for row in rows {
        print(row.iter().map(String::as_str).collect());
    }
}

/// The middle of some figures, the upper of two; 0 for none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
