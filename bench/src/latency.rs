//! One user's request, cold and warm, by stage: what a history costs the first time and every time after.

use crate::client::{Answer, Connection, Target};
use crate::out;
use anyhow::bail;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Measures single requests of users with long histories, one at a time, cold and then warm.
#[derive(clap::Args)]
#[command(
    after_help = "Example, on a demo world that was just started (its first 200 users have 10,000 events each):\n  longbow-bench latency --first 1 --users 40 --candidates 500 --json"
)]
pub(crate) struct LatencyArgs {
    /// Server to ask; users must not have been asked for since its start, or they are not cold
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Prefix of user ids
    #[arg(long, default_value = "user-")]
    user_prefix: String,
    /// Number of the first user
    #[arg(long, default_value_t = 1)]
    first: u32,
    /// Users: half of them are asked for rankings, half for bids
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    users: u32,
    /// Warm requests after each cold one
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    warm: u32,
    /// Candidates of a ranking: items 1 to this number
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    candidates: u32,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// Milliseconds by stage, all samples.
type Samples = BTreeMap<String, Vec<f64>>;

#[derive(Serialize)]
struct Figures {
    candidates: u32,
    /// Medians in milliseconds by kind of request and stage; `wall` is seen by the client.
    median_ms: BTreeMap<&'static str, BTreeMap<String, f64>>,
    /// Samples of each kind.
    samples: BTreeMap<&'static str, usize>,
}

/// Runs the command.
pub(crate) fn run(args: &LatencyArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut kinds: BTreeMap<&'static str, Samples> = BTreeMap::new();
    runtime.block_on(ask_all(args, &mut kinds))?;
    let mut figures = Figures { candidates: args.candidates, median_ms: BTreeMap::new(), samples: BTreeMap::new() };
    for (kind, samples) in &kinds {
        let medians = samples.iter().map(|(stage, times)| (stage.clone(), out::median(times.clone()))).collect();
        figures.median_ms.insert(kind, medians);
        figures.samples.insert(kind, samples.get("wall").map_or(0, Vec::len));
    }
    let stages = [
        "load",
        "encode_wait",
        "encode",
        "retrieve",
        "score_wait",
        "score",
        "price",
        "choose",
        "record",
        "total",
        "wall",
    ];
    let rows: Vec<Vec<String>> = figures
        .median_ms
        .iter()
        .map(|(kind, medians)| {
            let cell = |stage: &str| medians.get(stage).map_or("-".to_owned(), |ms| format!("{ms:.3}"));
            let count = figures.samples.get(kind).copied().unwrap_or(0);
            [vec![(*kind).to_owned(), count.to_string()], stages.iter().map(|stage| cell(stage)).collect()].concat()
        })
        .collect();
    out::table(&[&["median ms", "n"], stages.as_slice()].concat(), &rows);
    out::json(args.json, &figures)
}

async fn ask_all(args: &LatencyArgs, kinds: &mut BTreeMap<&'static str, Samples>) -> anyhow::Result<()> {
    let mut connection = Connection::new(Target::parse(&args.url)?);
    let items: Vec<String> = (1..=args.candidates).map(|item| item.to_string()).collect();
    for number in args.first..args.first + args.users {
        let user = format!("{}{number:05}", args.user_prefix);
        let ranking = number % 2 == 0;
        for round in 0..=args.warm {
            let (path, body) = if ranking {
                ("/v1/rank", json!({"user": user, "candidates": items, "k": 20, "deadline_ms": 2_000}))
            } else {
                let id = format!("latency-{number}-{round}");
                let imp = json!([{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 0.01}]);
                ("/openrtb2/bid", json!({"id": id, "imp": imp, "user": {"id": user}, "at": 1, "tmax": 2_000}))
            };
            let started = Instant::now();
            let answer = connection.post(path, body.to_string().into(), Duration::from_secs(10)).await?;
            let wall = started.elapsed();
            if answer.status != 200 {
                bail!("{path} for {user} answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
            }
            let kind = match (ranking, round) {
                (true, 0) => "rank, cold",
                (true, _) => "rank, warm",
                (false, 0) => "bid, cold",
                (false, _) => "bid, warm",
            };
            record(kinds.entry(kind).or_default(), &answer, wall);
        }
    }
    Ok(())
}

fn record(samples: &mut Samples, answer: &Answer, wall: Duration) {
    for (stage, ms) in answer.timing.iter().flat_map(|timing| timing.split(", ")).filter_map(|s| s.split_once(";dur="))
    {
        if let Ok(ms) = ms.parse() {
            samples.entry(stage.to_owned()).or_default().push(ms);
        }
    }
    samples.entry("wall".to_owned()).or_default().push(wall.as_secs_f64() * 1e3);
}
