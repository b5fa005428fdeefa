//! `longbow eval`: quality of rankings and predictions, measured through the path that serves them.
//!
//! Two questions are put to `POST /v1/rank`, each with the newest events of a user as an inline history, so that nothing is stored in
//! the server and the length of the history is ours to choose:
//!
//! - **What comes next?** At the time of the user's next event, which was held out, the server is asked for its list. Where the item of
//!   that event stands is what counts: recall@k, NDCG@k, MRR. The floor (the items that all other users have most) is counted from the
//!   same file for the same users and over the items that the server knows, so that both lists choose from one set.
//! - **What will be clicked and bought?** The impressions of one time are sent as candidates, and the predictions that come back are
//!   held against what happened: AUC, normalised entropy, calibration, order values.
//!
//! Every figure has a standard error (a bootstrap over users).

mod ask;
pub mod bootstrap;
mod cases;
mod desk;
mod judge;
pub mod labels;
pub mod metrics;
pub mod plot;
mod popular;
pub mod report;

pub use ask::{Limits, Told};
pub use bootstrap::Figure;
pub use metrics::Quality;
pub use report::Report;

use crate::cli::client::Server;
use crate::dataset;
use crate::deadline::{SystemClock, WallClock as _};
use crate::import::{self, Format};
use anyhow::{Context, bail};
use ask::Asker;
use cases::{Cases, Sample};
use clap::{Args, ValueEnum};
use desk::Desk;
use judge::Judge;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Shown below `longbow eval --help`.
pub const EXAMPLE: &str = "Example:\n  \
    longbow eval --format movielens ml-100k.inter --url http://127.0.0.1:8080 --users 500 --lengths 100,1000\n  \
    longbow eval --format ml1m val/input.txt --answers val/output.txt --exclude-history --k 10\n  \
    longbow eval --format dataset world.safetensors --users 400 --plot quality.svg\n\n\
    The next event of each sampled user (in files of events the last one) is held out; the events before it are sent as an inline\n\
    history, and its item is looked for in the ranking. A failed answer counts as a miss. Users of one event, and users whose\n\
    next item the server does not know, are skipped and counted. `popularity` is the floor: the items that all other users have most.\n\
    Labelled impressions of a data set are sent as candidates, those of one time together, with the events strictly before that time.\n\
    Figures come with one standard error (bootstrap over users).\n\n\
    Long histories take their time, as what comes along is not cached: start the server with --set auction.tmax_max_ms=60000\n\
    --set http.request_timeout_ms=60000, and lower --connections if the table shows degraded or failed answers.\n\n\
    The weights that come with the server were trained on the demo world (docs/training.md): on any other data their figures say\n\
    that the path works, not how good a model can be.";

/// Forms of files to judge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// One event a line, as `POST /v1/events` takes them
    Ndjson,
    /// Tab-separated user, item, rating and timestamp under a header that names them
    Movielens,
    /// One user a line: item numbers, oldest first. With --answers the whole line is the history
    Ml1m,
    /// Parquet, one user a row
    Taobao,
    /// A data set with held-out next events and labelled impressions, as `longbow dataset` makes it
    Dataset,
}

impl Source {
    /// The format of a file of events.
    fn events(self) -> Option<Format> {
        match self {
            Self::Ndjson => Some(Format::Ndjson),
            Self::Movielens => Some(Format::Movielens),
            Self::Ml1m => Some(Format::Ml1m),
            Self::Taobao => Some(Format::Taobao),
            Self::Dataset => None,
        }
    }
}

