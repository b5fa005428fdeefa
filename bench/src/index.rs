//! The index command: recall and latency of each kind under filters of falling selectivity, and while items change.

mod world;

use crate::out;
use anyhow::ensure;
use longbow_index::{
    Bitmap, IndexOptions, Kind, LiveIndex, NamedFilter, Query, Retriever, cpu_supported, recall_report,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Shares of the items that the filters let through.
const SHARES: [(&str, f64); 9] = [
    ("100%", 1.0),
    ("50%", 0.5),
    ("20%", 0.2),
    ("10%", 0.1),
    ("5%", 0.05),
    ("2%", 0.02),
    ("1%", 0.01),
    ("0.3%", 0.003),
    ("0.1%", 0.001),
];

/// Measures retrieval: recall@k against exact search and time of one search, for each kind and selectivity of the filter.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  longbow-bench index\n  longbow-bench index --items 100000 --dim 64 --k 200 --queries 200 --json\n  longbow-bench index --recall-min 0.99"
)]
pub(crate) struct IndexArgs {
    /// Items in the index
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=20_000_000))]
    items: u32,
    /// Entries of each vector
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=4_096))]
    dim: u16,
    /// Results of each search
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    k: u16,
    /// Queries for each figure
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    queries: u32,
    /// Clusters that items and queries are drawn from
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clusters: u32,
    /// Lists visited without a filter; 0 tunes for --recall-min
    #[arg(long, default_value_t = 0)]
    nprobe: usize,
    /// Recall that the number of lists visited is tuned for
    #[arg(long, default_value_t = 0.95)]
    recall_min: f32,
    /// Candidates fetched for each result from product-quantised lists
    #[arg(long, default_value_t = 4)]
    overfetch: usize,
    /// Seed of items, queries and filters
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    items: u32,
    dim: u16,
    k: u16,
    queries: u32,
    kinds: Vec<KindFigures>,
}

#[derive(Serialize)]
struct KindFigures {
    kind: String,
    build_s: f64,
    nlist: usize,
    probes: usize,
    selectivity: Vec<Line>,
    batch8_p50_us_a_query: f64,
    put_p50_us: f64,
    merge_s: f64,
    while_writing: Times,
    merges_while_writing: u64,
}

#[derive(Serialize)]
struct Line {
    filter: String,
    eligible: usize,
    recall: f32,
    recall_worst: f32,
    short: usize,
    #[serde(flatten)]
    times: Times,
}

