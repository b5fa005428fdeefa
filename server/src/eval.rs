//! `longbow eval`: quality of rankings, measured through the path that serves them.
//!
//! Leave-one-out: each sampled user's last event is held out, the events before it go to `POST /v1/rank` as an inline history,
//! at the time of the held-out event, and the place of the held-out item in the answer is what counts. Nothing is stored
//! in the server. The floor (the items that all other users have most) is counted from the same file for the same users and over the
//! items that the server knows, so that both lists choose from one set. Items of a user's own history are left in both lists.

mod ask;
mod cases;
pub mod metrics;
mod popular;

pub use ask::{Limits, Told};
pub use metrics::Quality;

use crate::cli::client::Server;
use crate::deadline::{SystemClock, WallClock as _};
use crate::ids::{Id, ItemKey};
use crate::import::{self, Format};
use anyhow::bail;
use ask::{Answer, Asker, Job};
use cases::Users;
use clap::Args;
use metrics::{Rank, number};
use popular::Popularity;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Unknown items named in a report.
const NAMED_MAX: usize = 10;

/// Shown below `longbow eval --help`.
pub const EXAMPLE: &str = "Example:\n  longbow eval --format movielens ml-100k.inter --url http://127.0.0.1:8080 --users 500 --lengths 100,1000\n\n\
    The last event of each sampled user is held out; the events before it are sent as an inline history, and the held-out\n\
    item is looked for in the ranking. A failed answer counts as a miss. Users of one event, and users whose held-out item the\n\
    server does not know, are skipped and counted. `popularity` is the floor: the items that all other users have most.\n\n\
    A server cannot tell whether its weights were trained. Those that `longbow demo` makes are seeded and untrained: figures\n\
    measured on them say that the path works, not how good a model is.";

/// Arguments of `eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is
    #[arg(long, value_enum)]
    pub format: Format,
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
    /// Seed of the sample
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Connections used at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub connections: u8,
    /// Unix seconds of the last event in files without times [default: now]
    #[arg(long)]
    pub now: Option<i64>,
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
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Users sampled: evaluated and skipped.
    pub users: usize,
    /// Users of the file.
    pub users_in_file: usize,
    /// Users whose rankings were judged, the same for every history length.
    pub evaluated: usize,
    /// Users that were not.
    pub skipped: Skipped,
    /// Items of the file.
    pub items: Items,
    /// What the server allows.
    pub limits: Limits,
    /// Versions of the models that answered; more than one if the model was changed meanwhile.
    pub models: Vec<String>,
    /// By history length.
    pub lengths: Vec<AtLength>,
    /// The floor.
    pub popularity: Quality,
}

/// Users that were not evaluated, by reason.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Skipped {
    /// One event: nothing before the one held out.
    pub too_short: usize,
    /// The server does not know the held-out item.
    pub unknown_item: usize,
}

/// Items of the file as the server sees them.
#[derive(Clone, Debug, Serialize)]
pub struct Items {
    /// Distinct items.
    pub in_file: usize,
    /// Those that the server does not know.
    pub unknown: usize,
    /// The first of them.
    pub unknown_named: Vec<Id>,
}

/// Figures for one history length, over all evaluated users.
#[derive(Clone, Debug, Serialize)]
pub struct AtLength {
    /// Newest events sent at most.
    pub length: usize,
    /// Users with at least so many events before the held-out one.
    pub users_with_all: usize,
    /// Events that the model read, mean over answers.
    pub events_read: f64,
    /// Rankings that came.
    pub answered: usize,
    /// Of them, made from less than the history sent, for want of time.
    pub degraded: usize,
    /// Rankings that did not come: misses.
    pub failed: usize,
    /// Degraded and failed over evaluated.
    pub degraded_or_failed: f64,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// Quality.
    #[serde(flatten)]
    pub quality: Quality,
}

/// What is kept of one answer.
#[derive(Clone, Debug)]
struct Outcome {
    rank: Rank,
    degraded: bool,
    events: usize,
    model: String,
}

/// Evaluates.
///
/// # Errors
/// A fault in the file, a server that cannot be reached or refuses, or nobody to evaluate.
pub async fn evaluate(args: &EvalArgs, told: Told) -> anyhow::Result<Report> {
    let ks = args.ks();
    let now = args.now.unwrap_or_else(|| SystemClock.seconds());
    let asker = Asker {
        server: Server::parse(&args.url)?,
        connections: args.connections.into(),
        k: ks.last().copied().unwrap_or(1),
        told,
    };
    let users = Arc::new(Users::read(import::read(args.format, &args.file, now)?, now)?);
    let sampled = users.sample(args.users.get(), args.seed);
    let lengths = args.lengths();
    let longest =
        sampled.iter().filter_map(|&user| users.split(user)).map(|(_, before)| before.len()).max().unwrap_or(0);
    let limits = asker.limits(longest.min(lengths.last().copied().unwrap_or(0))).await?;
    let unknown = asker.unknown(&users, limits).await?;

    let too_short = sampled.iter().filter(|&&user| users.split(user).is_none()).count();
    let known = |user: &usize| users.split(*user).is_some_and(|(held_out, _)| !unknown.contains(&held_out.item));
    let evaluated: Vec<usize> = sampled.iter().copied().filter(known).collect();
    let skipped = Skipped { too_short, unknown_item: sampled.len() - too_short - evaluated.len() };
    if evaluated.is_empty() {
        bail!(
            "nobody to evaluate: of {} users sampled, {} have one event only, and the server does not know the held-out item of {}",
            sampled.len(),
            skipped.too_short,
            skipped.unknown_item
        );
    }
    let outcomes = outcomes(&asker, (&users, limits), &evaluated, &lengths).await?;
    let models: HashSet<&str> = outcomes.values().flatten().map(|outcome| outcome.model.as_str()).collect();
    let mut models: Vec<String> = models.into_iter().map(str::to_owned).collect();
    models.sort();
    let case = Case { users: &users, evaluated: &evaluated, limits, ks: &ks };
    Ok(Report {
        users: sampled.len(),
        users_in_file: users.len(),
        evaluated: evaluated.len(),
        skipped,
        items: items(&users, &unknown),
        limits,
        models,
        lengths: lengths.iter().map(|&length| case.at_length(length, &outcomes)).collect(),
        popularity: case.floor(&sampled, &unknown),
    })
}

