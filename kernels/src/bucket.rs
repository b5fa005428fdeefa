//! Time differences to buckets. The public code computes, in f32,
//! `clamp(long(log(max(|d|, 1)) / 0.301), 0, 128)`; kernels compare integers with the bucket edges instead, which gives
//! the same bucket for every integer `d` and needs no logarithm.

use std::sync::LazyLock;

/// The largest bucket: there are `BUCKETS + 1` entries in a time table.
pub const BUCKETS: usize = 128;

/// Width of a bucket in natural logarithms.
const WIDTH: f32 = 0.301;

/// Edges plus, for each power of two, the bucket of that power (the start of a search of at most four steps).
struct Edges {
    edges: [i64; BUCKETS + 1],
    octave: [u8; 64],
}

static EDGES: LazyLock<Edges> = LazyLock::new(Edges::build);

/// The bucket of `magnitude >= 0`, by the f32 formula itself.
#[expect(clippy::cast_precision_loss, reason = "the formula rounds the integer difference to f32 first")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the quotient lies in 0..=146")]
fn by_formula(magnitude: u64) -> usize {
    let quotient = (magnitude.max(1) as f32).ln() / WIDTH;
    (quotient as usize).min(BUCKETS)
}

impl Edges {
    fn build() -> Self {
        let mut edges = [0_i64; BUCKETS + 1];
        let mut floor = 0_u64;
        for (bucket, edge) in edges.iter_mut().enumerate().skip(1) {
            // Smallest magnitude whose bucket is at least `bucket`: the formula never falls as the magnitude grows.
            let (mut low, mut high) = (floor, 1_u64 << 62);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if by_formula(middle) >= bucket { high = middle } else { low = middle }
            }
            floor = low;
            *edge = high.cast_signed();
        }
        let mut octave = [0_u8; 64];
        for (power, first) in octave.iter_mut().enumerate() {
            *first = u8::try_from(by_formula(1_u64 << power)).unwrap_or(u8::MAX);
        }
        Self { edges, octave }
    }
}

/// The smallest `|d|` of each bucket: `edges[b] <= |d| < edges[b + 1]` means bucket `b`. `edges[0]` is 0; two equal
/// neighbours mean that no integer falls into the first of them.
#[must_use]
pub fn bucket_edges() -> &'static [i64; BUCKETS + 1] {
    &EDGES.edges
}

/// The bucket (0 to [`BUCKETS`]) of a difference of two times in seconds; the sign does not matter.
#[must_use]
pub fn time_bucket(difference: i64) -> usize {
    let table = &*EDGES;
    let magnitude = difference.unsigned_abs().min(i64::MAX.unsigned_abs());
    let power = 63 - magnitude.max(1).leading_zeros() as usize;
    let mut bucket = usize::from(table.octave[power]);
    while bucket < BUCKETS && table.edges[bucket + 1].unsigned_abs() <= magnitude {
        bucket += 1;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bucket_edges, by_formula, time_bucket};

    #[test]
    fn equals_the_f32_formula_around_every_edge() {
        for (bucket, &edge) in bucket_edges().iter().enumerate() {
            for d in [edge - 1, edge, edge + 1] {
                let want = by_formula(d.unsigned_abs());
                assert_eq!(time_bucket(d), want, "difference {d} at the edge of bucket {bucket}");
                assert_eq!(time_bucket(-d), want, "difference -{d} at the edge of bucket {bucket}");
            }
        }
    }

    #[test]
    fn equals_the_f32_formula_for_small_and_sampled_differences() {
        for d in 0..200_000_i64 {
            assert_eq!(time_bucket(d), by_formula(d.unsigned_abs()), "difference {d}");
        }
        let mut d = 200_000_i64;
        while d < i64::MAX / 3 * 2 {
            assert_eq!(time_bucket(d), by_formula(d.unsigned_abs()), "difference {d}");
            d += d / 997 + 1;
        }
    }

    #[test]
    fn the_formula_is_monotone_near_every_edge() {
        for &edge in &bucket_edges()[1..] {
            let step = (edge >> 24).max(1);
            let around: Vec<usize> = (-64..=64).map(|k| by_formula((edge + k * step).max(0).unsigned_abs())).collect();
            assert!(around.is_sorted(), "around {edge}: {around:?}");
        }
    }

    #[test]
    fn extremes_fall_into_the_last_bucket() {
        assert_eq!(time_bucket(i64::MIN), BUCKETS);
        assert_eq!(time_bucket(i64::MAX), BUCKETS);
        assert_eq!(time_bucket(0), 0);
        assert_eq!(time_bucket(1), 0);
    }
}
