//! The soak command: requests, events and catalogue changes for a while, and what the server's memory does meanwhile.

use crate::client::{Connection, Target};
use crate::load::open_loop::{self, Figures, Run};
use crate::load::traffic::{Recipe, Source};
use crate::out;
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Items and events of one body.
const TOGETHER: u32 = 500;
/// Longest wait for one change.
const PATIENCE: Duration = Duration::from_secs(30);

/// Loads a server and watches its memory.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  longbow-bench soak --users 500 --rate 150 --seconds 120 --growth-mib-max 32 --json\n\n\
    Caches fill first: give --warmup long enough for every user drawn to be seen. Unanswered bids hold memory for\n\
    ledger.hold_seconds; start the server with a low value."
)]
pub(crate) struct SoakArgs {
    /// Public port; a machine of your own, as this offers real load and changes its catalogue
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Admin port
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    admin: String,
    /// Requests a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Seconds after the warm-up
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seconds of the same load before memory counts
    #[arg(long, default_value_t = 30.0)]
    warmup: f64,
    /// Seconds between two readings of memory
    #[arg(long, default_value_t = 5.0)]
    every: f64,
    /// Events sent for each request
    #[arg(long, default_value_t = 5)]
    events: u32,
    /// Items made, and as many of the oldest removed, at each reading
    #[arg(long, default_value_t = 20)]
    items: u32,
    /// End with exit code 1 if memory after the warm-up grows by more
    #[arg(long)]
    growth_mib_max: Option<f64>,
    #[command(flatten)]
    recipe: Recipe,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// One reading.
#[derive(Clone, Debug, Serialize)]
struct Reading {
    seconds: f64,
    requests: u64,
    resident_mib: f64,
    p99_ms: f64,
    error_share: f64,
}

#[derive(Serialize)]
struct Report {
    requests: u64,
    events: u64,
    items_made: u64,
    plans_changed: u64,
    after_warmup_mib: f64,
    end_mib: f64,
    /// Highest reading of the last third over the highest of the first third, after the warm-up.
    growth_mib: f64,
    readings: Vec<Reading>,
}

impl SoakArgs {
    fn check(&self) -> anyhow::Result<()> {
        for (name, value, low, high) in [
            ("--rate", self.rate, 0.1, 1e6),
            ("--seconds", self.seconds, 3.0 * self.every, 1e6),
            ("--warmup", self.warmup, 0.0, 1e5),
            ("--every", self.every, 0.5, 3600.0),
        ] {
            if !(low..=high).contains(&value) {
                bail!("{name} {value}: must be from {low} to {high}");
            }
        }
        Ok(())
    }

    fn load(&self, target: &Target, slice: u64) -> anyhow::Result<Figures> {
        let run = Run {
            target: target.clone(),
            rate: self.rate,
            length: Duration::from_secs_f64(self.every),
            connections: 64,
            timeout: Duration::from_secs(5),
            seed: self.recipe.seed + slice,
        };
        open_loop::run(run, Source::new(&self.recipe.with_seed(self.recipe.seed + slice))?)
    }
}

/// Changes what is served: the part of a soak that is no request.
struct Churn {
    runtime: tokio::runtime::Runtime,
    public: Connection,
    admin: Connection,
    rng: StdRng,
    dimension: usize,
    plans: Vec<String>,
    made: VecDeque<String>,
    counts: [u64; 3],
}

impl Churn {
    fn new(args: &SoakArgs) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = |url: &str| anyhow::Ok(Connection::new(Target::parse(url)?));
        let mut churn = Self {
            public: connection(&args.url)?,
            admin: connection(&args.admin)?,
            rng: StdRng::seed_from_u64(args.recipe.seed ^ 0x50AC),
            dimension: 0,
            plans: Vec::new(),
            made: VecDeque::new(),
            counts: [0; 3],
            runtime,
        };
        let first = churn.admin(Method::GET, "/v1/items?limit=1", &Value::Null)?;
        churn.dimension = first["records"][0]["vector"].as_array().map_or(0, Vec::len);
        let plans = churn.admin(Method::GET, "/v1/plans?limit=50", &Value::Null)?;
        let plans = plans["records"].as_array().into_iter().flatten();
        churn.plans = plans.filter_map(|plan| plan["id"].as_str().map(str::to_owned)).collect();
        Ok(churn)
    }

