//! Ranking requests over a few connections, and what the server allows them.

use super::metrics::number;
use crate::cli::client::{Connection, Server};
use crate::ids::{Id, ItemKey};
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

/// Tries of a request while the server is busy.
const TRIES_MAX: u32 = 10;
/// Longer than any server allows: its refusal names what it does allow.
const DEADLINE_MS_MAX: u64 = 600_000;
/// Taken if a refusal names no number.
const DEADLINE_MS: u64 = 2_000;
/// Time for a request that only asks how long a history may be.
const PROBE_MS: u64 = 1_000;
/// Candidates sent together at most.
pub(super) const TOGETHER_MAX: usize = 1_000;
/// Progress is told this many times.
const TOLD: usize = 20;

/// Hears of progress.
pub type Told = Arc<dyn Fn(&str) + Send + Sync>;

/// A ranking request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Ask<'a> {
    pub(super) history: Vec<AskEvent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) candidates: Option<Vec<&'a Id>>,
    pub(super) exclude_history: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) exclude: Vec<&'a Id>,
    pub(super) k: usize,
    pub(super) objective: &'a str,
    pub(super) time: i64,
    pub(super) deadline_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct AskEvent<'a> {
    pub(super) item: &'a Id,
    pub(super) action: u16,
    pub(super) time: i64,
}

impl Ask<'_> {
    fn body(&self) -> anyhow::Result<Bytes> {
        Ok(Bytes::from(serde_json::to_vec(self)?))
    }
}

/// The part of an answer that is read here.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) items: Vec<AnswerItem>,
    #[serde(default)]
    pub(super) skipped: Vec<Id>,
    /// Events that the model could read.
    pub(super) history_events: usize,
    degraded: String,
    /// Version of the model.
    pub(super) model: String,
}

/// One item of an answer. A model without heads predicts nothing.
#[derive(Debug, Deserialize)]
pub(super) struct AnswerItem {
    id: Id,
    pub(super) click: Option<f64>,
    pub(super) conversion: Option<f64>,
    pub(super) value: Option<f64>,
}

impl AnswerItem {
    /// Which item.
    pub(super) fn key(&self) -> Option<ItemKey> {
        ItemKey::parse(self.id.as_str())
    }
}

impl Answer {
    /// Place of an item, 1 for the first.
    pub(super) fn rank(&self, item: ItemKey) -> Option<usize> {
        let at = self.items.iter().position(|other| other.key() == Some(item));
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
pub(super) struct Refusal {
    status: StatusCode,
    pub(super) field: Option<String>,
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
    /// Candidates sent together: the server's limit, which is also that of a list's length, or [`TOGETHER_MAX`].
    pub candidates: usize,
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
            Some("k") => next.candidates = usize::try_from(numbers.last().copied().unwrap_or(0))?.max(1),
            _ => bail!("the server refuses to rank: {refusal}"),
        }
        let lower = next.deadline_ms < self.deadline_ms
            || next.history_events < self.history_events
            || next.candidates < self.candidates;
        if !lower {
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
    pub(super) told: Told,
}

async fn post(connection: &mut Connection, body: &Bytes) -> anyhow::Result<Result<Answer, Refusal>> {
    let (status, text) = connection.post("/v1/rank", body).await?;
    if status != StatusCode::OK {
        return Ok(Err(Refusal::of(status, &text)));
    }
    Ok(Ok(serde_json::from_slice(&text).context("the answer is not of /v1/rank")?))
}

impl Asker {
    /// Asks once.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> anyhow::Result<Result<Answer, Refusal>> {
        post(&mut Connection::new(self.server.clone(), TRIES_MAX), &ask.body()?).await
    }

    /// Finds out what the server allows, with histories of up to `longest` events and lists of `k` items in mind.
    ///
    /// # Errors
    /// No server, one that refuses for another reason, or `k` above its limit.
    pub(super) async fn limits(&self, longest: usize, k: usize) -> anyhow::Result<Limits> {
        let candidates = TOGETHER_MAX.max(k);
        let mut limits = Limits { deadline_ms: DEADLINE_MS_MAX, history_events: longest, candidates };
        let item = Id::from("1");
        // First what a request may ask for, then how long its history may be: neither costs the server much.
        for with_history in [false, true] {
            loop {
                let (events, deadline_ms) = match with_history {
                    true => (limits.history_events, limits.deadline_ms.min(PROBE_MS)),
                    false => (0, limits.deadline_ms),
                };
                let ask = Ask {
                    history: (0..events).map(|_| AskEvent { item: &item, action: 5, time: 0 }).collect(),
                    candidates: Some(vec![&item]),
                    k: limits.candidates,
                    objective: "similarity",
                    deadline_ms,
                    ..Ask::default()
                };
                match self.ask(&ask).await? {
                    Ok(_) => break,
                    // Too slow for a history at the limit, but the request itself was in order.
                    Err(refusal) if refusal.status == StatusCode::GATEWAY_TIMEOUT => break,
                    // Ends: each refusal lowers one limit for good, or is an error.
                    Err(refusal) => limits = limits.after(&refusal)?,
                }
                if limits.candidates < k {
                    bail!("--k is too large for the server: it makes lists of at most {} items", limits.candidates);
                }
            }
        }
        Ok(limits)
    }

    /// Sends request 0 to `count`, each built when a connection is free; what `take` keeps of the answers, in their order.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        what: &'static str,
        count: usize,
        source: Arc<impl Source + 'static>,
        take: impl Fn(usize, anyhow::Result<Answer>) -> T + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>> {
        let shared = Arc::new((source, take, AtomicUsize::new(0)));
        let every = count.div_ceil(TOLD).max(1);
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.connections.min(count) {
            let (shared, told) = (Arc::clone(&shared), Arc::clone(&self.told));
            let mut connection = Connection::new(self.server.clone(), TRIES_MAX);
            workers.spawn(async move {
                let (source, take, next) = &*shared;
                let mut taken = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return taken;
                    }
                    let answer = match source.ask(at).and_then(|ask| ask.body()) {
                        Ok(body) => post(&mut connection, &body).await.and_then(|answer| Ok(answer?)),
                        Err(fault) => Err(fault),
                    };
                    taken.push((at, take(at, answer)));
                    let done = at + 1;
                    if done.is_multiple_of(every) || done == count {
                        let left = began.elapsed().as_secs_f64() / number(done) * number(count - done);
                        told(&format!("{what}: {done} of {count}{}", time_left(left)));
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

/// Requests by number.
pub(super) trait Source: Send + Sync {
    /// Request `at`.
    fn ask(&self, at: usize) -> anyhow::Result<Ask<'_>>;
}

fn time_left(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => String::new(),
        s if s < 120.0 => format!(", {s:.0} s left"),
        s => format!(", {:.0} min left", s / 60.0),
    }
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
        let asked = Limits { deadline_ms: 600_000, history_events: 9_000, candidates: 1_000 };
        let next = asked.after(&refusal("deadline_ms", "must be from 5 to 1500 milliseconds")).unwrap();
        assert_eq!(next, Limits { deadline_ms: 1_500, ..asked });
        let next = next.after(&refusal("history", "may hold at most 256 events, found 9000")).unwrap();
        assert_eq!(next, Limits { deadline_ms: 1_500, history_events: 256, ..asked });
        let next = next.after(&refusal("k", "must be from 1 to 300")).unwrap();
        assert_eq!(next.candidates, 300);
        assert_eq!(asked.after(&refusal("deadline_ms", "too long")).unwrap().deadline_ms, DEADLINE_MS);
        for (field, message, told) in [
            ("k", "must be from 1 to 300", "said it allows"),
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
