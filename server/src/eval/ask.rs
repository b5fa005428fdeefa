//! Ranking requests over a few connections, and what the server allows them.

use super::cases::Act;
use super::cases::Users;
use crate::cli::client::{Connection, Server};
use crate::ids::{Id, ItemKey};
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

/// Tries of a request while the server is busy.
const TRIES_MAX: u32 = 10;
/// Longer than any server allows: its refusal names what it does allow.
const DEADLINE_MS_MAX: u64 = 600_000;
/// Taken if a refusal names no number.
const DEADLINE_MS: u64 = 2_000;
/// Progress is told this many times.
const TOLD: usize = 20;

/// Hears of progress.
pub type Told = Arc<dyn Fn(&str) + Send + Sync>;

/// A ranking request.
#[derive(Serialize)]
struct Ask<'a> {
    history: Vec<AskEvent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<&'a Id>>,
    k: usize,
    objective: &'static str,
    time: i64,
    deadline_ms: u64,
}

#[derive(Serialize)]
struct AskEvent<'a> {
    item: &'a Id,
    action: u16,
    time: i64,
}

/// The part of an answer that is read here.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    items: Vec<AnswerItem>,
    #[serde(default)]
    skipped: Vec<Id>,
    /// Events that the model could read.
    pub(super) history_events: usize,
    degraded: String,
    /// Version of the model.
    pub(super) model: String,
}

#[derive(Debug, Deserialize)]
struct AnswerItem {
    id: Id,
}

impl Answer {
    /// Place of an item, 1 for the first.
    pub(super) fn rank(&self, item: ItemKey) -> Option<usize> {
        let at = self.items.iter().position(|other| ItemKey::parse(other.id.as_str()) == Some(item));
        at.map(|at| at + 1)
    }

    /// True if less than the whole history was used for want of time.
    pub(super) fn degraded(&self) -> bool {
        self.degraded != "full"
    }
}

/// An answer other than 200.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {}{message}", field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
struct Refusal {
    status: StatusCode,
    field: Option<String>,
    message: String,
}

impl Refusal {
    fn of(status: StatusCode, text: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Fault,
        }
        #[derive(Deserialize)]
        struct Fault {
            message: String,
            field: Option<String>,
        }
        match serde_json::from_slice(text) {
            Ok(Body { error: Fault { message, field } }) => Self { status, field, message },
            Err(_) => Self { status, field: None, message: String::from_utf8_lossy(text).chars().take(200).collect() },
        }
    }
}

/// What the server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Longest deadline, milliseconds.
    pub deadline_ms: u64,
    /// Events of the longest history asked with: the server's limit where a history of the file is longer.
    pub history_events: usize,
}

impl Limits {
    /// The limits after a refusal of a request that stood at them.
    fn after(self, refusal: &Refusal) -> anyhow::Result<Self> {
        let mut next = self;
        let numbers: Vec<u64> = numbers(&refusal.message);
        match refusal.field.as_deref() {
            Some("deadline_ms") => next.deadline_ms = numbers.last().copied().unwrap_or(DEADLINE_MS),
            Some("history") => {
                let most = numbers.first().context("the server takes no such history and names no limit")?;
                next.history_events = usize::try_from(*most)?;
            }
            Some("k") => bail!("--k is too large for the server: {refusal}"),
            _ => bail!("the server refuses to rank: {refusal}"),
        }
        if next.deadline_ms >= self.deadline_ms && next.history_events >= self.history_events {
            bail!("the server refuses what it said it allows: {refusal}");
        }
        Ok(next)
    }
}

/// The whole numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The server, asked over a few connections at the same time.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) server: Server,
    pub(super) connections: usize,
    /// Items of a list.
    pub(super) k: usize,
    pub(super) told: Told,
}

async fn ask(connection: &mut Connection, body: &Bytes) -> anyhow::Result<Result<Answer, Refusal>> {
    let (status, text) = connection.post("/v1/rank", body).await?;
    if status != StatusCode::OK {
        return Ok(Err(Refusal::of(status, &text)));
    }
    Ok(Ok(serde_json::from_slice(&text).context("the answer is not of /v1/rank")?))
}

impl Asker {
    /// Finds out what the server allows, with histories of up to `longest` events in mind.
    pub(super) async fn limits(&self, longest: usize) -> anyhow::Result<Limits> {
        let mut connection = Connection::new(self.server.clone(), TRIES_MAX);
        let mut limits = Limits { deadline_ms: DEADLINE_MS_MAX, history_events: longest };
        let item = Id::from("1");
        loop {
            // Ends: each refusal lowers one limit for good, or is an error.
            let history = (0..limits.history_events).map(|_| AskEvent { item: &item, action: 5, time: 0 }).collect();
            let body = self.body(history, None, (0, limits))?;
            match ask(&mut connection, &body).await? {
                Ok(_) => return Ok(limits),
                // Too slow for a history at the limit, but the request itself was in order.
                Err(refusal) if refusal.status == StatusCode::GATEWAY_TIMEOUT => return Ok(limits),
                Err(refusal) => limits = limits.after(&refusal)?,
            }
        }
    }

    fn body(
        &self,
        history: Vec<AskEvent<'_>>,
        candidates: Option<Vec<&Id>>,
        (time, limits): (i64, Limits),
    ) -> anyhow::Result<Bytes> {
        let deadline_ms = limits.deadline_ms;
        let ask = Ask { history, candidates, k: self.k, objective: "similarity", time, deadline_ms };
        Ok(Bytes::from(serde_json::to_vec(&ask)?))
    }

