//! How much of the truth an approximate index finds.

use std::fmt;

use crate::{Bitmap, IndexError, Query, Retriever};

/// A named filter to measure under.
#[derive(Clone, Copy, Debug)]
pub struct NamedFilter<'a> {
    /// Its name in the report.
    pub name: &'a str,
    /// The eligible slots; `None` lets all items through.
    pub eligible: Option<&'a Bitmap>,
}

/// Recall under one filter.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RecallLine {
    /// The filter's name.
    pub filter: String,
    /// Slots the filter lets through, or all items alive.
    pub eligible: usize,
    /// Queries asked.
    pub queries: usize,
    /// Mean share of the exact results found.
    pub recall_mean: f32,
    /// The worst query's share.
    pub recall_min: f32,
    /// Queries that came back with fewer results than exist: 0 unless something is broken.
    pub short: usize,
}

/// Recall of an index against exact search, filter by filter.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RecallReport {
    /// The index's kind in words.
    pub kind: String,
    /// Results asked for.
    pub k: usize,
    /// One line for each filter.
    pub lines: Vec<RecallLine>,
}

/// Asks every query under every filter, both ways.
///
/// # Errors
/// As [`Retriever::search`].
pub fn recall_report(
    index: &dyn Retriever,
    queries: &[&[f32]],
    k: usize,
    filters: &[NamedFilter<'_>],
) -> Result<RecallReport, IndexError> {
    let mut lines = Vec::with_capacity(filters.len());
    for filter in filters {
        let asked: Vec<Query<'_>> =
            queries.iter().map(|vector| Query { vector, k, eligible: filter.eligible }).collect();
        let found = index.search(&asked)?;
        let truth = index.search_exact(&asked)?;
        let shares: Vec<f32> = found.iter().zip(&truth).map(|(found, truth)| found.recall_against(truth)).collect();
        #[expect(clippy::cast_precision_loss, reason = "a count of queries")]
        let mean = if shares.is_empty() { 1.0 } else { shares.iter().sum::<f32>() / shares.len() as f32 };
        lines.push(RecallLine {
            filter: filter.name.to_owned(),
            eligible: filter.eligible.map_or(index.len(), Bitmap::count),
            queries: queries.len(),
            recall_mean: mean,
            recall_min: shares.iter().copied().fold(1.0, f32::min),
            short: found.iter().zip(&truth).filter(|(found, truth)| found.len() < truth.len()).count(),
        });
    }
    Ok(RecallReport { kind: index.kind().to_string(), k, lines })
}

impl fmt::Display for RecallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "recall@{} of {}", self.k, self.kind)?;
        writeln!(
            f,
            "{:<12} {:>10} {:>8} {:>8} {:>8} {:>6}",
            "filter", "eligible", "queries", "mean", "worst", "short"
        )?;
        for line in &self.lines {
            let RecallLine { filter, eligible, queries, recall_mean, recall_min, short } = line;
            writeln!(f, "{filter:<12} {eligible:>10} {queries:>8} {recall_mean:>8.4} {recall_min:>8.4} {short:>6}")?;
        }
        Ok(())
    }
}
