//! `longbow import`: histories from files into a server, into a data directory, or onto standard output.
//!
//! Four forms of file are read ([`Format`]); each event gets an id that depends on the file's own words only, so that running an
//! import twice adds nothing. Events go out in batches of at most [`BATCH_EVENTS`], each taken whole before the next.

mod read;
mod send;
mod taobao;

pub use crate::http::events::Event;
pub(crate) use read::STEP_S;
pub use read::{Events, read};
pub use send::{Figures, into_directory, post, write_lines};

use crate::actions;
use crate::ids::{Id, ItemKey};
use crate::store::UserEvent;
use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::path::PathBuf;

/// Events of one batch.
pub const BATCH_EVENTS: usize = 1_000;

/// Shown below `longbow import --help`.
pub const EXAMPLE: &str = "Example:\n  \
    longbow import --format movielens ml-100k.inter --url http://127.0.0.1:8080\n  \
    longbow import --format taobao train_user_features.parquet --now 1700000000 > events.ndjson\n  \
    longbow import --format ndjson events.ndjson --data ./data\n\n\
    Without --url and --data the events go to standard output, one JSON object a line. --data needs the server stopped.\n\
    ml1m and taobao files hold no times: each user gets one event a minute, the last of them at --now.";

/// Forms of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One event a line, as `POST /v1/events` takes them
    Ndjson,
    /// Tab-separated user, item, rating and timestamp under a header that names them. Rating 4 and above is a like, 3 a
    /// view, below it a skip
    Movielens,
    /// One user a line: item numbers, oldest first, separated by spaces. No times
    Ml1m,
    /// Parquet, one user a row: `129_1` the user, `150_2_180` the items, oldest first. No times
    Taobao,
}

/// Arguments of `import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is
    #[arg(long, value_enum)]
    pub format: Format,
    /// Server to post to, for example http://127.0.0.1:8080
    #[arg(long, conflicts_with = "data")]
    pub url: Option<String>,
    /// Data directory on which a server has started before, and none runs now
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Unix seconds of the last event in files without times [default: now]
    #[arg(long)]
    pub now: Option<i64>,
}

impl Event {
    /// An event of a data set.
    fn of(id: String, user: &str, item: &str, (action, time): (u16, i64)) -> Self {
        let name = actions::NAMES.get(usize::from(action)).map(|name| Value::from(*name));
        Self {
            id: Id(id.into()),
            user: user.into(),
            item: item.into(),
            action: name,
            time: Some(time),
            value_micros: None,
            plan: None,
            creative: None,
            bid: None,
        }
    }

    /// The event as the store keeps it; without a time it happened at `now`.
    ///
    /// # Errors
    /// Names the field that cannot be used.
    pub fn stored(self, now: i64) -> anyhow::Result<UserEvent> {
        let item = ItemKey::parse(self.item.as_str()).context("item: is no identifier")?;
        let action = actions::parse(self.action.as_ref()).map_err(|fault| anyhow::anyhow!("action: {fault}"))?;
        Ok(UserEvent {
            event_id: self.id,
            user: self.user,
            item,
            action,
            time: self.time.unwrap_or(now),
            value_micros: self.value_micros,
            plan: self.plan,
            creative: self.creative,
            bid: self.bid,
        })
    }
}
