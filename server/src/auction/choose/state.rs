//! What was learned, for the store.

use super::effects::{EFFECTS_MAX, Effect};
use super::fatigue::FatigueState;
use super::features::FORMS;
use super::own::Seen;
use super::{Chooser, Learned};
use crate::catalog::Catalog;
use crate::ids::Id;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Version of the shared prior's layout: a prior of another is begun anew.
const PRIOR_VERSION: u32 = 1;

/// A chooser's memory, by creative id. States of servers that knew no prior read as one that saw nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChooserState {
    /// Creatives with any feedback.
    pub creatives: Vec<(Id, Seen)>,
    /// Totals by form: banner, video, native.
    pub forms: [Seen; FORMS],
    /// The shared prior.
    #[serde(default)]
    prior: Option<PriorState>,
    /// Elements and pairs.
    #[serde(default)]
    effects: Vec<(u64, Effect)>,
    /// The fatigue curve. Which user saw what is not kept.
    #[serde(default)]
    fatigue: FatigueState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PriorState {
    version: u32,
    /// How much creatives differ, relative to their rate.
    spread: f64,
    /// f64, little endian, base64, so that a restart changes nothing.
    mean: String,
    /// The same: lower triangle, row by row.
    covariance: String,
}

fn written(numbers: &[f64]) -> String {
    STANDARD.encode(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// Empty for what is no such text.
fn read(text: &str) -> Vec<f64> {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    bytes.as_chunks::<8>().0.iter().map(|word| f64::from_le_bytes(*word)).collect()
}

impl PriorState {
    fn of(learned: &Learned) -> Self {
        let (mean, triangle) = learned.prior.saved();
        Self { version: PRIOR_VERSION, spread: learned.spread, mean: written(mean), covariance: written(&triangle) }
    }

    fn put_back(&self, learned: &mut Learned) {
        let (mean, triangle) = (read(&self.mean), read(&self.covariance));
        if self.version == PRIOR_VERSION && learned.prior.restore(&mean, &triangle) {
            learned.spread = if self.spread.is_finite() { self.spread.clamp(0.01, 1.0) } else { learned.spread };
        }
    }
}

impl Chooser {
    /// Everything learned of the creatives in `catalog`.
    #[must_use]
    pub fn save(&self, catalog: &Catalog) -> ChooserState {
        let own = self.own.view();
        let with_feedback = catalog.creatives().filter_map(|(slot, entry)| {
            let counts = own.read(slot);
            (counts != [0, 0]).then(|| (entry.record.id.clone(), super::seen(counts)))
        });
        let learned = self.learned.read();
        let mut effects: Vec<(u64, Effect)> = learned.effects.0.iter().map(|(key, effect)| (*key, *effect)).collect();
        effects.sort_unstable_by_key(|(key, _)| *key);
        ChooserState {
            creatives: with_feedback.collect(),
            forms: std::array::from_fn(|form| super::seen(self.forms.read(u32::try_from(form).unwrap_or(0)))),
            prior: Some(PriorState::of(&learned)),
            effects,
            fatigue: self.fatigue.save(),
        }
    }

    /// Puts a saved state back; creatives that are no longer in `catalog` are left out.
    pub fn restore(&self, catalog: &Catalog, state: &ChooserState) {
        for (id, seen) in &state.creatives {
            if let Some(slot) = catalog.creative_slot(id) {
                self.own.set(slot, super::counts(*seen));
            }
        }
        for (form, seen) in (0..).zip(state.forms) {
            self.forms.set(form, super::counts(seen));
        }
        let mut learned = self.learned.write();
        if let Some(prior) = &state.prior {
            prior.put_back(&mut learned);
        }
        let sound =
            |effect: &Effect| effect.mean.is_finite() && effect.variance >= 0.0 && effect.start >= effect.variance;
        let effects = state.effects.iter().filter(|(_, effect)| sound(effect)).take(EFFECTS_MAX);
        learned.effects.0 = effects.copied().collect();
        self.fatigue.restore(&state.fatigue);
    }
}
