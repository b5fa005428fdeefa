//! Recorded traffic: OpenRTB or feed requests as JSON lines, or tab-separated bid log lines, sent in order.

use crate::client::{Connection, Target};
use crate::out;
use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Sends recorded requests and counts the answers by status.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  longbow-bench replay requests.jsonl --url http://127.0.0.1:8080\n  longbow-bench replay bids.log.txt --url http://127.0.0.1:8080 --limit 1000 --json"
)]
pub(crate) struct ReplayArgs {
    /// JSON lines (OpenRTB bid requests, or feed requests with a `user` and no `imp`) or iPinYou bid log lines
    file: PathBuf,
    /// Server to ask
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Stop after this many requests
    #[arg(long)]
    limit: Option<usize>,
    /// Connections used at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Give up on an answer after this many milliseconds
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// What was counted.
#[derive(Default, Serialize)]
struct Figures {
    requests: u64,
    /// Lines that are no request at all, by line number and reason (first ten).
    unreadable: u64,
    by_status: BTreeMap<String, u64>,
    /// Transport faults and time-outs.
    failed: u64,
    /// 200 answers whose body is not a JSON object, or 204/400 answers with a body.
    invalid_bodies: u64,
    bids: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    seconds: f64,
}

/// One line turned into a request.
fn request_of(line: &str) -> anyhow::Result<(&'static str, Bytes)> {
    if line.trim_start().starts_with('{') {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let feed = value.get("imp").is_none() && value.get("user").is_some();
        let path = if feed { "/v1/rank" } else { "/openrtb2/bid" };
        return Ok((path, Bytes::copy_from_slice(line.as_bytes())));
    }
    if line.contains('\t') {
        return Ok(("/openrtb2/bid", Bytes::from(crate::ipinyou::to_openrtb(line)?.to_string())));
    }
    anyhow::bail!("is neither a JSON object nor a tab-separated bid log line")
}

/// Runs the command.
pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let target = Target::parse(&args.url)?;
    let file = std::fs::File::open(&args.file).with_context(|| format!("open {}", args.file.display()))?;
    let mut figures = Figures::default();
    let mut requests = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("{} line {}", args.file.display(), number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        match request_of(&line) {
            Ok(request) => requests.push(request),
            Err(fault) => {
                figures.unreadable += 1;
                if figures.unreadable <= 10 {
                    out::line(format!("line {}: {fault}", number + 1));
                }
            }
        }
        if args.limit.is_some_and(|limit| requests.len() >= limit) {
            break;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(send_all(args, target, requests, &mut figures))?;
    let rows: Vec<Vec<String>> =
        figures.by_status.iter().map(|(status, count)| vec![status.clone(), count.to_string()]).collect();
    out::table(&["status", "answers"], &rows);
    out::line(format!(
        "{} requests in {:.1} s: {} with bids, {} failed, {} invalid bodies, {} unreadable lines; p50 {:.2} ms, p99 {:.2} ms",
        figures.requests,
        figures.seconds,
        figures.bids,
        figures.failed,
        figures.invalid_bodies,
        figures.unreadable,
        figures.p50_ms,
        figures.p99_ms
    ));
    out::json(args.json, &figures)
}

async fn send_all(
    args: &ReplayArgs,
    target: Target,
    requests: Vec<(&'static str, Bytes)>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let timeout = Duration::from_millis(args.timeout_ms);
    let requests = std::sync::Arc::new(requests);
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..args.connections {
        let (target, requests, next) = (target.clone(), requests.clone(), next.clone());
        workers.spawn(async move {
            let mut connection = Connection::new(target);
            let mut answers = Vec::new();
            loop {
                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some((path, body)) = requests.get(index) else { return answers };
                let sent = Instant::now();
                let answer = connection.post(path, body.clone(), timeout).await;
                answers.push((answer, sent.elapsed()));
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(answers) = workers.join_next().await {
        for (answer, latency) in answers? {
            figures.requests += 1;
            latencies.push(latency.as_secs_f64() * 1e3);
            let Ok(answer) = answer else {
                figures.failed += 1;
                continue;
            };
            *figures.by_status.entry(answer.status.to_string()).or_default() += 1;
            let object =
                serde_json::from_slice::<serde_json::Value>(&answer.body).ok().filter(serde_json::Value::is_object);
            match answer.status {
                200 if object.is_none() => figures.invalid_bodies += 1,
                200 => figures.bids += u64::from(object.is_some_and(|o| o["seatbid"][0]["bid"][0].is_object())),
                204 | 400 if !answer.body.is_empty() => {
                    figures.invalid_bodies += u64::from(answer.error.is_some() || answer.status == 204)
                }
                _ => {}
            }
        }
    }
    latencies.sort_by(f64::total_cmp);
    let at = |q: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (latencies.len() as f64 * q) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    (figures.p50_ms, figures.p99_ms, figures.max_ms) = (at(0.5), at(0.99), at(1.0));
    figures.seconds = started.elapsed().as_secs_f64();
    Ok(())
}
