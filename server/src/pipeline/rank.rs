//! What a feed gets: items ranked for a user, each with every score.

use super::{Asked, Prediction, Stop, retrieve, score, understand};
use crate::app::App;
use crate::auction::slot::Terms;
use crate::catalog::{Bitmap, Catalog};
use crate::ids::{Id, ItemSlot};
use crate::meters::{Stage, StageTimes};
use crate::store::History;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// What the ranking is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Expected order value: click x conversion x value x list price.
    #[default]
    Value,
    /// Probability of a click.
    Click,
    /// Probability of a click that converts.
    Conversion,
    /// Similarity to what the user did: the retrieval score.
    Similarity,
}

/// A ranking to make.
#[derive(Clone, Debug)]
pub struct RankAsk {
    /// Common part.
    pub asked: Asked,
    /// Items to rank; `None` retrieves them.
    pub candidates: Option<Vec<Id>>,
    /// Items wanted.
    pub k: usize,
    /// Category filters; the rest of the terms is not used.
    pub terms: Terms,
    /// Items that must not come.
    pub exclude: Exclude,
    /// Order.
    pub objective: Objective,
}

/// Items left out of retrieval and ranking; `k` others come in their place.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    /// Every item of the user's history, the part that the model does not read included.
    pub history: bool,
    /// These.
    pub items: Vec<Id>,
}

/// One ranked item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// Item.
    pub id: Id,
    /// 1 for the first.
    pub rank: usize,
    /// What it was ordered by.
    pub score: f64,
    /// Predictions of the model's heads; absent if the model has none.
    #[serde(flatten)]
    pub prediction: Option<Prediction>,
    /// Cosine of the user's query and the item: the retrieval score.
    pub similarity: f32,
}

/// A ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// Items, best first.
    pub items: Vec<Ranked>,
    /// Items that were scored.
    pub candidates: usize,
    /// Candidates of the request that are not in the catalogue, filtered out or excluded; they are left out of the ranking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Id>,
    /// Events of the history that the model could read.
    pub history_events: usize,
    /// Form of the history that was used: `none` if the whole.
    pub degraded: &'static str,
    /// Version of the model.
    pub model: String,
}

/// The items that a request may get: those that its filters allow, without those it excludes.
fn allowed_for(exclude: &Exclude, catalog: &Catalog, seen: &History, allowed: Arc<Bitmap>) -> Arc<Bitmap> {
    let Exclude { history, items } = exclude;
    if !history && items.is_empty() {
        return allowed;
    }
    let mut left = Bitmap::clone(&allowed);
    for slot in items.iter().filter_map(|id| catalog.item_slot(id)) {
        left.clear(slot);
    }
    if *history {
        // By key: the window reads an item that nobody knows as the row of another.
        for slot in seen.items.iter().filter_map(|&key| catalog.slot_of(key)) {
            left.clear(slot);
        }
    }
    Arc::new(left)
}

/// Ranks.
///
/// # Errors
/// [`Stop`].
pub async fn rank(app: &App, ask: &RankAsk, times: &mut StageTimes) -> Result<Ranking, Stop> {
    let catalog = app.catalog.snapshot();
    let controls = app.controls.load();
    let allowed = app.filters.rankable(&catalog, &controls.live, &ask.terms);
    let auction = &app.config.auction;
    let k = ask.k.max(auction.candidates).min(auction.candidates_max);
    let most = ask.candidates.as_ref().map_or(k, Vec::len);
    let understood = understand(app, &ask.asked, (&catalog, most), times).await?;
    let allowed = allowed_for(&ask.exclude, &catalog, &understood.history, allowed);
    let mut skipped = Vec::new();
    let (slots, similarities): (Vec<ItemSlot>, Vec<f32>) = match &ask.candidates {
        Some(ids) => {
            let rows = understood.generation.rows.view();
            let mut slots = Vec::with_capacity(ids.len());
            for id in ids {
                match catalog.item_slot(id).filter(|&slot| allowed.get(slot) && rows.row(slot).is_some()) {
                    Some(slot) => slots.push(slot),
                    None => skipped.push(id.clone()),
                }
            }
            slots.sort_unstable();
            slots.dedup();
            let similarities = understood.generation.similarities(&understood.query, &slots);
            (slots, similarities)
        }
        None => {
            let hits = retrieve(&understood, vec![allowed], (k, ask.asked.deadline), times).await?;
            hits.into_iter().next().map(|hits| (hits.slots, hits.scores)).unwrap_or_default()
        }
    };
    let mut items = Vec::with_capacity(slots.len());
    let scores = if slots.is_empty() || understood.generation.tasks == 0 {
        None
    } else {
        Some(score(app, &understood, &slots, ask.asked.deadline, times).await?)
    };
    for (position, (&slot, &similarity)) in slots.iter().zip(&similarities).enumerate() {
        let Some(entry) = catalog.item(slot) else { continue };
        let prediction = scores.as_ref().map(|scores| Prediction::of(scores.row(position)));
        #[expect(clippy::cast_precision_loss, reason = "a score, not money")]
        let price = (entry.record.price_micros.0 as f64 / 1e6).max(0.01);
        let score = match (ask.objective, prediction) {
            (Objective::Similarity, _) | (_, None) => f64::from(similarity),
            (Objective::Value, Some(p)) => p.expected() * price,
            (Objective::Click, Some(p)) => p.click,
            (Objective::Conversion, Some(p)) => p.click * p.conversion,
        };
        items.push(Ranked { id: entry.record.id.clone(), rank: 0, score, prediction, similarity });
    }
    // Equal scores keep a fixed order, so that equal requests are answered equally.
    items.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
    let candidates = items.len();
    items.truncate(ask.k);
    items.iter_mut().zip(1..).for_each(|(item, rank)| item.rank = rank);
    times.end(Stage::Choose, Instant::now());
    let (history_events, degraded) = (understood.events, understood.degrade.as_str());
    Ok(Ranking {
        items,
        candidates,
        skipped,
        history_events,
        degraded,
        model: understood.generation.facts.version.clone(),
    })
}
