//! `longbow eval`: runs the evaluation and prints its figures.

use super::out;
use crate::eval::{self, EvalArgs, Quality, Report};
use std::process::ExitCode;
use std::sync::Arc;

/// Exits 1 if no ranking came at all.
pub(super) fn run(args: &EvalArgs, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(Box::pin(eval::evaluate(args, Arc::new(|text: &str| out::note(text)))))?;
    print(&report);
    out::json(json, &report)?;
    let answered = report.lengths.iter().any(|at| at.answered > 0);
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    let Report { users, users_in_file, evaluated, skipped, items, limits, .. } = report;
    out::line(format!(
        "{users} of {users_in_file} users: {evaluated} evaluated, {} of one event, {} whose held-out item the server does not know",
        skipped.too_short, skipped.unknown_item
    ));
    let named: Vec<&str> = items.unknown_named.iter().map(crate::ids::Id::as_str).collect();
    let named = if named.is_empty() { String::new() } else { format!(": {}{}", named.join(", "), more(items)) };
    out::line(format!("{} items, {} of them unknown to the server{named}", items.in_file, items.unknown));
    out::line(format!(
        "model {}; deadline {} ms; histories of at most {} events",
        report.models.join(", "),
        limits.deadline_ms,
        limits.history_events
    ));
    out::line("");
    let header = ["newest events", "users with all", "events read", "degraded %", "failed %"].map(str::to_owned);
    let header: Vec<String> = header.into_iter().chain(names(&report.popularity)).collect();
    let percent = |count: usize| format!("{:.1}", 100.0 * share(count, *evaluated));
    let mut rows: Vec<Vec<String>> = report
        .lengths
        .iter()
        .map(|at| {
            let first = [
                at.length.to_string(),
                at.users_with_all.to_string(),
                format!("{:.0}", at.events_read),
                percent(at.degraded),
                percent(at.failed),
            ];
            first.into_iter().chain(figures(&at.quality)).collect()
        })
        .collect();
    let dash = ["popularity", "-", "-", "-", "-"].map(str::to_owned);
    rows.push(dash.into_iter().chain(figures(&report.popularity)).collect());
    out::table(&header, &rows);
    for at in &report.lengths {
        if let Some(failure) = &at.first_failure {
            out::line(format!("first failure at {} events: {failure}", at.length));
        }
    }
}

fn more(items: &eval::Items) -> &'static str {
    if items.unknown > items.unknown_named.len() { ", ..." } else { "" }
}

#[expect(clippy::cast_precision_loss, reason = "counts of users")]
fn share(count: usize, all: usize) -> f64 {
    count as f64 / all.max(1) as f64
}

fn names(quality: &Quality) -> Vec<String> {
    let by_k = quality.recall.keys().flat_map(|k| [format!("recall@{k}"), format!("NDCG@{k}")]);
    by_k.chain(["MRR".to_owned()]).collect()
}

fn figures(quality: &Quality) -> Vec<String> {
    let by_k = quality.recall.iter().flat_map(|(k, recall)| [*recall, quality.ndcg.get(k).copied().unwrap_or(0.0)]);
    by_k.chain([quality.mrr]).map(|figure| format!("{figure:.4}")).collect()
}
