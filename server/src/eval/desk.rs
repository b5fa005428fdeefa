//! What is asked of the server, and what is kept of its answers.

use super::ask::{Answer, Ask, AskEvent, Asker, Limits, Source};
use super::cases::{Act, Cases, Person, Shown};
use super::metrics::Rank;
use crate::http::rank::EXCLUDE_MAX;
use crate::ids::{Id, ItemKey};
use anyhow::{Context, bail};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// One ranking to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Job {
    /// Number of the user in the sample.
    pub(super) user: usize,
    pub(super) what: What,
    /// Newest events sent.
    pub(super) events: usize,
}

/// Which ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    /// Of the catalogue, at the time of the next event.
    Next,
    /// Of that part of the catalogue to which the next item belongs: cold items, or warm ones.
    Within,
    /// Of the impressions of one time, by the number of the query.
    Shown(usize),
}

/// What is kept of an answer.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) degraded: bool,
    pub(super) events: usize,
    pub(super) model: String,
    pub(super) found: Found,
}

/// By what was asked.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Place of the next item.
    Place(Rank),
    /// Predictions for each impression of the query; `None` if the server does not know the item.
    Predicted(Vec<Option<Predicted>>),
}

/// Predictions for one impression.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predicted {
    pub(super) click: f64,
    pub(super) conversion: f64,
    pub(super) value: f64,
}

/// Answers by what was asked.
pub(super) type Outcomes = BTreeMap<Job, Result<Outcome, String>>;

/// Items that the model was not trained with: known by their content alone.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    /// Items above this number.
    pub(super) above: i64,
    /// Those that the server knows.
    pub(super) items: Vec<ItemKey>,
    /// They can be ranked without the others.
    pub(super) cold_alone: bool,
    /// The others can be ranked without them.
    pub(super) warm_alone: bool,
}

/// Everything that requests are made from.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) cases: Cases,
    pub(super) limits: Limits,
    /// Items of a list.
    pub(super) k: usize,
    pub(super) objective: String,
    pub(super) exclude_history: bool,
    /// Items of the file that the server does not know.
    pub(super) unknown: HashSet<ItemKey>,
    pub(super) cold: Option<Cold>,
}

/// Requests that list the items of a file, so that the server says which it does not know.
struct Lookup {
    names: Vec<Id>,
    limits: Limits,
}

impl Source for Lookup {
    fn ask(&self, at: usize) -> anyhow::Result<Ask<'_>> {
        let Limits { candidates: each, deadline_ms, .. } = self.limits;
        let candidates = Some(self.names.iter().skip(at * each).take(each).collect());
        Ok(Ask { candidates, k: 1, objective: "similarity", deadline_ms, ..Ask::default() })
    }
}

/// Which items of the file the server cannot rank: it does not know them.
pub(super) async fn unknown(asker: &Asker, cases: &Cases, limits: Limits) -> anyhow::Result<HashSet<ItemKey>> {
    let names: Vec<Id> = cases.items().into_iter().map(|item| cases.name(item).clone()).collect();
    let requests = names.len().div_ceil(limits.candidates);
    let source = Arc::new(Lookup { names, limits });
    let skipped = |_, answer: anyhow::Result<Answer>| answer.map(|answer| answer.skipped);
    let mut unknown = HashSet::new();
    for part in asker.ask_all("items looked up", requests, source, skipped).await? {
        let part = part.context("the server does not say which items it knows")?;
        unknown.extend(part.iter().filter_map(|id| ItemKey::parse(id.as_str())));
    }
    Ok(unknown)
}

impl Desk {
    /// Sets cold items apart: those above a number.
    pub(super) async fn set_apart(&mut self, above: i64, asker: &Asker) -> anyhow::Result<()> {
        let mut items = self.cases.items();
        items.retain(|item| item.0 > above && !self.unknown.contains(item));
        let candidates = Some(items.iter().map(|&item| self.cases.name(item)).collect());
        let deadline_ms = self.limits.deadline_ms;
        let probe = Ask { candidates, k: 1, objective: "similarity", deadline_ms, ..Ask::default() };
        let cold_alone = match items.is_empty() {
            true => false,
            // A list too long is refused for its length; anything else is no answer to the question.
            false => asker.ask(&probe).await?.map_or_else(|no| no.field.as_deref() != Some("candidates"), |_| true),
        };
        let warm_alone = items.len() <= EXCLUDE_MAX;
        self.cold = Some(Cold { above, items, cold_alone, warm_alone });
        Ok(())
    }

    /// Whether the item is one of those set apart.
    pub(super) fn is_cold(&self, item: ItemKey) -> bool {
        self.cold.as_ref().is_some_and(|cold| item.0 > cold.above)
    }

    /// Users with a history and a next item that the server knows.
    pub(super) fn with_next(&self) -> Vec<usize> {
        let judged = |person: &Person| {
            !person.history.is_empty() && person.next.is_some_and(|next| !self.unknown.contains(&next.item))
        };
        (0..self.cases.people.len()).filter(|&user| judged(&self.cases.people[user])).collect()
    }

    /// Users with impressions of items that the server knows.
    pub(super) fn with_impressions(&self) -> Vec<usize> {
        let known = |shown: &Shown| !self.unknown.contains(&shown.item);
        let judged = |person: &Person| person.queries.iter().flat_map(|query| &query.shown).any(known);
        (0..self.cases.people.len()).filter(|&user| judged(&self.cases.people[user])).collect()
    }