    fn admin(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let what = format!("{method} {path}");
        let answer = self.runtime.block_on(self.admin.send(method, path, body, PATIENCE))?;
        if !(200..300).contains(&answer.status) {
            bail!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        if answer.body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&answer.body).context(what) }
    }

    fn resident_mib(&mut self) -> anyhow::Result<f64> {
        let answer = self.runtime.block_on(self.admin.send(Method::GET, "/metrics", Bytes::new(), PATIENCE))?;
        let text = String::from_utf8_lossy(&answer.body);
        let line = text.lines().find_map(|line| line.strip_prefix("longbow_process_resident_bytes "));
        Ok(line.context("the server tells no memory under /metrics")?.parse::<f64>()? / f64::from(1 << 20))
    }

    fn events(&mut self, args: &SoakArgs, slice: usize, count: u64) -> anyhow::Result<()> {
        for batch in 0..count.div_ceil(TOGETHER.into()) {
            let events: Vec<Value> = (0..TOGETHER)
                .map(|at| {
                    let item = self.rng.random_range(1..=1_000_u32).to_string();
                    let id = format!("soak-{:x}-{slice}-{batch}-{at}", args.recipe.seed);
                    json!({"id": id, "user": args.recipe.user(&mut self.rng), "item": item, "action": "view"})
                })
                .collect();
            let body = Bytes::from(json!(events).to_string());
            let answer = self.runtime.block_on(self.public.post("/v1/events", body, PATIENCE))?;
            if answer.status != 200 {
                bail!("/v1/events: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
            }
            self.counts[0] += u64::from(TOGETHER);
        }
        Ok(())
    }

    /// New items, the oldest of them gone again, and plans with another bid ceiling.
    fn catalogue(&mut self, args: &SoakArgs, slice: usize) -> anyhow::Result<()> {
        for number in 0..args.items {
            let id = format!("soak-{:x}-{slice}-{number}", args.recipe.seed);
            let vector: Vec<f32> = (0..self.dimension).map(|_| self.rng.random_range(-1.0..1.0)).collect();
            let item = json!({"id": id, "title": "Soak", "categories": ["IAB1"], "price_micros": 1_000_000,
                "url": "https://shop.example/soak", "vector": vector});
            self.admin(Method::PUT, &format!("/v1/items/{id}"), &item)?;
            self.made.push_back(id);
            self.counts[1] += 1;
        }
        while self.made.len() > args.items as usize {
            if let Some(id) = self.made.pop_front() {
                self.admin(Method::DELETE, &format!("/v1/items/{id}"), &Value::Null)?;
            }
        }
        for at in 0..5.min(self.plans.len()) {
            let plan = self.plans[(slice + at) % self.plans.len()].clone();
            let change = json!({"max_bid_micros": 20_000 + slice % 7});
            self.admin(Method::PATCH, &format!("/v1/plans/{plan}"), &change)?;
            self.counts[2] += 1;
        }
        Ok(())
    }
}

/// Runs the command.
pub(crate) fn run(args: &SoakArgs) -> anyhow::Result<()> {
    args.check()?;
    let target = Target::parse(&args.url)?;
    let mut churn = Churn::new(args)?;
    let began = Instant::now();
    let (mut warm, mut readings) = (None, Vec::<Reading>::new());
    for slice in 0.. {
        let figures = args.load(&target, slice as u64)?;
        churn.events(args, slice, figures.requests * u64::from(args.events))?;
        churn.catalogue(args, slice)?;
        let reading = Reading {
            seconds: began.elapsed().as_secs_f64(),
            requests: figures.requests,
            resident_mib: churn.resident_mib()?,
            p99_ms: figures.p99_ms,
            error_share: figures.error_share,
        };
        out::line(format!(
            "{:6.0} s: {:8.1} MiB, p99 {:.1} ms, errors {:.2} %",
            reading.seconds,
            reading.resident_mib,
            reading.p99_ms,
            reading.error_share * 100.0
        ));
        let (now, resident) = (reading.seconds, reading.resident_mib);
        readings.push(reading);
        if now < args.warmup {
            continue;
        }
        let (since, _, _) = *warm.get_or_insert((now, resident, readings.len()));
        if now - since >= args.seconds {
            break;
        }
    }
    let (_, after_warmup, from) = warm.context("the warm-up never ended")?;
    finish(args, &churn, readings, (after_warmup, from))
}

fn finish(args: &SoakArgs, churn: &Churn, readings: Vec<Reading>, (warm, from): (f64, usize)) -> anyhow::Result<()> {
    let counted = &readings[from.saturating_sub(1).min(readings.len())..];
    let third = counted.len().div_ceil(3);
    let highest = |part: &[Reading]| part.iter().map(|reading| reading.resident_mib).fold(0.0, f64::max);
    let growth = highest(&counted[counted.len() - third..]) - highest(&counted[..third]);
    let [events, items_made, plans_changed] = churn.counts;
    let report = Report {
        requests: readings.iter().map(|reading| reading.requests).sum(),
        events,
        items_made,
        plans_changed,
        after_warmup_mib: warm,
        end_mib: readings.last().map_or(0.0, |reading| reading.resident_mib),
        growth_mib: growth,
        readings,
    };
    out::line(format!(
        "{} requests, {events} events, {items_made} items made, {plans_changed} plans changed: {warm:.1} MiB after the warm-up, \
         {:.1} MiB at the end, growth {growth:.1} MiB",
        report.requests, report.end_mib
    ));
    out::json(args.json, &report)?;
    match args.growth_mib_max {
        Some(most) if growth > most => bail!("memory grew by {growth:.1} MiB, more than {most}"),
        _ => Ok(()),
    }
}
