//! Which creative to show: Thompson sampling over the creatives that fit.
//!
//! Each creative has a Beta posterior of its click rate. The prior has the strength of [`PRIOR_STRENGTH`] impressions and
//! the click rate seen over all creatives of the same form, itself pulled to [`PRIOR_MEAN`] while little was seen:
//! with no data at all it is Beta(1, 30). A new creative so starts as an average one of its form, is shown enough to be
//! judged, and its own clicks take over within some hundred impressions.
//!
//! Pure but for its counters: the same counters and the same random numbers give the same choice. [`Chooser::decay`] is
//! the seam for forgetting; composition of creatives from elements is separate work and will replace the prior.

use super::counters::Counters;
use crate::catalog::Catalog;
use crate::ids::{CreativeSlot, Id};
use crate::plans::Format;
use rand::Rng;
use rand::distr::Distribution;
use rand_distr::Beta;
use serde::{Deserialize, Serialize};

/// Impressions that the prior counts as.
pub const PRIOR_STRENGTH: f64 = 31.0;
/// Click rate of a form before anything was seen.
pub const PRIOR_MEAN: f64 = 1.0 / 31.0;

/// Counts are kept in 1,024ths, so that decay loses nothing that matters.
const ONE: u64 = 1 << 10;
const FORMS: u32 = 3;

/// Feedback on a shown creative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was shown.
    Impression,
    /// It was clicked.
    Click,
}

/// What was seen of one creative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Impressions (a fraction after decay).
    pub impressions: f64,
    /// Clicks.
    pub clicks: f64,
}

/// A chooser's memory, by creative id, for the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChooserState {
    /// Creatives with any feedback.
    pub creatives: Vec<(Id, Seen)>,
    /// Totals by form: banner, video, native.
    pub forms: [Seen; FORMS as usize],
}

/// A chosen creative and the draw it won with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The creative.
    pub creative: CreativeSlot,
    /// The sampled click rate.
    pub sampled: f64,
}

/// Posteriors of all creatives. Requests read without locks; feedback adds to atomics.
#[derive(Debug, Default)]
pub struct Chooser {
    /// Impressions and clicks by creative.
    own: Counters<2>,
    /// The same by form.
    forms: Counters<2>,
}

fn form(format: &Format) -> u32 {
    match format {
        Format::Banner { .. } => 0,
        Format::Video { .. } => 1,
        Format::Native { .. } => 2,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn seen([impressions, clicks]: [u64; 2]) -> Seen {
    Seen { impressions: impressions as f64 / ONE as f64, clicks: clicks as f64 / ONE as f64 }
}

/// Counts from saved figures; what is no count becomes 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a range that fits")]
fn counts(seen: Seen) -> [u64; 2] {
    [seen.impressions, seen.clicks].map(|x| (x.clamp(0.0, 1e12) * 1024.0).round() as u64)
}

impl Chooser {
    /// A chooser that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds feedback on a creative. `catalog` tells its form; a creative that was deleted meanwhile counts for nothing.
    pub fn record(&self, catalog: &Catalog, creative: CreativeSlot, outcome: Outcome) {
        let Some(entry) = catalog.creative(creative) else { return };
        let amounts = match outcome {
            Outcome::Impression => [ONE, 0],
            Outcome::Click => [0, ONE],
        };
        self.own.add(creative, amounts);
        self.forms.add(form(&entry.record.format), amounts);
    }

    /// Draws a click rate for each candidate and gives the highest; the first of equals. `None` without candidates.
    pub fn choose<R: Rng + ?Sized>(
        &self,
        catalog: &Catalog,
        candidates: impl IntoIterator<Item = CreativeSlot>,
        rng: &mut R,
    ) -> Option<Choice> {
        let own = self.own.view();
        let mut best: Option<Choice> = None;
        for creative in candidates {
            let Some(entry) = catalog.creative(creative) else { continue };
            let (alpha, beta) = self.posterior(&entry.record.format, seen(own.read(creative)));
            // Both are above zero, so the distribution always exists; its mean stands in for the impossible.
            let sampled = Beta::new(alpha, beta).map_or(alpha / (alpha + beta), |posterior| posterior.sample(rng));
            if best.is_none_or(|best| sampled > best.sampled) {
                best = Some(Choice { creative, sampled });
            }
        }
        best
    }

    /// Parameters of the Beta posterior for `seen` of a creative of this form.
    fn posterior(&self, format: &Format, seen_of: Seen) -> (f64, f64) {
        let form = seen(self.forms.read(form(format)));
        let mean = (form.clicks + PRIOR_STRENGTH * PRIOR_MEAN) / (form.impressions.max(form.clicks) + PRIOR_STRENGTH);
        let mean = mean.clamp(1e-5, 1.0 - 1e-5);
        let misses = (seen_of.impressions - seen_of.clicks).max(0.0);
        (PRIOR_STRENGTH * mean + seen_of.clicks, PRIOR_STRENGTH * (1.0 - mean) + misses)
    }

    /// What was seen of a creative.
    #[must_use]
    pub fn seen(&self, creative: CreativeSlot) -> Seen {
        seen(self.own.read(creative))
    }

    /// Multiplies everything seen by `keep`, from 0 (forget) to 1 (nothing happens): called at intervals where click
    /// rates drift.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is a count"
    )]
    pub fn decay(&self, keep: f64) {
        let keep = keep.clamp(0.0, 1.0);
        for counters in [&self.own, &self.forms] {
            counters.map(|count| (count as f64 * keep) as u64);
        }
    }

    /// Everything seen of the creatives in `catalog`.
    #[must_use]
    pub fn save(&self, catalog: &Catalog) -> ChooserState {
        let own = self.own.view();
        let with_feedback = catalog.creatives().filter_map(|(slot, entry)| {
            let counts = own.read(slot);
            (counts != [0, 0]).then(|| (entry.record.id.clone(), seen(counts)))
        });
        ChooserState {
            creatives: with_feedback.collect(),
            forms: std::array::from_fn(|form| seen(self.forms.read(u32::try_from(form).unwrap_or(0)))),
        }
    }

    /// Puts a saved state back; creatives that are no longer in `catalog` are left out.
    pub fn restore(&self, catalog: &Catalog, state: &ChooserState) {
        for (id, seen) in &state.creatives {
            if let Some(slot) = catalog.creative_slot(id) {
                self.own.set(slot, counts(*seen));
            }
        }
        for (form, seen) in (0..FORMS).zip(state.forms) {
            self.forms.set(form, counts(seen));
        }
    }
}
