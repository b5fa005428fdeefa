//! Which way to search, chosen by how many items a filter leaves. Pure arithmetic on counts: equal filters give equal plans.

use crate::sieve::Sieve;

/// The inverted lists at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Vectors in the lists.
    pub(crate) rows: usize,
    /// Lists.
    pub(crate) nlist: usize,
    /// Product-quantised codes rather than whole vectors.
    pub(crate) compressed: bool,
    /// Lists to visit for each of the [`depths`], ascending, as tuned; 0 if not tuned.
    pub(crate) probes: [usize; DEPTHS],
    /// Candidates to fetch for each result at least, as tuned; 0 if not tuned.
    pub(crate) overfetch: usize,
}

/// What the caller has set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Effort {
    /// Lists to visit without a filter; 0 for what was tuned, or an eighth of them.
    pub(crate) nprobe: usize,
    /// Candidates fetched for each result wanted, when codes are compressed.
    pub(crate) overfetch: usize,
    /// Lists to visit over those tuned, at least 1.
    pub(crate) widened: f32,
}

/// How one query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Score each eligible vector.
    Exact,
    /// Visit `nprobe` lists, fetch `fetch` candidates, score those exactly.
    Lists {
        /// Lists to visit.
        nprobe: usize,
        /// Candidates to fetch.
        fetch: usize,
    },
}

/// Depths that searches are tuned at.
pub(crate) const DEPTHS: usize = 4;
/// The first: what a request without a narrow filter asks for, roughly. The others are so many times that.
const DEPTH: usize = 200;
const DEEPER: [usize; DEPTHS] = [1, 2, 5, 10];

/// How far down the order of all rows a search goes that is tuned for: `k` results behind a filter that lets a share through lie
/// about as deep as `k` over that share without one. Ascending.
pub(crate) fn depths(rows: usize) -> [usize; DEPTHS] {
    DEEPER.map(|times| (times * DEPTH).min(rows / 10).max(1))
}

/// Lists to visit for a search as deep as `k` results among `eligible`: between tuned depths in proportion, beyond the last
/// one as many more as it is deeper.
fn probes_for(shape: Shape, eligible: usize, k: usize) -> usize {
    let depth = k.saturating_mul(shape.rows).div_ceil(eligible);
    let (depths, probes) = (depths(shape.rows), shape.probes);
    let after = depths.partition_point(|&tuned| tuned < depth);
    let Some(before) = after.checked_sub(1) else { return probes[0] };
    let (from, few) = (depths[before], probes[before]);
    match (depths.get(after), probes.get(after)) {
        (Some(to), Some(many)) => few + (many.saturating_sub(few) * (depth - from)).div_ceil(to - from),
        _ => few.saturating_mul(depth).div_ceil(from),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and all lists are the most"
)]
fn widened(probes: usize, by: f32) -> usize {
    (as_f64(probes) * f64::from(by)).ceil() as usize
}

/// Eligible vectors that the visited lists should hold for each result wanted: below this, recall under a filter falls.
const CANDIDATES_PER_RESULT: usize = 8;
/// And for each candidate fetched.
const CANDIDATES_PER_FETCH: usize = 2;

/// Costs in full scorings of consecutive rows (14 ns at 64 dimensions; `longbow-bench index` has the times they come from).
/// Scoring a row far from the last one: a miss in the cache.
const COST_APART: f64 = 2.4;
/// Scoring by codes a row that lies beside the last one, or apart from it.
const COST_CODE: f64 = 0.3;
const COST_CODE_APART: f64 = 1.2;
/// Rows scored in full after a pass over codes, for each result.
const FULL_PER_RESULT: f64 = 2.0;
/// Share of eligible rows below which they lie apart; above it a pass over codes scores them all.
const APART_BELOW: f64 = 0.25;
/// Passing by one entry of a list: asking the bitmap, or its part of a code block.
const COST_VISIT: f64 = 0.8;

/// The method for `k` results among `eligible` of the lists' vectors.
pub(crate) fn choose(shape: Shape, effort: Effort, eligible: usize, k: usize) -> Method {
    if shape.nlist == 0 || eligible <= k {
        return Method::Exact;
    }
    let fetch = fetch_count(shape, effort, eligible, k);
    let base = match (effort.nprobe, shape.probes) {
        (0, [0, ..]) => shape.nlist.div_ceil(8),
        (0, _) => widened(probes_for(shape, eligible, k), effort.widened),
        (set, _) => set,
    };
    // A list holds eligible / nlist of the eligible on average.
    let candidates = (k * CANDIDATES_PER_RESULT).max(fetch * CANDIDATES_PER_FETCH);
    let needed = candidates.saturating_mul(shape.nlist).div_ceil(eligible);
    let nprobe = base.max(needed);
    if nprobe >= shape.nlist || lists_cost(shape, eligible, nprobe, fetch) >= exact_cost(shape, eligible, k) {
        return Method::Exact;
    }
    Method::Lists { nprobe, fetch }
}

