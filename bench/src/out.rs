//! What commands print, by the server's own printer: tables for people, one JSON line for programs.

pub(crate) use longbow::cli::out::{fault, json, line, note as progress};

/// Prints rows under a header, columns aligned to the right except the first.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    longbow::cli::out::table(&header, rows);
}

/// The middle of some figures, the upper of two; 0 for none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
