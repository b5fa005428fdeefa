//! `longbow eval`: runs the evaluation and prints its figures.

use super::out;
use crate::eval::report::{Answers, Best, BestOf, Impressions, Nexts, ShownAt, Side, Target};
use crate::eval::{self, EvalArgs, Figure, Quality, Report, plot};
use crate::ids::Id;
use std::process::ExitCode;
use std::sync::Arc;

/// Exits 1 if no ranking came at all.
pub(super) fn run(args: &EvalArgs, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(Box::pin(eval::evaluate(args, Arc::new(|text: &str| out::note(text)))))?;
    print(&report);
    if let Some(path) = &args.plot {
        plot::draw(path, &report)?;
        out::line(format!("\nplot: {}", path.display()));
    }
    out::json(json, &report)?;
    Ok(if report.answered() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    let Report { users, users_in_file, items, limits, .. } = report;
    out::line(format!("{users} of {users_in_file} users"));
    let named: Vec<&str> = items.unknown_named.iter().map(Id::as_str).collect();
    let more = if items.unknown > named.len() { ", ..." } else { "" };
    let named = if named.is_empty() { String::new() } else { format!(": {}{more}", named.join(", ")) };
    out::line(format!("{} items, {} of them unknown to the server{named}", items.in_file, items.unknown));
    out::line(format!(
        "model {}; deadline {} ms; histories of at most {} events; figures with one standard error",
        report.models.join(", "),
        limits.deadline_ms,
        limits.history_events
    ));
    if let Some(next) = &report.next {
        print_next(next);
    }
    if let Some(shown) = &report.impressions {
        print_impressions(shown);
    }
}

/// A figure and its error, or a dash.
fn cell(figure: &Figure) -> String {
    with_error(figure, format!("{:.4}", figure.value))
}

/// A difference, with its sign.
fn rise(figure: Option<&Figure>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| with_error(figure, format!("{:+.4}", figure.value)))
}

fn with_error(figure: &Figure, value: String) -> String {
    let error = format!("{:.4}", figure.error);
    match (figure.value.is_finite(), figure.error.is_finite()) {
        (true, true) => format!("{value} ±{}", error.strip_prefix('0').unwrap_or(&error)),
        (true, false) => value,
        _ => "-".to_owned(),
    }
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

#[expect(clippy::cast_precision_loss, reason = "counts of rankings")]
fn percent(count: usize, all: usize) -> String {
    format!("{:.1}", 100.0 * count as f64 / all.max(1) as f64)
}

fn failures<'a>(all: impl Iterator<Item = (usize, &'a Answers)>) {
    for (length, answers) in all {
        if let Some(failure) = &answers.first_failure {
            out::line(format!("first failure at {length} events: {failure}"));
        }
    }
}

fn print_next(next: &Nexts) {
    let Nexts { evaluated, skipped, .. } = next;
    out::line(format!(
        "\nThe next item, in lists ordered by {}{}",
        next.objective,
        if next.exclude_history { ", items of the history left out" } else { "" }
    ));
    out::line(format!(
        "{evaluated} users evaluated, {} of one event, {} whose next item the server does not know; {} have it in their history{}",
        skipped.too_short,
        skipped.unknown_item,
        next.seen_before,
        if next.exclude_history { ": misses" } else { "" }
    ));
    let longest = next.popularity.recall.keys().last().copied().unwrap_or(0);
    let mut header = strings(["newest events", "users with all", "events read", "degraded %", "failed %"]);
    header.extend(next.popularity.recall.keys().flat_map(|k| [format!("recall@{k}"), format!("NDCG@{k}")]));
    header.extend(["MRR".to_owned(), format!("rise of recall@{longest}")]);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for at in &next.lengths {
        let mut row = vec![at.length.to_string(), at.users_with_all.to_string()];
        row.extend(of_answers(&at.answers));
        row.extend(of_quality(&at.quality));
        row.push(rise(at.rise.as_ref()));
        rows.push(row);
    }
    let mut floor = strings(["popularity", "-", "-", "-", "-"]);
    floor.extend(of_quality(&next.popularity));
    floor.push("-".to_owned());
    rows.push(floor);
    out::table(&header, &rows);
    failures(next.lengths.iter().map(|at| (at.length, &at.answers)));
    print_cold(next, longest);
}

/// Events read, and shares of answers that were not whole.
fn of_answers(answers: &Answers) -> [String; 3] {
    [
        format!("{:.0}", answers.events_read),
        percent(answers.degraded, answers.asked),
        percent(answers.failed, answers.asked),
    ]
}

