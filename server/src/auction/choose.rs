//! Which creative to show, and in which composition: hierarchical Thompson sampling.
//!
//! Three levels, each Gaussian around the one above, all learned from impressions and clicks:
//!
//! 1. a **prior** shared by all creatives: a linear regression of click rates on features of the creative and of the user
//!    ([`Prior`], whole covariance), so that a new creative starts as creatives like it do for users like this one;
//! 2. each creative's **own record** ([`Rule`]), which takes over as evidence comes;
//! 3. within a composed creative, what each **element** and pair of elements adds.
//!
//! A choice draws all of it once and takes the highest; for a composed creative the best composition under the draw is
//! found by dynamic programming over its [`Tree`]. Where draws are all there is, they are scaled by [`TEMPERATURE`] (posterior reshaping, Chapelle and
//! Li 2011). Feedback may come late, in batches and in any order, and moves the very next draw.
//!
//! Pure but for its memory: the same memory and the same random numbers give the same choice. Time is passed in.

mod compose;
mod effects;
mod fatigue;
mod features;
mod levels;
mod own;
mod prior;
mod sight;
mod state;
mod tree;

pub use fatigue::FatigueState;
pub use features::Context;
pub use own::{Own, Rule, Seen};
pub use prior::Prior;
pub use sight::{Sight, shown_id};
pub use state::ChooserState;
pub use tree::{Composition, PAIRS_MAX, PARTS_MAX, Tree};

use super::counters::Counters;
use crate::catalog::{Catalog, CreativeEntry};
use crate::ids::{CreativeSlot, Id};
use compose::Scene;
use effects::{Effects, NODE_SPREAD, Piece};
use fatigue::Fatigue;
use features::{DIMS, FORMS, User, form, mix};
use levels::{draw, own_of, pieces, places, row};
use parking_lot::{Mutex, RwLock};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Click rate of a form before anything was seen.
pub const PRIOR_MEAN: f64 = 1.0 / 31.0;
/// Draws deviate from the mean by this share of the posterior's deviation.
pub const TEMPERATURE: f64 = 0.5;
/// How much creatives with the same features differ, relative to their rate, before anything was seen.
pub const SPREAD_START: f64 = 0.08;
/// The same for what a feature adds.
const FEATURE_SPREAD: f64 = 0.1;
/// Impressions that [`PRIOR_MEAN`] counts as in the overall rate.
pub const PRIOR_STRENGTH: f64 = 31.0;
/// Counts are kept in 1,024ths, so that decay loses nothing that matters.
const ONE: u64 = 1 << 10;
/// Forgetting happens in steps of this share of the half-life.
const DECAY_STEP: f64 = 1.0 / 200.0;

/// Feedback on a shown creative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was shown.
    Impression,
    /// It was clicked.
    Click,
}

/// What may be set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Share of a composed creative's choices that show an element which is new to it.
    pub explore_share: f64,
    /// Impressions after which an element is no longer new.
    pub explore_impressions: f64,
    /// What was seen loses half its weight in this many seconds.
    pub half_life_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { explore_share: 0.1, explore_impressions: 1_000.0, half_life_s: 30.0 * 86_400.0 }
    }
}

/// For whom a creative is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// What is known of the user.
    pub context: Context,
    /// Hash of the user, for fatigue; 0 for nobody.
    pub user: u128,
    /// Unix seconds.
    pub now_s: i64,
}

/// A chosen creative and the draw it won with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The creative.
    pub creative: CreativeSlot,
    /// Its elements, if it has any.
    pub composition: Composition,
    /// The sampled click rate, with what exploring it is worth; the highest wins.
    pub sampled: f64,
    /// Expected click rate for anybody, without its elements.
    pub expected: f64,
    /// Standard deviation of that.
    pub deviation: f64,
    /// What fatigue left of `sampled`, 0 to 1.
    pub fatigue: f64,
}

/// What is known of one element.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ElementFigures {
    /// Its id in the creative.
    pub id: Id,
    /// What it adds to the creative's click rate.
    pub adds: f64,
    /// Standard deviation of that.
    pub deviation: f64,
    /// Impressions that showed it.
    pub impressions: f64,
    /// Whether it still is one of the new ones, which get a bounded share.
    pub new: bool,
}

/// The part of the memory that is learned together.
#[derive(Clone, Debug)]
struct Learned {
    prior: Prior,
    effects: Effects,
    /// How much creatives differ, relative to their rate.
    spread: f64,
}

/// The memory of all creatives. Requests share it; feedback holds it for microseconds.
#[derive(Debug)]
pub struct Chooser {
    /// Impressions and clicks by creative.
    own: Counters<2>,
    /// The same by form.
    forms: Counters<2>,
    learned: RwLock<Learned>,
    fatigue: Fatigue,
    settings: Settings,
    /// Seconds not yet forgotten.
    aged_s: Mutex<f64>,
}

