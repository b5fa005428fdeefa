//! Quality of rankings in which exactly one item is right: the next one.

use super::bootstrap::{Figure, Resamples};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rank of the right item, 1 for the first; `None` if the list does not hold it.
pub type Rank = Option<usize>;

/// 1 if the right item is among the first `k`.
#[must_use]
pub fn recall(rank: Rank, k: usize) -> f64 {
    f64::from(u8::from(rank.is_some_and(|rank| rank <= k)))
}

/// Normalised discounted cumulative gain of the first `k`: the ideal list has the right item first and a gain of 1, so what is
/// left is the discount 1 / log2(rank + 1).
#[must_use]
pub fn ndcg(rank: Rank, k: usize) -> f64 {
    match rank {
        Some(rank) if rank <= k => (number(rank) + 1.0).log2().recip(),
        _ => 0.0,
    }
}

/// 1 / rank within the first `k`, 0 beyond.
#[must_use]
pub fn reciprocal(rank: Rank, k: usize) -> f64 {
    match rank {
        Some(rank) if rank <= k => number(rank).recip(),
        _ => 0.0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "ranks and counts are far below 2^52")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

/// Means over users.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// recall@k by k: with one right item, the share of users whose list holds it.
    pub recall: BTreeMap<usize, Figure>,
    /// NDCG@k by k.
    pub ndcg: BTreeMap<usize, Figure>,
    /// Mean reciprocal rank within the largest k.
    pub mrr: Figure,
}

impl Quality {
    /// Of these ranks: a user's number, and where the right item stood.
    #[must_use]
    pub fn of(ranks: &[(usize, Rank)], ks: &[usize], resamples: &Resamples) -> Self {
        let mean = |gain: fn(Rank, usize) -> f64, k: usize| {
            let rows: Vec<(usize, f64)> = ranks.iter().map(|&(user, rank)| (user, gain(rank, k))).collect();
            resamples.mean(&rows)
        };
        let by_k = |gain: fn(Rank, usize) -> f64| ks.iter().map(|&k| (k, mean(gain, k))).collect();
        let longest = ks.iter().copied().max().unwrap_or(0);
        Self { recall: by_k(recall), ndcg: by_k(ndcg), mrr: mean(reciprocal, longest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quality(ranks: &[Rank], ks: &[usize]) -> Quality {
        let users: Vec<usize> = (0..ranks.len()).collect();
        let ranks: Vec<(usize, Rank)> = ranks.iter().copied().enumerate().collect();
        Quality::of(&ranks, ks, &Resamples::new(users.len(), &users, 4, 1))
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn values_worked_out_by_hand() {
        // Four users: first, third, eleventh, not at all.
        let of_four = quality(&[Some(1), Some(3), Some(11), None], &[1, 10, 100]);
        near(of_four.recall[&1].value, 0.25);
        near(of_four.recall[&10].value, 0.5);
        near(of_four.recall[&100].value, 0.75);
        near(of_four.ndcg[&1].value, 0.25);
        // 1/log2(4) = 0.5; 1/log2(12) = 0.278942945651...
        near(of_four.ndcg[&10].value, 1.5 / 4.0);
        near(of_four.ndcg[&100].value, (1.5 + 0.278_942_945_651_129_8) / 4.0);
        near(of_four.mrr.value, (1.0 + 1.0 / 3.0 + 1.0 / 11.0) / 4.0);
        near(quality(&[Some(11)], &[10]).mrr.value, 0.0);
        assert!(quality(&[], &[10]).recall[&10].value.is_nan());
    }

    /// The definition for any list and any set of right items: gain over the gain of the ideal order.
    fn naive_ndcg(list: &[u32], right: &[u32], k: usize) -> f64 {
        let gains = |items: &[u32]| -> f64 {
            let hits = items.iter().take(k).enumerate().filter(|(_, item)| right.contains(item));
            hits.map(|(at, _)| 1.0 / (at as f64 + 2.0).log2()).sum()
        };
        gains(list) / gains(right)
    }

    fn naive_recall(list: &[u32], right: &[u32], k: usize) -> f64 {
        let found = right.iter().filter(|item| list.iter().take(k).any(|other| other == *item)).count();
        found as f64 / right.len() as f64
    }

    proptest! {
        #[test]
        fn equal_to_the_definitions_over_lists(
            lists in proptest::collection::vec(Just((0..40).collect::<Vec<u32>>()).prop_shuffle(), 1..20),
            right in 0u32..60,
            k in 1usize..50,
        ) {
            let ranks: Vec<Rank> =
                lists.iter().map(|list| list.iter().position(|&item| item == right).map(|at| at + 1)).collect();
            let quality = quality(&ranks, &[k]);
            let mean = |of: &dyn Fn(&Vec<u32>) -> f64| lists.iter().map(of).sum::<f64>() / lists.len() as f64;
            near(quality.ndcg[&k].value, mean(&|list| naive_ndcg(list, &[right], k)));
            near(quality.recall[&k].value, mean(&|list| naive_recall(list, &[right], k)));
            let reciprocal = |list: &Vec<u32>| {
                list.iter().take(k).position(|&item| item == right).map_or(0.0, |at| 1.0 / (at as f64 + 1.0))
            };
            near(quality.mrr.value, mean(&reciprocal));
        }
    }
}