    /// Which items of the file the server cannot rank: it does not know them.
    pub(super) async fn unknown(&self, users: &Arc<Users>, limits: Limits) -> anyhow::Result<HashSet<ItemKey>> {
        let items = Arc::new(users.items());
        // As many candidates as items may be wanted: the server's limit for both is one.
        let (asker, names, each) = (self.clone(), Arc::clone(users), self.k);
        let requests = items.len().div_ceil(each);
        let body = move |at: usize| {
            let part = items.iter().skip(at * each).take(each);
            asker.body(Vec::new(), Some(part.map(|&item| names.name(item)).collect()), (0, limits))
        };
        let parts =
            self.ask_all("items looked up", requests, body, |_, answer| answer.map(|answer| answer.skipped)).await?;
        let mut unknown = HashSet::new();
        for part in parts {
            let part = part.context("the server does not say which items it knows")?;
            unknown.extend(part.iter().filter_map(|id| ItemKey::parse(id.as_str())));
        }
        Ok(unknown)
    }

    /// Ranks for each job; `take` keeps of an answer what is wanted.
    pub(super) async fn rank<T: Send + 'static>(
        &self,
        jobs: Vec<Job>,
        (users, limits): (&Arc<Users>, Limits),
        take: impl Fn(Job, anyhow::Result<Answer>) -> T + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>> {
        let (asker, users, jobs) = (self.clone(), Arc::clone(users), Arc::new(jobs));
        let (count, for_take) = (jobs.len(), Arc::clone(&jobs));
        let body = move |at: usize| {
            let job: Job = jobs[at];
            let (held_out, before) = users.split(job.user).context("a user of one event")?;
            let newest = &before[before.len() - job.events..];
            let event = |act: &Act| AskEvent { item: users.name(act.item), action: act.action, time: act.time };
            asker.body(newest.iter().map(event).collect(), None, (held_out.time, limits))
        };
        self.ask_all("rankings", count, body, move |at, answer| take(for_take[at], answer)).await
    }

    /// Sends request 0 to `count`, each built when a connection is free; results in their order.
    async fn ask_all<T: Send + 'static>(
        &self,
        what: &'static str,
        count: usize,
        body: impl Fn(usize) -> anyhow::Result<Bytes> + Send + Sync + 'static,
        take: impl Fn(usize, anyhow::Result<Answer>) -> T + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>> {
        let shared = Arc::new((body, take, AtomicUsize::new(0)));
        let every = count.div_ceil(TOLD).max(1);
        let mut workers = JoinSet::new();
        for _ in 0..self.connections.min(count) {
            let (shared, told) = (Arc::clone(&shared), Arc::clone(&self.told));
            let mut connection = Connection::new(self.server.clone(), TRIES_MAX);
            workers.spawn(async move {
                let (body, take, next) = &*shared;
                let mut taken = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return taken;
                    }
                    let answer = match body(at) {
                        Ok(body) => ask(&mut connection, &body).await.and_then(|answer| Ok(answer?)),
                        Err(fault) => Err(fault),
                    };
                    taken.push((at, take(at, answer)));
                    if (at + 1).is_multiple_of(every) || at + 1 == count {
                        told(&format!("{what}: {} of {count}", at + 1));
                    }
                }
            });
        }
        let mut all = Vec::with_capacity(count);
        while let Some(taken) = workers.join_next().await {
            all.extend(taken?);
        }
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, one)| one).collect())
    }
}

/// One ranking: a user, and how many of the newest events before the one held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Job {
    pub(super) user: usize,
    pub(super) events: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(field: &str, message: &str) -> Refusal {
        let body = serde_json::json!({"error": {"code": "invalid", "message": message, "field": field}}).to_string();
        Refusal::of(StatusCode::BAD_REQUEST, body.as_bytes())
    }

    #[test]
    fn a_refusal_teaches_the_limit_that_it_names() {
        let asked = Limits { deadline_ms: 600_000, history_events: 9_000 };
        let next = asked.after(&refusal("deadline_ms", "must be from 5 to 1500 milliseconds")).unwrap();
        assert_eq!(next, Limits { deadline_ms: 1_500, history_events: 9_000 });
        let next = next.after(&refusal("history", "may hold at most 256 events, found 9000")).unwrap();
        assert_eq!(next, Limits { deadline_ms: 1_500, history_events: 256 });
        assert_eq!(asked.after(&refusal("deadline_ms", "too long")).unwrap().deadline_ms, DEADLINE_MS);
        for (field, message, told) in [
            ("k", "must be from 1 to 2000", "--k"),
            ("history", "may hold at most 256 events", "said it allows"),
            ("time", "must be Unix seconds", "time: must be"),
        ] {
            assert!(next.after(&refusal(field, message)).unwrap_err().to_string().contains(told), "{field}");
        }
        let other = Refusal::of(StatusCode::NOT_FOUND, b"<html>");
        assert_eq!(other.to_string(), "404 Not Found: <html>");
    }

    #[test]
    fn an_answer_is_searched_by_key() {
        let text = r#"{"items":[{"id":"12","rank":1},{"id":"shoe","rank":2}],"history_events":3,"degraded":"recent","model":"m"}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.rank(ItemKey::parse("shoe").unwrap()), Some(2));
        assert_eq!((answer.rank(ItemKey(12)), answer.rank(ItemKey(13))), (Some(1), None));
        assert!(answer.degraded());
    }
}