fn of_quality(quality: &Quality) -> Vec<String> {
    let by_k = quality.recall.iter().flat_map(|(k, recall)| [Some(recall), quality.ndcg.get(k)]);
    by_k.flatten().chain([&quality.mrr]).map(cell).collect()
}

fn print_cold(next: &Nexts, k: usize) {
    let Some(first) = next.lengths.first().and_then(|at| at.cold.as_ref()) else { return };
    let (cold, warm) = (&first.cold, &first.warm);
    out::line(format!(
        "\nrecall@{k} of cold items (above {}: content only; {} items, {} users) and of warm ones ({} items, {} users)",
        next.warm_items.unwrap_or(0),
        cold.items,
        cold.users,
        warm.items,
        warm.users
    ));
    let header = strings(["newest events", "cold", "warm", "ratio", "cold alone", "warm alone", "ratio alone"]);
    let alone = |side: &Side| side.recall_alone.as_ref().map_or_else(|| "-".to_owned(), cell);
    let rows: Vec<Vec<String>> = next
        .lengths
        .iter()
        .filter_map(|at| at.cold.as_ref().map(|cold| (at.length, cold)))
        .map(|(length, at)| {
            vec![
                length.to_string(),
                cell(&at.cold.recall),
                cell(&at.warm.recall),
                cell(&at.ratio),
                alone(&at.cold),
                alone(&at.warm),
                at.ratio_alone.as_ref().map_or_else(|| "-".to_owned(), cell),
            ]
        })
        .collect();
    out::table(&header, &rows);
    out::line("alone: looked for among its like only, so that the two kinds do not crowd each other out");
    if cold.users > 0 && cold.recall_alone.is_none() {
        out::line(
            "cold items alone were not asked for: they are more than the server takes as candidates (auction.candidates_max)",
        );
    }
}

fn print_impressions(shown: &Impressions) {
    out::line(format!(
        "\n{} impressions of {} users; {} more were of items that the server does not know",
        shown.impressions, shown.users, shown.unknown_item
    ));
    let header = strings([
        "prediction",
        "newest events",
        "rows",
        "AUC",
        "rise of AUC",
        "norm. entropy",
        "calibration error",
        "by chance",
        "predicted/observed",
    ]);
    type Pick = (&'static str, fn(&ShownAt) -> &Target, fn(&Best) -> &BestOf);
    let targets: [Pick; 3] = [
        ("click", |at| &at.click, |best| &best.click),
        ("conversion", |at| &at.conversion, |best| &best.conversion),
        ("conversion of a click", |at| &at.conversion_after_click, |best| &best.conversion_after_click),
    ];
    let mut rows = Vec::new();
    for (name, pick, best_of) in targets {
        rows.extend(shown.lengths.iter().map(|at| of_target(name, at.length, pick(at))));
        if let Some(best) = shown.best.as_ref().map(best_of) {
            let mut row = strings([name, "best", "-"]);
            row.extend([cell(&best.auc), "-".to_owned(), cell(&best.normalised_entropy)]);
            row.extend(strings(["-"; 3]));
            rows.push(row);
        }
    }
    out::table(&header, &rows);
    out::line(
        "best: the true probabilities; by chance: the calibration error that right predictions would show here\n",
    );
    let header = strings([
        "newest events",
        "rankings",
        "events read",
        "degraded %",
        "failed %",
        "orders",
        "error of order value",
        "predicted/observed",
    ]);
    let row = |at: &ShownAt| {
        let mut row = vec![at.length.to_string(), at.answers.asked.to_string()];
        row.extend(of_answers(&at.answers));
        row.extend([at.conversion.positives.to_string(), cell(&at.value_error), cell(&at.value_ratio)]);
        row
    };
    out::table(&header, &shown.lengths.iter().map(row).collect::<Vec<_>>());
    for (name, value) in &shown.best_in_file {
        out::line(format!("the maker of the file says: best {name} {value:.4}"));
    }
    failures(shown.lengths.iter().map(|at| (at.length, &at.answers)));
}

fn of_target(name: &str, length: usize, target: &Target) -> Vec<String> {
    let mut row = vec![name.to_owned(), length.to_string(), target.rows.to_string()];
    row.extend([cell(&target.auc), rise(target.rise.as_ref()), cell(&target.normalised_entropy)]);
    row.extend([cell(&target.calibration_error), format!("{:.4}", target.calibration_chance)]);
    row.push(cell(&target.predicted_over_observed));
    row
}
