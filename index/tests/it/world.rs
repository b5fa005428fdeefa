//! Seeded items and the plain truth about them.

use std::collections::{BTreeMap, HashSet};

use longbow_index::{Bitmap, ExactRetriever, Hits, IndexOptions, Kind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const DIM: usize = 8;

/// All kinds, small enough to be trained in milliseconds.
pub(crate) const KINDS: [Kind; 3] = [Kind::Exact, Kind::IvfFlat { nlist: 16 }, Kind::IvfPq { nlist: 16, m: 4 }];

/// Options under which small test indexes use their lists.
pub(crate) fn small_options(kind: Kind) -> IndexOptions {
    IndexOptions {
        lists_rows_min: 100,
        merge_rows: 24,
        delta_rows_max: 48,
        background: false,
        slots_max: 4_095,
        ..IndexOptions::new(DIM, kind)
    }
}

/// A vector near one of `clusters` centres. Few distinct seeds give equal vectors, and so equal scores, now and then.
pub(crate) fn vector(seed: u64, dim: usize, clusters: u64) -> Vec<f32> {
    let mut centre = StdRng::seed_from_u64(seed % clusters);
    let mut noise = StdRng::seed_from_u64(seed ^ 0x5eed);
    (0..dim).map(|_| centre.random_range(-1.0_f32..1.0) + noise.random_range(-0.3_f32..0.3)).collect()
}

/// The plain model: a map of raw vectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naive {
    pub(crate) items: BTreeMap<u32, Vec<f32>>,
}

impl Naive {
    /// `count` items at slots `1..=count`.
    pub(crate) fn seeded(count: u32, dim: usize, clusters: u64) -> Self {
        Self { items: (1..=count).map(|slot| (slot, vector(u64::from(slot), dim, clusters))).collect() }
    }

    pub(crate) fn slots_and_vectors(&self) -> (Vec<u32>, Vec<f32>) {
        (self.items.keys().copied().collect(), self.items.values().flatten().copied().collect())
    }

    pub(crate) fn exact(&self, dim: usize) -> ExactRetriever {
        let (slots, vectors) = self.slots_and_vectors();
        ExactRetriever::new(dim, &slots, &vectors).unwrap()
    }

    /// The score of an item, in f64.
    pub(crate) fn score(&self, slot: u32, query: &[f32]) -> f64 {
        let item = &self.items[&slot];
        let length = item.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        item.iter().zip(query).map(|(&x, &q)| f64::from(x) * f64::from(q)).sum::<f64>() / length
    }

    fn eligible(&self, filter: Option<&Bitmap>) -> Vec<u32> {
        self.items.keys().copied().filter(|&slot| filter.is_none_or(|set| set.get(slot))).collect()
    }

    /// What holds for every kind: the right count, each hit alive, eligible, once, under its score, in order.
    pub(crate) fn check_sound(&self, hits: &Hits, query: &[f32], k: usize, filter: Option<&Bitmap>) {
        let eligible = self.eligible(filter);
        assert_eq!(hits.len(), k.min(eligible.len()), "k = {k}, {} eligible", eligible.len());
        assert_eq!(hits.scores.len(), hits.slots.len());
        let mut seen = HashSet::new();
        for (&slot, &score) in hits.slots.iter().zip(&hits.scores) {
            assert!(seen.insert(slot), "slot {slot} twice");
            assert!(eligible.binary_search(&slot).is_ok(), "slot {slot} is dead or not eligible");
            let truth = self.score(slot, query);
            assert!((f64::from(score) - truth).abs() < 1e-5, "slot {slot}: {score} for {truth}");
        }
        let pairs: Vec<(f32, u32)> = hits.scores.iter().copied().zip(hits.slots.iter().copied()).collect();
        assert!(pairs.is_sorted_by(|a, b| a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)), "out of order: {pairs:?}");
    }

    /// What holds for exact search besides: nothing left out is better than what came.
    pub(crate) fn check_exact(&self, hits: &Hits, query: &[f32], k: usize, filter: Option<&Bitmap>) {
        self.check_sound(hits, query, k, filter);
        let Some((&worst, &last)) = hits.scores.last().zip(hits.slots.last()) else { return };
        for slot in self.eligible(filter) {
            if hits.slots.contains(&slot) {
                continue;
            }
            assert!(self.score(slot, query) < f64::from(worst) + 1e-5, "slot {slot} was left out");
            if self.items[&slot] == self.items[&last] {
                assert!(slot > last, "of equal items {slot} comes before {last}");
            }
        }
    }
}

/// A filter of about one slot in `every`, from a seed.
pub(crate) fn filter(seed: u64, slots: u32, every: u32) -> Bitmap {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..slots).filter(|_| rng.random_range(0..every) == 0).collect()
}
