//! Histories kept in bfloat16: the error rule, on every instruction set and on the model of the tiles.

use longbow_kernels::{CausalSeq, KvFormat, Scoring, Shape, reference, time_bucket};

use crate::world::{Kept, Tables, Times, User, engines, poisoned, rng};

/// The nearest bfloat16.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
fn round(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    f64::from(f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000))
}

/// The plain computation in bfloat16: every tensor between two operations is rounded.
fn naive(user: &User, first: usize, scoring: &Scoring<'_>, next: &[i64], own: bool) -> Vec<f64> {
    let Shape { heads, d_qk, d_v } = user.shape;
    let row = |data: &[f32], r: usize, at: usize, len: usize| -> Vec<f64> {
        data[r * user.stride + at..][..len].iter().map(|&x| round(f64::from(x))).collect()
    };
    let rows = if own { user.extra() } else { user.keys - first };
    let mut out = Vec::with_capacity(rows * heads * d_v);
    for i in 0..rows {
        let (at, position) = if own { (user.keys + i, user.keys) } else { (first + i, first + i) };
        let next = if own { user.query_time } else { next[first + i] };
        for h in 0..heads {
            let mut sum = vec![0.0; d_v];
            for j in (0..position).chain([at]) {
                let time = if own && j == at { user.query_time } else { user.times[j] };
                let place = if own && j == at { position } else { j };
                let bias = scoring.bias.as_ref().map_or(0.0, |b| {
                    let pos = round(f64::from(b.pos_w[b.max_len - 1 + place - position]));
                    round(pos + round(f64::from(b.ts_w[time_bucket(next.saturating_sub(time))])))
                });
                let (q, k) = (row(&user.q, at, h * d_qk, d_qk), row(&user.k, j, h * d_qk, d_qk));
                let dot: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                let z = round(round(round(dot) * f64::from(scoring.alpha)) + bias);
                let weight = round(round(z / (1.0 + (-z).exp())) * f64::from(scoring.scale));
                for (s, v) in sum.iter_mut().zip(row(&user.v, j, h * d_v, d_v)) {
                    *s += weight * v;
                }
            }
            out.extend(sum.into_iter().map(round));
        }
    }
    out
}

fn worst(got: impl Iterator<Item = f64>, want: &[f64]) -> f64 {
    got.zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, |m, x| if x.is_nan() { f64::INFINITY } else { m.max(x) })
}

/// `max|out - ref64| <= 2 max|naive - ref64| + 1e-3`: the rule for bf16. Outputs here are sums times 1 / N, and so is the
/// allowance.
#[test]
fn the_error_is_at_most_twice_that_of_the_plain_computation() {
    let mut rng = rng(41);
    let shapes = [(2, 32, 32), (1, 64, 64), (4, 16, 16), (2, 50, 50), (2, 40, 24), (1, 1, 1), (1, 130, 17)];
    for ((heads, d_qk, d_v), bias) in shapes.into_iter().flat_map(|s| [(s, true), (s, false)]) {
        let shape = Shape { heads, d_qk, d_v };
        let tables = Tables::new(500, bias, &mut rng);
        let scoring = tables.scoring();
        let allowed = 1e-3 * f64::from(scoring.scale);
        for (keys, extra, first) in [(300, 40, 0), (333, 17, 331), (65, 100, 20), (16, 1, 0), (1, 3, 0)] {
            let user = User::new(shape, keys, extra, Times::Bursts, &mut rng);
            let (next, exact, kept) = (user.next_times(), user.keep(KvFormat::F32), user.keep(KvFormat::Bf16));
            let (exact, blocks) = (exact.blocks(), Kept::blocks(&kept));
            let mut out = poisoned(keys - first, shape);
            let want =
                reference::causal(shape, &scoring, &user.causal(first, &next, &exact, &mut out)).expect("causal");
            let mut own = poisoned(extra, shape);
            let wanted =
                reference::candidates(shape, &scoring, &user.candidates(&exact, &mut own)).expect("candidates");
            let plain = worst(naive(&user, first, &scoring, &next, false).into_iter(), &want);
            let plain_own = worst(naive(&user, first, &scoring, &next, true).into_iter(), &wanted);
            for engine in engines() {
                let mut seqs: [CausalSeq<'_>; 1] = [user.causal(first, &next, &blocks, &mut out)];
                engine.causal(shape, &scoring, &mut seqs).expect("causal");
                let off = worst(out.iter().map(|&x| f64::from(x)), &want);
                assert!(
                    off <= 2.0 * plain + allowed,
                    "{}: {keys} keys from {first}, {shape:?}: {off:e}, {plain:e}",
                    engine.isa()
                );
                engine.candidates(shape, &scoring, &mut [user.candidates(&blocks, &mut own)]).expect("candidates");
                let off = worst(own.iter().map(|&x| f64::from(x)), &wanted);
                assert!(off <= 2.0 * plain_own + allowed, "{}: {keys} keys, {extra} candidates: {off:e}", engine.isa());
            }
        }
    }
}
