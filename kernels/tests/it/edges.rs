//! The time buckets inside the kernels, at every edge: each key is seen through a value column of its own.

use longbow_kernels::{
    BUCKETS, Bias, CandidateSeq, CausalSeq, KvFormat, KvPanels, MatrixMut, MatrixRef, Scoring, Shape, bucket_edges,
};
use rand::RngExt;

use crate::world::{engines, rng};

/// Keys of a call: one for each column of a value.
const KEYS: usize = 256;

/// The public formula, in f32.
#[expect(clippy::cast_possible_truncation, reason = "buckets are few")]
fn by_formula(difference: i64) -> usize {
    let magnitude = difference.unsigned_abs().max(1) as f32;
    ((magnitude.ln() / 0.301) as usize).min(BUCKETS)
}

/// Differences at every edge and one second beside it, in ascending order or shuffled among others.
fn differences(shuffled: bool) -> Vec<i64> {
    let mut list: Vec<i64> = bucket_edges()
        .iter()
        .filter(|&&edge| edge < 1 << 52)
        .flat_map(|&edge| [(edge - 1).max(0), edge, edge + 1])
        .collect();
    list.sort_unstable_by_key(|&d| std::cmp::Reverse(d));
    if shuffled {
        let mut rng = rng(51);
        for i in (1..list.len()).rev() {
            list.swap(i, rng.random_range(0..=i));
        }
        list.iter_mut().step_by(3).for_each(|d| *d = -*d);
    }
    list
}

#[test]
fn every_edge_within_a_second_falls_into_the_bucket_of_the_formula() {
    let shape = Shape { heads: 1, d_qk: 4, d_v: KEYS };
    // Neighbouring buckets differ by a half at least.
    let ts_w: Vec<f32> = (0..=BUCKETS).map(|b| [0.5, 1.0, 1.75][b % 3]).collect();
    let pos_w = vec![0.25_f32; 2 * (KEYS + 1) - 1];
    let bias = Bias { pos_w: &pos_w, ts_w: &ts_w, max_len: KEYS + 1 };
    let scoring = Scoring { bias: Some(bias), alpha: 1.0, scale: 1.0 };
    let identity: Vec<f32> = (0..KEYS * KEYS).map(|i| f32::from(u8::from(i / KEYS == i % KEYS))).collect();
    let (zero_keys, now) = (vec![0.0_f32; KEYS * 4], 1_700_000_000_i64);
    let mut seen = 0;
    for shuffled in [false, true] {
        for some in differences(shuffled).chunks(KEYS) {
            let times: Vec<i64> = some.iter().map(|d| now - d).chain(std::iter::repeat(now)).take(KEYS).collect();
            seen += some.len();
            for (engine, format) in engines().iter().flat_map(|e| [(e, KvFormat::F32), (e, KvFormat::Bf16)]) {
                let k = MatrixRef::dense(&zero_keys, KEYS, 4).expect("k");
                let v = MatrixRef::dense(&identity, KEYS, KEYS).expect("v");
                let kept = KvPanels::from_rows(shape, format, k, v).expect("panels");
                let kv = [kept.block(&times).expect("block")];
                let q = MatrixRef::one_row(&[0.0; 4]);
                let (mut last, mut candidate) = (vec![f32::NAN; KEYS], vec![f32::NAN; KEYS]);
                let out = MatrixMut::dense(&mut last, 1, KEYS).expect("out");
                let seq = CausalSeq { q, next_times: &[now], first_position: KEYS - 1, kv: &kv, out };
                engine.causal(shape, &scoring, &mut [seq]).expect("causal");
                let out = MatrixMut::dense(&mut candidate, 1, KEYS).expect("out");
                let (own_k, own_v) = (q, MatrixRef::one_row(&[0.0; KEYS]));
                let seq = CandidateSeq { q, own_k, own_v, query_time: now, kv: &kv, out };
                engine.candidates(shape, &scoring, &mut [seq]).expect("candidates");
                for (&d, (&a, &b)) in some.iter().zip(last.iter().zip(&candidate)) {
                    let z = 0.25 + ts_w[by_formula(d)];
                    let want = z / (1.0 + (-z).exp());
                    for got in [a, b] {
                        assert!(
                            (got - want).abs() < 0.02,
                            "{} {format}: difference {d}: {got}, not {want}",
                            engine.isa()
                        );
                    }
                }
            }
        }
    }
    assert!(seen > 2 * 3 * 110, "{seen} differences");
}
