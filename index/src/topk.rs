//! The best `k` of a stream of scores.

use std::cmp::Ordering;

use crate::Hits;

/// Better first: higher score, then lower slot. Total, so that the best `k` do not depend on the order in which they came.
fn better_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Keeps the best `k` pairs. Pairs gather in a buffer of `2k`; when it is full the worse half goes: a few operations a pair.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    pairs: Vec<(f32, u32)>,
    /// The worst score that can still matter; anything below is dropped at once.
    floor: f32,
}

impl TopK {
    /// For the best `k`.
    pub(crate) fn new(k: usize) -> Self {
        Self { k, pairs: Vec::with_capacity(2 * k), floor: f32::NEG_INFINITY }
    }

    /// How many are wanted.
    pub(crate) fn wanted(&self) -> usize {
        self.k
    }

    /// Offers one pair. `score` must not be NaN.
    #[inline]
    pub(crate) fn push(&mut self, score: f32, slot: u32) {
        // A score equal to the floor may still win by its slot.
        if score < self.floor || self.k == 0 {
            return;
        }
        // -0 and 0 are one score.
        self.pairs.push((score + 0.0, slot));
        if self.pairs.len() == 2 * self.k {
            self.shrink();
        }
    }

    #[cold]
    fn shrink(&mut self) {
        let (_, worst, _) = self.pairs.select_nth_unstable_by(self.k - 1, better_first);
        self.floor = worst.0;
        self.pairs.truncate(self.k);
    }

    /// Distinct slots held, at most `k`; sorts.
    pub(crate) fn settle(&mut self) -> usize {
        self.pairs.sort_unstable_by(better_first);
        self.pairs.dedup_by_key(|pair| pair.1);
        self.pairs.truncate(self.k);
        self.pairs.len()
    }

    /// Forgets everything and starts again.
    pub(crate) fn reset(&mut self) {
        self.pairs.clear();
        self.floor = f32::NEG_INFINITY;
    }

    /// The best, sorted.
    pub(crate) fn into_hits(mut self) -> Hits {
        self.settle();
        Hits {
            slots: self.pairs.iter().map(|pair| pair.1).collect(),
            scores: self.pairs.iter().map(|pair| pair.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_best_and_breaks_ties_by_slot() {
        let mut top = TopK::new(3);
        for (score, slot) in [(0.5, 9), (0.5, 2), (1.0, 7), (-1.0, 1), (0.5, 3), (0.5, 1), (0.2, 0), (0.5, 4)] {
            top.push(score, slot);
        }
        let hits = top.into_hits();
        assert_eq!(hits.slots, [7, 1, 2]);
        assert_eq!(hits.scores, [1.0, 0.5, 0.5]);
    }

    #[test]
    fn zero_takes_nothing_and_minus_zero_is_zero() {
        let mut none = TopK::new(0);
        none.push(1.0, 1);
        assert!(none.into_hits().is_empty());
        let mut top = TopK::new(1);
        top.push(0.0, 5);
        top.push(-0.0, 4);
        assert_eq!(top.into_hits().slots, [4]);
    }
}
