//! Files of labelled behaviour: users with histories, the event that came next, and impressions with what became of them.
//!
//! One safetensors file. `longbow dataset` writes it, training reads it, `longbow eval` judges by it. Lists of different
//! lengths lie one after another with `offsets` between them, as in a compressed sparse row matrix:
//!
//! | tensor | type | shape | what |
//! | --- | --- | --- | --- |
//! | `items.ids` | i64 | I | ids, integers |
//! | `items.vectors` | f32 | I, C | content vectors |
//! | `items.prices` | i64 | I | list prices, micros |
//! | `users.ids` | i64 | U | ids, integers |
//! | `events.offsets` | i64 | U + 1 | where each user's events begin; the last is E |
//! | `events.items`, `.actions`, `.times` | i64, i32, i64 | E | item ids, [actions](crate::actions), Unix seconds ascending within a user |
//! | `next.items`, `.times` | i64, i64 | U | optional: each user's next event, held out |
//! | `impressions.offsets` | i64 | U + 1 | optional: where each user's impressions begin; the last is M |
//! | `impressions.items`, `.times` | i64, i64 | M | shown item, and when it was asked for: earlier events are the history |
//! | `impressions.click`, `.conversion` | u8, u8 | M | 0 or 1; a conversion comes after a click only |
//! | `impressions.value` | f32 | M | order value over list price; 0 without conversion |
//! | `impressions.p_click`, `.p_conversion` | f32, f32 | M | optional: the true probabilities, of a conversion given a click |
//!
//! The metadata key [`KEY`] holds [`About`] as JSON.

mod check;
mod file;

pub use file::{read, write};