fn items(users: &Users, unknown: &HashSet<ItemKey>) -> Items {
    let all = users.items();
    let named = all.iter().filter(|item| unknown.contains(item)).take(NAMED_MAX);
    let unknown_named = named.map(|&item| users.name(item).clone()).collect();
    Items { in_file: all.len(), unknown: unknown.len(), unknown_named }
}

/// Answers by what was asked.
type Outcomes = BTreeMap<Job, Result<Outcome, String>>;

/// Asks for every user at every length; a history that is short of a length is asked with once.
async fn outcomes(
    asker: &Asker,
    (users, limits): (&Arc<Users>, Limits),
    evaluated: &[usize],
    lengths: &[usize],
) -> anyhow::Result<Outcomes> {
    let mut jobs: Vec<Job> = Vec::new();
    for &length in lengths {
        jobs.extend(evaluated.iter().filter_map(|&user| job(users, limits, user, length)));
    }
    let mut seen = HashSet::new();
    jobs.retain(|job| seen.insert(*job));
    let for_take = Arc::clone(users);
    let take = move |job: Job, answer: anyhow::Result<Answer>| {
        let held_out = for_take.split(job.user).map(|(held_out, _)| held_out.item);
        let outcome = answer.map(|answer| Outcome {
            rank: held_out.and_then(|item| answer.rank(item)),
            degraded: answer.degraded(),
            events: answer.history_events,
            model: answer.model,
        });
        (job, outcome.map_err(|fault| format!("{fault:#}")))
    };
    Ok(asker.rank(jobs, (users, limits), take).await?.into_iter().collect())
}

/// What to ask for a user at a length.
fn job(users: &Users, limits: Limits, user: usize, length: usize) -> Option<Job> {
    let (_, before) = users.split(user)?;
    Some(Job { user, events: before.len().min(length).min(limits.history_events) })
}

/// What figures are made from.
struct Case<'a> {
    users: &'a Users,
    evaluated: &'a [usize],
    limits: Limits,
    ks: &'a [usize],
}

impl Case<'_> {
    fn at_length(&self, length: usize, outcomes: &Outcomes) -> AtLength {
        let job = |&user: &usize| job(self.users, self.limits, user, length);
        let all: Vec<&Result<Outcome, String>> =
            self.evaluated.iter().filter_map(job).filter_map(|job| outcomes.get(&job)).collect();
        let answers: Vec<&Outcome> = all.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        let ranks: Vec<Rank> =
            all.iter().map(|outcome| outcome.as_ref().ok().and_then(|outcome| outcome.rank)).collect();
        let degraded = answers.iter().filter(|outcome| outcome.degraded).count();
        let failed = all.len() - answers.len();
        let with_all = |&&user: &&usize| self.users.split(user).is_some_and(|(_, before)| before.len() >= length);
        AtLength {
            length,
            users_with_all: self.evaluated.iter().filter(with_all).count(),
            events_read: answers.iter().map(|outcome| number(outcome.events)).sum::<f64>()
                / number(answers.len().max(1)),
            answered: answers.len(),
            degraded,
            failed,
            degraded_or_failed: number(degraded + failed) / number(all.len().max(1)),
            first_failure: all.iter().find_map(|outcome| outcome.as_ref().err().cloned()),
            quality: Quality::of(&ranks, self.ks),
        }
    }

    /// Popularity, counted over the whole file without the events held out.
    fn floor(&self, sampled: &[usize], unknown: &HashSet<ItemKey>) -> Quality {
        let sampled: HashSet<usize> = sampled.iter().copied().collect();
        let histories = (0..self.users.len()).map(|user| match self.users.split(user) {
            Some((_, before)) if sampled.contains(&user) => before,
            _ => self.users.events(user),
        });
        let popular = Popularity::of(histories, |item| !unknown.contains(&item));
        let cases = self.evaluated.iter().filter_map(|&user| self.users.split(user));
        let ranks: Vec<Rank> = cases.map(|(held_out, before)| popular.rank(held_out.item, before)).collect();
        Quality::of(&ranks, self.ks)
    }
}
