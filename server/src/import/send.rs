//! Where imported events go: a server, a data directory, a stream of lines.

use super::{BATCH_EVENTS, Event, Events};
use crate::app::Stores;
use crate::config::Config;
use crate::deadline::{SystemClock, WallClock};
use crate::store::{EventOutcome, StoreError, UserEvent, UserStore};
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Tries of one batch while the server is busy.
const TRIES_MAX: u32 = 30;
/// Between two of them.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(60);

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
/// A fault in the file, or of the stores: in use by a running server, for example.
pub async fn into_directory(mut events: Events, dir: &Path, mut told: impl FnMut(&Figures)) -> anyhow::Result<Figures> {
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
    let target = Target::parse(url)?;
    let mut connection = None;
    let mut figures = Figures::default();
    loop {
        let batch = batch(&mut events)?;
        if batch.is_empty() {
            return Ok(figures);
        }
        let body = Bytes::from(serde_json::to_vec(&serde_json::json!({ "events": batch }))?);
        figures.add(target.post(&mut connection, body).await?);
        told(&figures);
    }
}

/// A server, from its URL.
struct Target {
    authority: String,
    path: String,
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

impl Target {
    fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("--url `{url}`"))?;
        let authority = uri.authority().map(ToString::to_string);
        let (Some("http"), Some(host)) = (uri.scheme_str(), authority) else {
            bail!("--url `{url}`: must be http://HOST:PORT");
        };
        let authority = if uri.port().is_some() { host } else { format!("{host}:80") };
        Ok(Self { authority, path: format!("{}/v1/events", uri.path().trim_end_matches('/')) })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(&self.authority)).await;
        let stream =
            stream.context("no connection in time")?.with_context(|| format!("connect to {}", self.authority))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends one batch until it is taken. Sending it twice is harmless: events are known by their ids.
    async fn post(&self, connection: &mut Option<SendRequest<Full<Bytes>>>, body: Bytes) -> anyhow::Result<Figures> {
        let mut last = String::new();
        for attempt in 0..TRIES_MAX {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let mut sender = match connection.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.connect().await?,
            };
            let request = Request::post(&self.path)
                .header("host", &self.authority)
                .header("content-type", "application/json")
                .body(Full::new(body.clone()))?;
            let answer = async {
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                anyhow::Ok((status, body.map_err(|fault| anyhow::anyhow!(fault))?.to_bytes()))
            };
            match tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")? {
                Ok((StatusCode::OK, text)) => {
                    *connection = Some(sender);
                    let answer: Answer = serde_json::from_slice(&text).context("the answer is not of /v1/events")?;
                    let Answer { accepted, duplicate, rejected, errors } = answer;
                    let first_rejection = errors.first().map(ToString::to_string);
                    return Ok(Figures { accepted, duplicate, rejected, first_rejection });
                }
                Ok((status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE), _)) => {
                    *connection = Some(sender);
                    last = status.to_string();
                }
                Ok((status, text)) => bail!("{status}: {}", String::from_utf8_lossy(&text)),
                // An idle connection may have been closed by the server: tried again on a new one.
                Err(error) => last = format!("{error:#}"),
            }
        }
        bail!("the server did not take a batch in {TRIES_MAX} tries: {last}")
    }
}
