//! What was measured.

use super::ask::Limits;
use super::bootstrap::Figure;
use super::labels::Bin;
use super::metrics::Quality;
use crate::ids::Id;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Users sampled.
    pub users: usize,
    /// Users of the file.
    pub users_in_file: usize,
    /// Items of the file.
    pub items: Items,
    /// What the server allows.
    pub limits: Limits,
    /// Versions of the models that answered; more than one if the model was changed meanwhile.
    pub models: Vec<String>,
    /// Lists of next items, if the file says what came next.
    pub next: Option<Nexts>,
    /// Predictions for impressions, if the file has some.
    pub impressions: Option<Impressions>,
}

impl Report {
    /// Whether any ranking came at all.
    #[must_use]
    pub fn answered(&self) -> bool {
        let next = self.next.iter().flat_map(|next| &next.lengths).map(|at| &at.answers);
        let shown = self.impressions.iter().flat_map(|shown| &shown.lengths).map(|at| &at.answers);
        next.chain(shown).any(|answers| answers.answered > 0)
    }
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

/// Answers for one history length.
#[derive(Clone, Debug, Serialize)]
pub struct Answers {
    /// Rankings asked for.
    pub asked: usize,
    /// Rankings that came.
    pub answered: usize,
    /// Of them, made from less than the history sent, for want of time.
    pub degraded: usize,
    /// Rankings that did not come.
    pub failed: usize,
    /// Degraded and failed over asked.
    pub degraded_or_failed: f64,
    /// Events that the model read, mean over answers.
    pub events_read: f64,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

/// The next item, looked for in lists.
#[derive(Clone, Debug, Serialize)]
pub struct Nexts {
    /// Users whose lists were judged, the same for every history length.
    pub evaluated: usize,
    /// Users that were not.
    pub skipped: Skipped,
    /// What lists are ordered by.
    pub objective: String,
    /// Whether items of the user's history are left out of the lists.
    pub exclude_history: bool,
    /// Evaluated users who have the next item in their history: misses if it is left out.
    pub seen_before: usize,
    /// Items above this number are new to the model, if it was said.
    pub warm_items: Option<i64>,
    /// By history length.
    pub lengths: Vec<NextAt>,
    /// The floor: the items that all other users have most.
    pub popularity: Quality,
}

/// Users that were not evaluated, by reason.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Skipped {
    /// Nothing before the event that came next.
    pub too_short: usize,
    /// The server does not know the next item.
    pub unknown_item: usize,
}

/// Lists at one history length.
#[derive(Clone, Debug, Serialize)]
pub struct NextAt {
    /// Newest events sent at most.
    pub length: usize,
    /// Users with at least so many events.
    pub users_with_all: usize,
    /// Answers; a failed one is a miss.
    pub answers: Answers,
    /// Quality.
    #[serde(flatten)]
    pub quality: Quality,
    /// recall at the largest k less that at the length before.
    pub rise: Option<Figure>,
    /// Users whose next item is new to the model, and the others.
    pub cold: Option<ColdAt>,
}

/// Cold and warm items, by recall at the largest k.
#[derive(Clone, Debug, Serialize)]
pub struct ColdAt {
    /// Cold next items.
    pub cold: Side,
    /// Warm ones.
    pub warm: Side,
    /// recall of cold over that of warm items, in one list.
    pub ratio: Figure,
    /// The same where each is looked for among its like alone.
    pub ratio_alone: Option<Figure>,
}

/// Users of cold, or of warm next items.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// How many.
    pub users: usize,
    /// Items of this kind in the file that the server knows.
    pub items: usize,
    /// recall in lists of all items.
    pub recall: Figure,
    /// recall in lists of this kind alone; none if the server takes no such request.
    pub recall_alone: Option<Figure>,
}

/// Predictions for impressions.
#[derive(Clone, Debug, Serialize)]
pub struct Impressions {
    /// Users whose impressions were judged.
    pub users: usize,
    /// Impressions asked about.
    pub impressions: usize,
    /// Impressions of items that the server does not know: left out.
    pub unknown_item: usize,
    /// By history length.
    pub lengths: Vec<ShownAt>,
    /// What the true probabilities reach on the same impressions, if the file has them.
    pub best: Option<Best>,
    /// Best achievable figures, as the maker of the file says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub best_in_file: BTreeMap<String, f64>,
}

/// Predictions at one history length.
#[derive(Clone, Debug, Serialize)]
pub struct ShownAt {
    /// Newest events sent at most.
    pub length: usize,
    /// Answers; impressions of a failed one are left out.
    pub answers: Answers,
    /// Clicks, over impressions.
    pub click: Target,
    /// Conversions, over impressions; predicted by click x conversion.
    pub conversion: Target,
    /// Conversions, over clicks.
    pub conversion_after_click: Target,
    /// Order values over list prices: mean absolute error over the mean, for orders.
    pub value_error: Figure,
    /// Predicted over observed order values, for orders.
    pub value_ratio: Figure,
}

/// One predicted event.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Predictions.
    pub rows: usize,
    /// Those that came true.
    pub positives: usize,
    /// Area under the receiver operating characteristic, exact.
    pub auc: Figure,
    /// AUC less that at the length before.
    pub rise: Option<Figure>,
    /// Cross entropy over the entropy of the mean rate.
    pub normalised_entropy: Figure,
    /// Expected calibration error, absolute, over bins of equal mass.
    pub calibration_error: Figure,
    /// What it would be by chance if every prediction were right.
    pub calibration_chance: f64,
    /// Mean prediction over the share that came true.
    pub predicted_over_observed: Figure,
    /// Calibration curve.
    pub bins: Vec<Bin>,
}

/// What the truth reaches.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// Clicks.
    pub click: BestOf,
    /// Conversions, over impressions.
    pub conversion: BestOf,
    /// Conversions, over clicks.
    pub conversion_after_click: BestOf,
}

/// What the truth reaches for one event.
#[derive(Clone, Debug, Serialize)]
pub struct BestOf {
    /// AUC.
    pub auc: Figure,
    /// Normalised entropy.
    pub normalised_entropy: Figure,
}