    /// Whether the next item of a user can be looked for among its like alone.
    fn alone(&self, user: usize) -> bool {
        let next = self.cases.people[user].next;
        next.zip(self.cold.as_ref()).is_some_and(|(next, cold)| match self.is_cold(next.item) {
            true => cold.cold_alone,
            false => cold.warm_alone && !cold.items.is_empty(),
        })
    }

    /// The job for a ranking at a length; one for all lengths that a history is short of.
    pub(super) fn job(&self, user: usize, what: What, length: usize) -> Job {
        let events = self.before(user, what).len().min(length).min(self.limits.history_events);
        Job { user, what, events }
    }

    /// Every job, user after user, so that the time of those done foretells the time of those to come.
    pub(super) fn jobs(&self, lengths: &[usize]) -> Vec<Job> {
        let (next, shown) = (self.with_next(), self.with_impressions());
        let mut jobs = Vec::new();
        for user in 0..self.cases.people.len() {
            let mut whats = Vec::new();
            if next.binary_search(&user).is_ok() {
                whats.push(What::Next);
                if self.alone(user) {
                    whats.push(What::Within);
                }
            }
            if shown.binary_search(&user).is_ok() {
                whats.extend((0..self.cases.people[user].queries.len()).map(What::Shown));
            }
            for what in whats {
                jobs.extend(lengths.iter().map(|&length| self.job(user, what, length)));
            }
        }
        let mut seen = HashSet::new();
        jobs.retain(|job| seen.insert(*job));
        jobs
    }

    /// The history of a ranking, uncut.
    pub(super) fn before(&self, user: usize, what: What) -> &[Act] {
        let person = &self.cases.people[user];
        match what {
            What::Next | What::Within => &person.history,
            What::Shown(query) => person.before(person.queries[query].time),
        }
    }

    fn request(&self, job: Job) -> anyhow::Result<Ask<'_>> {
        let person = &self.cases.people[job.user];
        let before = self.before(job.user, job.what);
        let (older, newest) = before.split_at(before.len() - job.events);
        let name = |item: ItemKey| self.cases.name(item);
        let history = newest.iter().map(|act| AskEvent { item: name(act.item), action: act.action, time: act.time });
        let mut ask = Ask {
            history: history.collect(),
            k: self.k,
            objective: &self.objective,
            deadline_ms: self.limits.deadline_ms,
            ..Ask::default()
        };
        if let What::Shown(query) = job.what {
            let query = &person.queries[query];
            ask.candidates = Some(query.shown.iter().map(|shown| name(shown.item)).collect());
            (ask.time, ask.k) = (query.time, query.shown.len());
            return Ok(ask);
        }
        let next = person.next.context("a user without a next event")?;
        ask.time = next.time;
        if let (What::Within, Some(cold)) = (job.what, &self.cold) {
            let items = cold.items.iter().map(|&item| name(item)).collect();
            match self.is_cold(next.item) {
                true => ask.candidates = Some(items),
                false => ask.exclude = items,
            }
        }
        if self.exclude_history {
            ask.exclude_history = true;
            // At every length the same items are left out, so that lengths compare.
            let mut seen = HashSet::new();
            let items = older.iter().map(|act| act.item).filter(|&item| seen.insert(item));
            ask.exclude.extend(items.map(name));
            ask.exclude.truncate(EXCLUDE_MAX);
        }
        Ok(ask)
    }

    fn keep(&self, job: Job, answer: Answer) -> anyhow::Result<Outcome> {
        let person = &self.cases.people[job.user];
        let found = match job.what {
            What::Next | What::Within => Found::Place(person.next.and_then(|next| answer.rank(next.item))),
            What::Shown(query) => {
                let mut of_item = BTreeMap::new();
                for item in &answer.items {
                    let (Some(click), Some(conversion), Some(value)) = (item.click, item.conversion, item.value) else {
                        bail!("the answer has no predictions: the served model has no heads");
                    };
                    of_item.extend(item.key().map(|key| (key, Predicted { click, conversion, value })));
                }
                let shown = person.queries[query].shown.iter();
                Found::Predicted(shown.map(|shown| of_item.get(&shown.item).copied()).collect())
            }
        };
        Ok(Outcome { degraded: answer.degraded(), events: answer.history_events, model: answer.model, found })
    }
}

/// Jobs as requests.
struct Jobs {
    desk: Arc<Desk>,
    jobs: Vec<Job>,
}

impl Source for Jobs {
    fn ask(&self, at: usize) -> anyhow::Result<Ask<'_>> {
        self.desk.request(self.jobs[at])
    }
}

/// Asks for everything.
pub(super) async fn outcomes(asker: &Asker, desk: &Arc<Desk>, jobs: Vec<Job>) -> anyhow::Result<Outcomes> {
    let count = jobs.len();
    let source = Arc::new(Jobs { desk: Arc::clone(desk), jobs });
    let jobs = Arc::clone(&source);
    let take = move |at: usize, answer: anyhow::Result<Answer>| {
        let job = jobs.jobs[at];
        let outcome = answer.and_then(|answer| jobs.desk.keep(job, answer));
        (job, outcome.map_err(|fault| format!("{fault:#}")))
    };
    Ok(asker.ask_all("rankings", count, source, take).await?.into_iter().collect())
}