/// Candidates to fetch for `k` results among `eligible`.
pub(crate) fn fetch_count(shape: Shape, effort: Effort, eligible: usize, k: usize) -> usize {
    if shape.compressed { k.saturating_mul(effort.overfetch.max(shape.overfetch).max(1)).min(eligible) } else { k }
}

fn exact_cost(shape: Shape, eligible: usize, k: usize) -> f64 {
    let apart = as_f64(eligible) < as_f64(shape.rows) * APART_BELOW;
    if !Sieve::pays(eligible, k) {
        return as_f64(eligible) * if apart { COST_APART } else { 1.0 };
    }
    let pass = if apart { as_f64(eligible) * COST_CODE_APART } else { as_f64(shape.rows) * COST_CODE };
    pass + as_f64(k) * FULL_PER_RESULT * COST_APART
}

fn lists_cost(shape: Shape, eligible: usize, nprobe: usize, fetch: usize) -> f64 {
    let visited = as_f64(shape.rows) * as_f64(nprobe) / as_f64(shape.nlist);
    let share = as_f64(eligible) / as_f64(shape.rows.max(1));
    // Codes are scored whether eligible or not, at little more than the visit; whole vectors only where eligible.
    let scored = if shape.compressed { 0.0 } else { visited * share };
    as_f64(shape.nlist) + visited * COST_VISIT + scored + as_f64(fetch) * COST_APART
}

#[expect(clippy::cast_precision_loss, reason = "an estimate from counts far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Shape = Shape { rows: 100_000, nlist: 632, compressed: false, probes: [0; DEPTHS], overfetch: 0 };
    const PQ: Shape = Shape { rows: 100_000, nlist: 632, compressed: true, probes: [0; DEPTHS], overfetch: 0 };
    const EFFORT: Effort = Effort { nprobe: 0, overfetch: 4, widened: 1.0 };

    #[test]
    fn few_eligible_items_are_scored_exactly() {
        for shape in [FLAT, PQ] {
            for eligible in [0, 1, 200, 1_000, 3_000] {
                assert_eq!(choose(shape, EFFORT, eligible, 200), Method::Exact, "{eligible}");
            }
        }
    }

    #[test]
    fn no_filter_uses_the_lists_as_set() {
        assert_eq!(choose(FLAT, EFFORT, 100_000, 200), Method::Lists { nprobe: 79, fetch: 200 });
        let tuned = Shape { probes: [30, 40, 60, 80], ..FLAT };
        assert_eq!(choose(tuned, EFFORT, 100_000, 20), Method::Lists { nprobe: 30, fetch: 20 });
        let wider = Effort { widened: 1.52, ..EFFORT };
        assert_eq!(choose(tuned, wider, 100_000, 20), Method::Lists { nprobe: 46, fetch: 20 });
        let set = Effort { nprobe: 100, ..wider };
        assert_eq!(choose(tuned, set, 100_000, 20), Method::Lists { nprobe: 100, fetch: 20 });
        let fetch_more = Shape { overfetch: 6, ..PQ };
        assert_eq!(choose(fetch_more, set, 100_000, 20), Method::Lists { nprobe: 100, fetch: 120 });
        assert_eq!(choose(PQ, set, 100_000, 200), Method::Lists { nprobe: 100, fetch: 800 });
    }

    #[test]
    fn a_narrow_filter_visits_more_lists_and_never_fewer() {
        let mut last = 0;
        for eligible in (1_000..=100_000).rev().step_by(1_000) {
            match choose(FLAT, Effort { nprobe: 20, overfetch: 1, widened: 1.0 }, eligible, 100) {
                Method::Lists { nprobe, .. } => {
                    assert!(nprobe >= last && nprobe >= 20);
                    last = nprobe;
                }
                Method::Exact => last = last.max(FLAT.nlist),
            }
        }
        assert!(last > 20);
    }

    /// Twice as many results, or half as many eligible, are one depth; what lies between and beyond is in proportion.
    #[test]
    fn effort_grows_with_depth() {
        let tuned = Shape { probes: [30, 40, 70, 90], ..FLAT };
        let visited = |eligible, k| probes_for(tuned, eligible, k);
        assert_eq!(visited(100_000, 1), 30);
        assert_eq!(visited(100_000, 200), 30);
        for (eligible, k) in [(100_000, 400), (50_000, 200), (25_000, 100)] {
            assert_eq!(visited(eligible, k), 40, "{eligible} {k}");
        }
        assert_eq!((visited(100_000, 700), visited(20_000, 200), visited(10_000, 200)), (55, 70, 90));
        assert_eq!(visited(5_000, 200), 180);
        let few_rows = Shape { rows: 1_000, ..tuned };
        assert_eq!(probes_for(few_rows, 1_000, 50), 30, "all depths are one where rows are few");
        assert_eq!(probes_for(few_rows, 1_000, 200), 180);
    }

    #[test]
    fn large_k_on_few_rows_is_exact() {
        assert_eq!(
            choose(
                Shape { rows: 500, nlist: 8, compressed: false, probes: [0; DEPTHS], overfetch: 0 },
                EFFORT,
                500,
                400
            ),
            Method::Exact
        );
    }
}