impl Default for Chooser {
    fn default() -> Self {
        Self::new(Settings::default())
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

/// Fatigue's key of a user and a creative.
fn pair(user: u128, creative: CreativeSlot) -> u64 {
    let (high, low) = (u64::try_from(user >> 64).unwrap_or(0), u64::try_from(user & u128::from(u64::MAX)).unwrap_or(0));
    mix(high ^ mix(low ^ mix(u64::from(creative) + 1)))
}

impl Chooser {
    /// A chooser that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut mean = vec![0.0; DIMS];
        let mut variances = vec![(FEATURE_SPREAD * PRIOR_MEAN).powi(2); DIMS];
        mean[..FORMS].fill(PRIOR_MEAN);
        variances[..FORMS].fill(PRIOR_MEAN * PRIOR_MEAN);
        let learned = Learned { prior: Prior::new(mean, variances), effects: Effects::default(), spread: SPREAD_START };
        Self {
            own: Counters::default(),
            forms: Counters::default(),
            learned: RwLock::new(learned),
            fatigue: Fatigue::default(),
            settings,
            aged_s: Mutex::new(0.0),
        }
    }

    /// Overall click rate of a form.
    fn rate(&self, form: u32) -> f64 {
        let form = seen(self.forms.read(form));
        (form.clicks + PRIOR_STRENGTH * PRIOR_MEAN) / (form.impressions.max(form.clicks) + PRIOR_STRENGTH)
    }

    /// Adds feedback on a sight. `catalog` tells its form; a creative that was deleted meanwhile counts for nothing.
    pub fn record(&self, catalog: &Catalog, sight: impl Into<Sight>, outcome: Outcome) {
        let sight = sight.into();
        let Some(entry) = catalog.creative(sight.creative) else { return };
        let form = form(&entry.record.format);
        let rate = self.rate(form);
        let record = seen(self.own.read(sight.creative));
        let mut learned = self.learned.write();
        let rule = Rule::new(rate, learned.spread);
        let own = own_of(entry, record, &rule, &learned.prior);
        let row = row(entry, &sight, own.share);
        let pieces = pieces(entry, &sight.composition);
        let amounts = match outcome {
            Outcome::Impression => {
                let expected = learned.prior.expected(&row) + own.record;
                let exposure = match sight.user {
                    0 => 1.0,
                    user => self.fatigue.saw(pair(user, sight.creative), expected.clamp(0.0, 1.0), sight.now_s),
                };
                learned.prior.observe(&row, -own.record, rule.variance_of_next(&own, exposure));
                learned.effects.observe(&pieces, expected, (rule.noise, exposure), rate);
                [counts(Seen { impressions: exposure, clicks: 0.0 })[0], 0]
            }
            Outcome::Click => {
                if sight.user != 0 {
                    self.fatigue.clicked(pair(sight.user, sight.creative), sight.now_s);
                }
                learned.prior.credit(&row, 1.0, rule.noise);
                learned.effects.credit(&pieces, rule.noise);
                [0, ONE]
            }
        };
        self.own.add(sight.creative, amounts);
        self.forms.add(form, amounts);
    }

    /// Draws a click rate for each candidate and gives the highest; the first of equals. `None` without candidates.
    pub fn choose<R: Rng + ?Sized>(
        &self,
        catalog: &Catalog,
        ask: &Ask,
        candidates: impl IntoIterator<Item = CreativeSlot>,
        rng: &mut R,
    ) -> Option<Choice> {
        self.choose_telling(catalog, ask, candidates, rng, |_| {})
    }

    /// The same; `tell` hears of every candidate.
    pub fn choose_telling<R: Rng + ?Sized>(
        &self,
        catalog: &Catalog,
        ask: &Ask,
        candidates: impl IntoIterator<Item = CreativeSlot>,
        rng: &mut R,
        mut tell: impl FnMut(&Choice),
    ) -> Option<Choice> {
        let own = self.own.view();
        let learned = self.learned.read();
        let mut weights = [0.0_f32; DIMS];
        #[expect(clippy::cast_possible_truncation, reason = "a constant near 1")]
        learned.prior.draw(TEMPERATURE as f32, rng, &mut weights);
        let exploring = rng.random::<f64>() < self.settings.explore_share;
        let scene = Scene {
            learned: &learned,
            weights: &weights,
            user: ask.context.user(),
            exploring,
            settings: self.settings,
        };
        let mut best: Option<Choice> = None;
        for creative in candidates {
            let Some(entry) = catalog.creative(creative) else { continue };
            let rate = self.rate(form(&entry.record.format));
            let mut choice = draw(entry, seen(own.read(creative)), &scene, rate, rng);
            choice.creative = creative;
            if ask.user != 0 {
                choice.fatigue = self.fatigue.factor(pair(ask.user, creative), ask.now_s);
                choice.sampled *= choice.fatigue;
            }
            tell(&choice);
            if best.is_none_or(|best| choice.sampled > best.sampled) {
                best = Some(choice);
            }
        }
        best
    }

    /// What was seen of a creative.
    #[must_use]
    pub fn seen(&self, creative: CreativeSlot) -> Seen {
        seen(self.own.read(creative))
    }

    /// Expected click rate of a creative, and its standard deviation; for any user, without its elements.
    #[must_use]
    pub fn expected(&self, entry: &CreativeEntry, creative: CreativeSlot) -> (f64, f64) {
        let learned = self.learned.read();
        let rule = Rule::new(self.rate(form(&entry.record.format)), learned.spread);
        let own = own_of(entry, self.seen(creative), &rule, &learned.prior);
        (own.mean.clamp(0.0, 1.0), own.total)
    }

    /// What a creative's elements add to its click rate, as far as that is known.
    #[must_use]
    pub fn elements(&self, entry: &CreativeEntry) -> Vec<ElementFigures> {
        let Some(tree) = entry.tree.as_deref() else { return Vec::new() };
        let rate = self.rate(form(&entry.record.format));
        let learned = self.learned.read();
        let figures = tree.nodes().iter().map(|node| {
            let effect = learned.effects.get(Piece { key: node.key, relative: NODE_SPREAD }, rate);
            let (id, deviation) = (node.id.clone(), effect.variance.sqrt());
            let new = effect.shows < self.settings.explore_impressions;
            ElementFigures { id, adds: effect.mean, deviation, impressions: effect.shows, new }
        });
        figures.collect()
    }

    /// The slower part of learning, called at intervals of `passed_s` seconds beside the requests: how much creatives
    /// differ, what draws deviate by, what is forgotten.
    pub fn learn(&self, catalog: &Catalog, passed_s: f64) {
        let spread = self.spread(catalog);
        let factor = self.learned.read().prior.factored();
        {
            let mut learned = self.learned.write();
            learned.prior.set_factor(factor);
            learned.spread = spread;
        }
        let mut aged = self.aged_s.lock();
        *aged += passed_s.max(0.0);
        if *aged >= self.settings.half_life_s * DECAY_STEP {
            let keep = 0.5_f64.powf(*aged / self.settings.half_life_s);
            *aged = 0.0;
            drop(aged);
            self.decay(keep);
            self.prune(catalog);
        }
    }

    /// One step of empirical Bayes over all creatives with a record.
    fn spread(&self, catalog: &Catalog) -> f64 {
        let own = self.own.view();
        let rates: [f64; FORMS] = std::array::from_fn(|form| self.rate(u32::try_from(form).unwrap_or(0)));
        let learned = self.learned.read();
        // Relative to the rate, so that forms can be taken together.
        let (mut sum, mut count) = (0.0, 0.0);
        for (form_number, &rate) in rates.iter().enumerate() {
            let rule = Rule::new(rate, learned.spread);
            let records = catalog.creatives().filter(|(_, entry)| form(&entry.record.format) as usize == form_number);
            let records: Vec<(Seen, f64)> = records
                .map(|(slot, entry)| (seen(own.read(slot)), entry))
                .filter(|(seen, _)| seen.impressions >= 1.0)
                .map(|(seen, entry)| (seen, learned.prior.known(&places(entry)).0))
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "a count")]
            let weight = records.len() as f64 + 1.0;
            let start = (SPREAD_START * rate).powi(2);
            sum += weight * rule.learned_spread(start, records).sqrt() / rate;
            count += weight;
        }
        (sum / count).clamp(0.01, 1.0)
    }

    /// Multiplies everything seen by `keep`, from 0 (forget) to 1 (nothing happens): where click rates drift.
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
        self.fatigue.decay(keep);
        let mut learned = self.learned.write();
        learned.prior.decay(keep);
        learned.effects.decay(keep);
    }

    /// Forgets elements that are in no creative any more.
    fn prune(&self, catalog: &Catalog) {
        let trees = || catalog.creatives().filter_map(|(_, entry)| entry.tree.as_deref());
        let nodes = trees().flat_map(|tree| tree.nodes().iter().map(|node| node.key));
        let pairs = trees().flat_map(|tree| tree.pairs().iter().map(|pair| pair.key));
        let known: std::collections::HashSet<u64> = nodes.chain(pairs).collect();
        self.learned.write().effects.0.retain(|key, _| known.contains(key));
    }
}
