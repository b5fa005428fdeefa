//! Where imported events go: a server, a data directory, a stream of lines.

use super::{BATCH_EVENTS, Event, Events};
use crate::app::Stores;
use crate::cli::client::{Connection, Server};
use crate::config::Config;
use crate::deadline::{SystemClock, WallClock};
use crate::store::{EventOutcome, StoreError, UserEvent};
use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Tries of one batch, a second apart, while the server is busy.
const TRIES_MAX: u32 = 30;

/// What became of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// New.
    pub accepted: usize,
    /// Known already: an import repeated.
    pub duplicate: usize,
    /// Refused, by the server or the store.
    pub rejected: usize,
    /// The first refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_rejection: Option<String>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
        self.first_rejection = self.first_rejection.take().or(other.first_rejection);
    }
}

/// The next batch; empty at the end.
fn batch(events: &mut Events) -> anyhow::Result<Vec<Event>> {
    events.by_ref().take(BATCH_EVENTS).collect()
}

/// Writes one event a line; the number written.
///
/// # Errors
/// A fault in the file, or of the output.
pub fn write_lines(events: Events, mut out: impl Write) -> anyhow::Result<usize> {
    let mut written = 0;
    for event in events {
        serde_json::to_writer(&mut out, &event?)?;
        out.write_all(b"\n")?;
        written += 1;
    }
    out.flush()?;
    Ok(written)
}

/// Puts the events into the data directory of a stopped server. `told` is called after every batch.
///
/// # Errors
/// A directory on which no server has started; a fault in the file, or of the stores: in use by a running server, for example.
pub async fn into_directory(mut events: Events, dir: &Path, mut told: impl FnMut(&Figures)) -> anyhow::Result<Figures> {
    let known = dir.join("catalog.redb");
    if !known.is_file() {
        bail!(
            "--data {}: is no data directory, there is no {}; start `longbow serve` or `longbow demo` on it once, or import with --url",
            dir.display(),
            known.display()
        );
    }
    let mut config = Config::default();
    config.data.dir = dir.to_owned();
    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let stores = Stores::open(&config, &clock).context("open the data directory; is a server running on it?")?;
    let mut figures = Figures::default();
    loop {
        let batch = batch(&mut events)?;
        if batch.is_empty() {
            break;
        }
        let now = clock.seconds();
        let stored: Vec<UserEvent> = batch.into_iter().map(|event| event.stored(now)).collect::<Result<_, _>>()?;
        figures.add(append(&stores, stored).await?);
        told(&figures);
    }
    stores.users.checkpoint().await?;
    stores.ledger.close().await?;
    Ok(figures)
}

async fn append(stores: &Stores, events: Vec<UserEvent>) -> Result<Figures, StoreError> {
    let mut figures = Figures::default();
    for outcome in stores.users.append(events).await? {
        match outcome {
            EventOutcome::Accepted => figures.accepted += 1,
            EventOutcome::Duplicate => figures.duplicate += 1,
            EventOutcome::Rejected(fault) => {
                figures.rejected += 1;
                figures.first_rejection.get_or_insert_with(|| fault.to_string());
            }
        }
    }
    Ok(figures)
}

/// Posts the events to a server's `/v1/events`, one batch after the other; waits while it is busy. `told` is called after
/// every batch.
///
/// # Errors
/// A fault in the file; a server that cannot be reached, answers otherwise than it should, or stays busy.
pub async fn post(mut events: Events, url: &str, mut told: impl FnMut(&Figures)) -> anyhow::Result<Figures> {
    let mut connection = Connection::new(Server::parse(url).context("--url")?, TRIES_MAX);
    let mut figures = Figures::default();
    loop {
        let batch = batch(&mut events)?;
        if batch.is_empty() {
            return Ok(figures);
        }
        let body = Bytes::from(serde_json::to_vec(&serde_json::json!({ "events": batch }))?);
        // A batch that arrives twice is harmless: events are known by their ids.
        let (status, text) = connection.post("/v1/events", &body).await?;
        if status != StatusCode::OK {
            bail!("{status}: {}", String::from_utf8_lossy(&text));
        }
        let answer: Answer = serde_json::from_slice(&text).context("the answer is not of /v1/events")?;
        let Answer { accepted, duplicate, rejected, errors } = answer;
        let first_rejection = errors.first().map(ToString::to_string);
        figures.add(Figures { accepted, duplicate, rejected, first_rejection });
        told(&figures);
    }
}

/// What an answer tells beside its counts.
#[derive(Deserialize)]
struct Answer {
    accepted: usize,
    duplicate: usize,
    rejected: usize,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}
