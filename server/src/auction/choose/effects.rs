//! What single elements and pairs of elements add to a creative's click rate: a Gaussian posterior of each.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most elements and pairs remembered; beyond it new ones stay at their prior until others are deleted.
pub(super) const EFFECTS_MAX: usize = 200_000;
/// Elements of one part differ by about this share of the click rate.
pub(super) const NODE_SPREAD: f64 = 0.15;
/// And pairs, beyond their elements, by this.
pub(super) const PAIR_SPREAD: f64 = 0.1;

/// One element's or pair's posterior.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Effect {
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// Impressions that showed it.
    pub(super) shows: f64,
    /// Variance before anything was seen.
    pub(super) start: f64,
}

impl Effect {
    pub(super) fn new(relative: f64, rate: f64) -> Self {
        let start = (relative * rate).powi(2);
        Self { mean: 0.0, variance: start, shows: 0.0, start }
    }
}

/// All of them, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects(pub(super) HashMap<u64, Effect>);

/// An element or a pair of a shown composition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) key: u64,
    pub(super) relative: f64,
}

impl Effects {
    pub(super) fn get(&self, piece: Piece, rate: f64) -> Effect {
        self.0.get(&piece.key).copied().unwrap_or_else(|| Effect::new(piece.relative, rate))
    }

    /// Takes in an impression without a click yet, where `baseline` was expected apart from the pieces.
    pub(super) fn observe(&mut self, pieces: &[Piece], baseline: f64, (noise, exposure): (f64, f64), rate: f64) {
        let effects: Vec<Effect> = pieces.iter().map(|piece| self.get(*piece, rate)).collect();
        let total = effects.iter().map(|effect| effect.variance).sum::<f64>() + noise / exposure;
        let missed = -baseline - effects.iter().map(|effect| effect.mean).sum::<f64>();
        for (piece, mut effect) in pieces.iter().zip(effects) {
            effect.mean += effect.variance / total * missed;
            effect.variance -= effect.variance * effect.variance / total;
            effect.shows += exposure;
            if self.0.len() < EFFECTS_MAX || self.0.contains_key(&piece.key) {
                self.0.insert(piece.key, effect);
            }
        }
    }

    /// Adds the click of an impression taken in before.
    pub(super) fn credit(&mut self, pieces: &[Piece], noise: f64) {
        for piece in pieces {
            if let Some(effect) = self.0.get_mut(&piece.key) {
                effect.mean += effect.variance / noise;
            }
        }
    }

    pub(super) fn decay(&mut self, keep: f64) {
        for effect in self.0.values_mut() {
            effect.variance = (effect.variance + (1.0 - keep) * effect.start).min(effect.start);
            effect.shows *= keep;
        }
    }
}