#[derive(Clone, Copy, Serialize)]
struct Times {
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// Runs the command.
pub(crate) fn run(args: &IndexArgs) -> anyhow::Result<()> {
    cpu_supported().map_err(anyhow::Error::msg)?;
    let dim = usize::from(args.dim);
    ensure!(dim.is_multiple_of(2), "--dim must be even: codes take two entries each");
    let items = world::vectors(args.seed, args.items as usize, dim, args.clusters as usize);
    let queries = world::vectors(args.seed + 1, args.queries as usize, dim, args.clusters as usize);
    let kinds = [Kind::Exact, Kind::IvfFlat { nlist: 0 }, Kind::IvfPq { nlist: 0, m: u32::from(args.dim / 2) }];
    let mut figures = Figures { items: args.items, dim: args.dim, k: args.k, queries: args.queries, kinds: Vec::new() };
    for kind in kinds {
        out::line(format!("measuring {kind} ..."));
        figures.kinds.push(measure(args, kind, &items, &queries)?);
    }
    print(&figures);
    out::json(args.json, &figures)
}

fn measure(args: &IndexArgs, kind: Kind, items: &[f32], queries: &[f32]) -> anyhow::Result<KindFigures> {
    let dim = usize::from(args.dim);
    let slots: Vec<u32> = (1..=args.items).collect();
    let options = IndexOptions {
        nprobe: args.nprobe,
        recall_min: args.recall_min,
        overfetch: args.overfetch,
        lists_rows_min: 1_000,
        ..IndexOptions::new(dim, kind)
    };
    let start = Instant::now();
    let index = LiveIndex::build(options, &slots, items)?;
    let build_s = start.elapsed().as_secs_f64();
    let vectors: Vec<&[f32]> = queries.chunks_exact(dim).collect();
    let k = usize::from(args.k);
    let mut selectivity = Vec::new();
    for (name, share) in SHARES {
        let set = (share < 1.0).then(|| filter(args, share));
        let filter = NamedFilter { name, eligible: set.as_ref() };
        let report = recall_report(&index, &vectors, k, &[filter])?;
        let times = times(&index, &vectors, k, set.as_ref())?;
        let line = &report.lines[0];
        selectivity.push(Line {
            filter: name.to_owned(),
            eligible: line.eligible,
            recall: line.recall_mean,
            recall_worst: line.recall_min,
            short: line.short,
            times,
        });
    }
    let stats = index.stats();
    let batch8_p50_us_a_query = batched(&index, &vectors, k)?;
    let put_p50_us = puts(&index, &vectors)?;
    let start = Instant::now();
    index.merge()?;
    let merge_s = start.elapsed().as_secs_f64();
    let merges = index.stats().merges;
    let while_writing = beside_writer(&index, &vectors, k)?;
    Ok(KindFigures {
        kind: kind.to_string(),
        build_s,
        nlist: stats.nlist,
        probes: stats.probes,
        selectivity,
        batch8_p50_us_a_query,
        put_p50_us,
        merge_s,
        while_writing,
        merges_while_writing: index.stats().merges - merges,
    })
}

/// A filter that lets a random `share` of the items through.
fn filter(args: &IndexArgs, share: f64) -> Bitmap {
    let mut rng = StdRng::seed_from_u64(args.seed + 2);
    (1..=args.items).filter(|_| rng.random_bool(share)).collect()
}

fn times(index: &LiveIndex, vectors: &[&[f32]], k: usize, eligible: Option<&Bitmap>) -> anyhow::Result<Times> {
    let mut spent = Vec::with_capacity(vectors.len());
    for vector in vectors {
        let start = Instant::now();
        let hits = index.search(&[Query { vector, k, eligible }])?;
        spent.push(micros(start));
        ensure!(hits[0].len() <= k, "more results than asked for");
    }
    Ok(percentiles(spent))
}

/// Time a query takes when eight are asked together.
fn batched(index: &LiveIndex, vectors: &[&[f32]], k: usize) -> anyhow::Result<f64> {
    let mut spent = Vec::new();
    for eight in vectors.chunks_exact(8) {
        let asked: Vec<Query<'_>> = eight.iter().map(|vector| Query { vector, k, eligible: None }).collect();
        let start = Instant::now();
        index.search(&asked)?;
        spent.push(micros(start) / 8.0);
    }
    Ok(percentiles(spent).p50_us)
}

/// Time of replacing one item.
fn puts(index: &LiveIndex, vectors: &[&[f32]]) -> anyhow::Result<f64> {
    let mut spent = Vec::with_capacity(vectors.len());
    for (slot, vector) in (1_u32..).step_by(7).zip(vectors) {
        let start = Instant::now();
        index.put(slot, vector)?;
        spent.push(micros(start));
    }
    Ok(percentiles(spent).p50_us)
}

/// Searches while a writer replaces up to 20,000 items a second and merges run behind it.
fn beside_writer(index: &LiveIndex, vectors: &[&[f32]], k: usize) -> anyhow::Result<Times> {
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut slot = 1;
            while !done.load(Ordering::Relaxed) {
                for vector in vectors.iter().take(20) {
                    index.put(slot, vector)?;
                    slot = slot % 20_000 + 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<(), longbow_index::IndexError>(())
        });
        let times = (0..10).map(|_| times(index, vectors, k, None)).collect::<anyhow::Result<Vec<Times>>>();
        done.store(true, Ordering::Relaxed);
        let wrote = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"));
        wrote.and_then(|wrote| Ok(wrote?)).and(times)
    })?;
    index.wait_for_merge();
    let mean = |of: fn(&Times) -> f64| result.iter().map(of).sum::<f64>() / 10.0;
    Ok(Times {
        p50_us: mean(|times| times.p50_us),
        p99_us: mean(|times| times.p99_us),
        max_us: result.iter().map(|times| times.max_us).fold(0.0, f64::max),
    })
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

fn percentiles(mut spent: Vec<f64>) -> Times {
    spent.sort_by(f64::total_cmp);
    let at = |share: usize| {
        spent.get((spent.len() * share / 100).min(spent.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    Times { p50_us: at(50), p99_us: at(99), max_us: at(100) }
}

fn print(figures: &Figures) {
    let Figures { items, dim, k, queries, kinds } = figures;
    out::line(format!("\n{items} items of {dim} entries, k = {k}, {queries} queries a figure, one thread\n"));
    let mut rows = Vec::new();
    for kind in kinds {
        for line in &kind.selectivity {
            rows.push(vec![
                kind.kind.clone(),
                line.filter.clone(),
                line.eligible.to_string(),
                format!("{:.4}", line.recall),
                format!("{:.4}", line.recall_worst),
                format!("{:.0}", line.times.p50_us),
                format!("{:.0}", line.times.p99_us),
            ]);
        }
    }
    out::table(&["kind", "filter", "eligible", "recall", "worst", "p50 us", "p99 us"], &rows);
    out::line("");
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|kind| {
            vec![
                kind.kind.clone(),
                format!("{:.2}", kind.build_s),
                kind.nlist.to_string(),
                kind.probes.to_string(),
                format!("{:.0}", kind.batch8_p50_us_a_query),
                format!("{:.1}", kind.put_p50_us),
                format!("{:.2}", kind.merge_s),
                format!("{:.0}", kind.while_writing.p50_us),
                format!("{:.0}", kind.while_writing.p99_us),
                format!("{:.0}", kind.while_writing.max_us),
                kind.merges_while_writing.to_string(),
            ]
        })
        .collect();
    let header = [
        "kind",
        "build s",
        "lists",
        "visited",
        "8 at once us",
        "put us",
        "merge s",
        "writing: p50",
        "p99",
        "max",
        "merges",
    ];
    out::table(&header, &rows);
}