/// Arguments of `eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is
    #[arg(long, value_enum)]
    pub format: Source,
    /// For ml1m: the item that came next for the user of each line
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Server to ask
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Users sampled
    #[arg(long, default_value = "500")]
    pub users: NonZeroUsize,
    /// Length of the lists judged; may be repeated [default: 10 and 100]
    #[arg(long)]
    pub k: Vec<NonZeroUsize>,
    /// Newest events sent of each history, one run for each number
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    pub lengths: Vec<NonZeroUsize>,
    /// What lists are ordered by
    #[arg(long, default_value = "similarity", value_parser = ["similarity", "value", "click", "conversion"])]
    pub objective: String,
    /// Leave items of the user's history out of the lists
    #[arg(long)]
    pub exclude_history: bool,
    /// Items above this number are new to the model: judged apart. A data set may say it itself (`warm_items`)
    #[arg(long, value_name = "N")]
    pub warm_items: Option<i64>,
    /// Times at which each user's impressions are judged, the newest
    #[arg(long, default_value = "20", value_name = "N")]
    pub times: NonZeroUsize,
    /// Draws of users for the standard errors
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub draws: u16,
    /// Seed of the sample and of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Connections used at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub connections: u8,
    /// Unix seconds of the last event in files without times [default: now]
    #[arg(long)]
    pub now: Option<i64>,
    /// Draw the curves over the history length
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl EvalArgs {
    /// List lengths, ascending.
    fn ks(&self) -> Vec<usize> {
        let mut ks: Vec<usize> = self.k.iter().map(|k| k.get()).collect();
        if ks.is_empty() {
            ks = vec![10, 100];
        }
        ks.sort_unstable();
        ks.dedup();
        ks
    }

    /// History lengths, ascending.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths: Vec<usize> = self.lengths.iter().map(|length| length.get()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    fn cases(&self, now: i64) -> anyhow::Result<Cases> {
        let sample = Sample { users: self.users.get(), seed: self.seed };
        if self.answers.is_some() && self.format != Source::Ml1m {
            bail!("--answers goes with --format ml1m");
        }
        let Some(format) = self.format.events() else {
            let set = dataset::read(&self.file).with_context(|| self.file.display().to_string())?;
            return Ok(Cases::of_dataset(&set, sample, self.times.get()));
        };
        let events = import::read(format, &self.file, now)?;
        match &self.answers {
            Some(answers) => Cases::answered(events, answers, sample, now),
            None => Cases::leave_one_out(events, sample, now),
        }
    }
}

/// Evaluates.
///
/// # Errors
/// A fault in the file, a server that cannot be reached or refuses, or nobody to evaluate.
pub async fn evaluate(args: &EvalArgs, told: Told) -> anyhow::Result<Report> {
    let (ks, lengths) = (args.ks(), args.lengths());
    let k = ks.last().copied().unwrap_or(1);
    let mut cases = args.cases(args.now.unwrap_or_else(|| SystemClock.seconds()))?;
    let asker =
        Asker { server: Server::parse(&args.url).context("--url")?, connections: args.connections.into(), told };
    let longest = cases.people.iter().map(|person| person.history.len()).max().unwrap_or(0);
    let limits = asker.limits(longest.min(lengths.last().copied().unwrap_or(0)), k).await?;
    cases.split_queries(limits.candidates);
    let unknown = desk::unknown(&asker, &cases, limits).await?;
    let warm_items = args.warm_items.or(cases.warm_items);
    let (objective, exclude_history) = (args.objective.clone(), args.exclude_history);
    let mut desk = Desk { cases, limits, k, objective, exclude_history, unknown, cold: None };
    if let Some(above) = warm_items {
        desk.set_apart(above, &asker).await?;
    }
    let desk = Arc::new(desk);
    let jobs = desk.jobs(&lengths);
    if jobs.is_empty() {
        let people = &desk.cases.people;
        let too_short = people.iter().filter(|person| person.history.is_empty()).count();
        bail!(
            "nobody to evaluate: of {} users sampled, {too_short} have nothing before their last event, and the server does not know what came next for, or was shown to, the others",
            people.len()
        );
    }
    let outcomes = desk::outcomes(&asker, &desk, jobs).await?;
    let (draws, seed) = (args.draws.into(), args.seed);
    let report = Judge { desk: &desk, outcomes: &outcomes, ks: &ks, lengths: &lengths, draws, seed }.report();
    Ok(report)
}