use crate::actions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Metadata key of [`About`].
pub const KEY: &str = "longbow.dataset";
/// The format that this code reads and writes.
pub const FORMAT: u32 = 1;
/// Most items.
pub const ITEMS_MAX: usize = 20_000_000;
/// Most users.
pub const USERS_MAX: usize = 20_000_000;
/// Most events of all users together.
pub const EVENTS_MAX: usize = 400_000_000;
/// Most impressions of all users together.
pub const IMPRESSIONS_MAX: usize = 100_000_000;
/// Longest content vector.
pub const CONTENT_MAX: usize = 4_096;

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`].
    pub format: u32,
    /// Seed of a generated file.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The command that made it.
    #[serde(default)]
    pub made_by: String,
    /// Best achievable figures where the truth is known, such as `auc_click`.
    #[serde(default)]
    pub best: BTreeMap<String, f64>,
    /// Whatever else the maker says.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// A file in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Where it comes from.
    pub about: About,
    /// What can be shown.
    pub items: Items,
    /// Ids of users.
    pub users: Vec<i64>,
    /// What they did.
    pub events: Events,
    /// What each does next.
    pub next: Option<Next>,
    /// What they were shown.
    pub impressions: Option<Impressions>,
}

/// Items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    /// Ids, each once.
    pub ids: Vec<i64>,
    /// Entries of a content vector.
    pub dimension: usize,
    /// Content vectors one after another.
    pub vectors: Vec<f32>,
    /// List prices, micros.
    pub prices: Vec<i64>,
}

/// Events, user after user.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// Where each user's events begin, and where the last user's end.
    pub offsets: Vec<i64>,
    /// Item ids.
    pub items: Vec<i64>,
    /// [Actions](crate::actions), from 1.
    pub actions: Vec<i32>,
    /// Unix seconds, ascending within a user.
    pub times: Vec<i64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { offsets: vec![0], items: Vec::new(), actions: Vec::new(), times: Vec::new() }
    }
}

impl Events {
    /// Adds an event of the user at hand.
    pub fn push(&mut self, item: i64, action: u16, time: i64) {
        self.items.push(item);
        self.actions.push(action.into());
        self.times.push(time);
    }

    /// Ends the user at hand; the next event is another's.
    pub fn end_user(&mut self) {
        self.offsets.push(i64::try_from(self.items.len()).unwrap_or(i64::MAX));
    }

    /// Places of a user's events.
    #[must_use]
    pub fn of(&self, user: usize) -> std::ops::Range<usize> {
        range(&self.offsets, user)
    }
}

/// The held-out next event of each user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// Item ids.
    pub items: Vec<i64>,
    /// Unix seconds, not before the user's last event.
    pub times: Vec<i64>,
}

/// Impressions, user after user.
#[derive(Clone, Debug, PartialEq)]
pub struct Impressions {
    /// Where each user's impressions begin, and where the last user's end.
    pub offsets: Vec<i64>,
    /// Item ids.
    pub items: Vec<i64>,
    /// Unix seconds of the request: the user's events strictly before are the history.
    pub times: Vec<i64>,
    /// 1 if it was clicked.
    pub click: Vec<u8>,
    /// 1 if the click led to an order.
    pub conversion: Vec<u8>,
    /// Order value over list price; 0 without conversion.
    pub value: Vec<f32>,
    /// The probabilities that the labels were drawn from.
    pub truth: Option<Truth>,
}

impl Default for Impressions {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            items: Vec::new(),
            times: Vec::new(),
            click: Vec::new(),
            conversion: Vec::new(),
            value: Vec::new(),
            truth: None,
        }
    }
}

/// One impression.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impression {
    /// Item id.
    pub item: i64,
    /// Unix seconds of the request.
    pub time: i64,
    /// Clicked.
    pub click: bool,
    /// Converted; only where clicked.
    pub conversion: bool,
    /// Order value over list price; 0 without conversion.
    pub value: f32,
    /// True probabilities of a click, and of a conversion given a click.
    pub truth: Option<(f32, f32)>,
}

impl Impressions {
    /// Adds an impression of the user at hand. All of a file carry the truth, or none: one that differs from those before it
    /// makes a list of another length, which [`write`] refuses.
    pub fn push(&mut self, one: Impression) {
        self.items.push(one.item);
        self.times.push(one.time);
        self.click.push(one.click.into());
        self.conversion.push(one.conversion.into());
        self.value.push(one.value);
        if let Some((click, conversion)) = one.truth {
            let truth = self.truth.get_or_insert_default();
            truth.click.push(click);
            truth.conversion.push(conversion);
        }
    }

    /// Ends the user at hand; the next impression is another's.
    pub fn end_user(&mut self) {
        self.offsets.push(i64::try_from(self.items.len()).unwrap_or(i64::MAX));
    }

    /// Places of a user's impressions.
    #[must_use]
    pub fn of(&self, user: usize) -> std::ops::Range<usize> {
        range(&self.offsets, user)
    }

    /// The impression at a place below the number of impressions.
    #[must_use]
    pub fn at(&self, place: usize) -> Impression {
        Impression {
            item: self.items[place],
            time: self.times[place],
            click: self.click[place] != 0,
            conversion: self.conversion[place] != 0,
            value: self.value[place],
            truth: self.truth.as_ref().map(|truth| (truth.click[place], truth.conversion[place])),
        }
    }
}

/// The probabilities that labels were drawn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Of a click.
    pub click: Vec<f32>,
    /// Of a conversion after a click.
    pub conversion: Vec<f32>,
}

fn range(offsets: &[i64], user: usize) -> std::ops::Range<usize> {
    let at = |index: usize| offsets.get(index).and_then(|&offset| usize::try_from(offset).ok()).unwrap_or(0);
    at(user)..at(user + 1)
}

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The disk.
    #[error("{path}: {fault}")]
    Io {
        /// File.
        path: String,
        /// What the system said.
        fault: std::io::Error,
    },
    /// It is no such file.
    #[error("{0}: make the file with `longbow dataset`")]
    Header(String),
    /// A tensor is missing, or of another type or shape.
    #[error("tensor {name}: {fault}")]
    Tensor {
        /// Its name.
        name: &'static str,
        /// What is wrong and what would be right.
        fault: String,
    },
}

/// Number of actions that events may name.
fn actions_max() -> i32 {
    i32::try_from(actions::NAMES.len()).unwrap_or(i32::MAX) - 1
}
