//! A table that the kernels read: a layer's time bias by cells.

use super::params::{CELLS, Cell, TimeBias};
use crate::bucket::{BUCKETS, bucket_edges, time_bucket};

/// The time bias of `BUCKETS + 1` weights, in the form that the kernels read.
///
/// # Panics
/// Where there are not `BUCKETS + 1` weights.
#[must_use]
pub fn time_bias(weights: &[f32]) -> TimeBias {
    assert_eq!(weights.len(), BUCKETS + 1, "weights of a time table");
    let mut edges = [i64::MAX; BUCKETS + 2];
    edges[..=BUCKETS].copy_from_slice(bucket_edges());
    let mut halved = [0.0; BUCKETS + 2];
    for (to, from) in halved.iter_mut().zip(weights) {
        *to = from / 2.0;
    }
    let mut table = TimeBias {
        cells: [Cell { edge: i64::MAX, low: 0.0, high: 0.0 }; CELLS],
        edges,
        weights: halved,
        buckets: [0; CELLS],
    };
    for at in 0..CELLS {
        let (first, last) = (cell_start(at), cell_start(at + 1).saturating_sub(1).max(cell_start(at)));
        let (low, high) = (time_bucket(first), time_bucket(last));
        let edge = if high > low { edges[high] } else { i64::MAX };
        table.cells[at] = Cell { edge, low: halved[low], high: halved[high] };
        table.buckets[at] = u8::try_from(low).unwrap_or(u8::MAX);
    }
    table
}

/// The smallest whole number of cell `at`, at most 2^62: `2^(at / 4) * (1 + at % 4 / 4)`, rounded up.
fn cell_start(at: usize) -> i64 {
    let (octave, quarter) = (at / 4, i64::try_from(at % 4).unwrap_or(0));
    if octave >= 61 {
        return 1 << 62;
    }
    ((1_i64 << octave) * (4 + quarter) + 3) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel does with |difference| `d` above 0.
    fn weight(table: &TimeBias, d: i64) -> f32 {
        let mut float = d as f32;
        if float as f64 > d as f64 {
            float = f32::from_bits(float.to_bits() - 1);
        }
        let cell = table.cells[(float.to_bits() >> 21) as usize - (127 << 2)];
        if d >= cell.edge { cell.high } else { cell.low }
    }

    #[test]
    fn cells_give_the_bucket_of_every_difference() {
        let weights: Vec<f32> = (0..=BUCKETS).map(|b| 2.0 * b as f32).collect();
        let table = time_bias(&weights);
        let check = |d: i64| {
            let want = time_bucket(d);
            assert_eq!(weight(&table, d), want as f32, "difference {d}");
            let mut float = d as f32;
            if float as f64 > d as f64 {
                float = f32::from_bits(float.to_bits() - 1);
            }
            let cell = (float.to_bits() >> 21) as usize - (127 << 2);
            let found = usize::from(table.buckets[cell]) + usize::from(d >= table.cells[cell].edge);
            assert_eq!(found, want, "bucket of {d}");
        };
        (1..100_000).for_each(check);
        for &edge in &bucket_edges()[1..] {
            // Differences of times that the model lets in are below 2^54.
            (-3..=3).map(|i| edge + i).filter(|d| (1..1 << 54).contains(d)).for_each(check);
        }
        for octave in 0..54 {
            (-3..=3).map(|i| (1_i64 << octave) + i).filter(|d| *d >= 1).for_each(check);
        }
    }
}
