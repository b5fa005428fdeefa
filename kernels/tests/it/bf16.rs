//! Histories kept in bfloat16: the error rule, on every instruction set and on the model of the tiles.

use longbow_kernels::{CausalSeq, Engine, Isa, KvFormat, Scoring, Shape, reference, time_bucket};
use proptest::prelude::*;

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
    let [q, k, v] = [&user.q, &user.k, &user.v].map(|x| x.iter().map(|&x| round(f64::from(x))).collect::<Vec<f64>>());
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
                let (q, k) = (&q[at * user.stride + h * d_qk..][..d_qk], &k[j * user.stride + h * d_qk..][..d_qk]);
                let dot: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                let z = round(round(round(dot) * f64::from(scoring.alpha)) + bias);
                let weight = round(round(z / (1.0 + (-z).exp())) * f64::from(scoring.scale));
                for (s, v) in sum.iter_mut().zip(&v[j * user.stride + h * d_v..][..d_v]) {
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

/// `max|out - ref64| <= 2 max|naive - ref64| + 1e-3`: the rule for bf16, for history rows from `first` on and for candidates.
/// Outputs here are sums times 1 / N, and so is the allowance.
fn check(tables: &Tables, user: &User, first: usize) {
    let (shape, scoring) = (user.shape, tables.scoring());
    let allowed = 1e-3 * f64::from(scoring.scale);
    let (keys, extra) = (user.keys, user.extra());
    let (next, exact, kept) = (user.next_times(), user.keep(KvFormat::F32), user.keep(KvFormat::Bf16));
    let (exact, blocks) = (exact.blocks(), Kept::blocks(&kept));
    let mut out = poisoned(keys - first, shape);
    let want = reference::causal(shape, &scoring, &user.causal(first, &next, &exact, &mut out)).expect("causal");
    let mut own = poisoned(extra, shape);
    let wanted = reference::candidates(shape, &scoring, &user.candidates(&exact, &mut own)).expect("candidates");
    let plain = worst(naive(user, first, &scoring, &next, false).into_iter(), &want);
    let plain_own = worst(naive(user, first, &scoring, &next, true).into_iter(), &wanted);
    for engine in engines() {
        let isa = engine.isa();
        let mut seqs: [CausalSeq<'_>; 1] = [user.causal(first, &next, &blocks, &mut out)];
        engine.causal(shape, &scoring, &mut seqs).expect("causal");
        let off = worst(out.iter().map(|&x| f64::from(x)), &want);
        assert!(off <= 2.0 * plain + allowed, "{isa}: {keys} keys from {first}, {shape:?}: {off:e}, {plain:e}");
        engine.candidates(shape, &scoring, &mut [user.candidates(&blocks, &mut own)]).expect("candidates");
        let off = worst(own.iter().map(|&x| f64::from(x)), &wanted);
        assert!(off <= 2.0 * plain_own + allowed, "{isa}: {keys} keys, {extra} candidates, {shape:?}: {off:e}");
    }
}

#[test]
fn the_error_is_at_most_twice_that_of_the_plain_computation() {
    let mut rng = rng(41);
    let shapes = [(2, 32, 32), (1, 64, 64), (4, 16, 16), (2, 50, 50), (2, 40, 24), (1, 1, 1), (1, 130, 17)];
    for ((heads, d_qk, d_v), bias) in shapes.into_iter().flat_map(|s| [(s, true), (s, false)]) {
        let tables = Tables::new(500, bias, &mut rng);
        for (keys, extra, first) in [(300, 40, 0), (333, 17, 331), (65, 100, 20), (16, 1, 0), (1, 3, 0)] {
            let user = User::new(Shape { heads, d_qk, d_v }, keys, extra, Times::Bursts, &mut rng);
            check(&tables, &user, first);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Histories, appends and candidates of any lengths and widths.
    #[test]
    fn the_error_rule_holds_for_any_shape(
        seed in any::<u64>(),
        (heads, d_qk, d_v) in (1_usize..3, 16_usize..=128, 16_usize..=128),
        (keys, extra, appended) in (1_usize..=700, 1_usize..=200, 1_usize..=200),
        (kind, bias) in (prop::sample::select(vec![Times::Sorted, Times::Bursts, Times::Wild]), any::<bool>()),
    ) {
        let mut rng = rng(seed);
        let tables = Tables::new(701, bias, &mut rng);
        let user = User::new(Shape { heads, d_qk, d_v }, keys, extra, kind, &mut rng);
        check(&tables, &user, keys.saturating_sub(appended));
    }
}

/// Rounding is seen: with pairs of bf16 multiplied, queries and weights are rounded too, so the outputs differ from those
/// of widened keys.
#[test]
fn pairs_are_multiplied_where_the_instruction_set_says_so() {
    let mut rng = rng(42);
    let tables = Tables::new(200, true, &mut rng);
    let user = User::new(Shape { heads: 1, d_qk: 32, d_v: 32 }, 150, 0, Times::Sorted, &mut rng);
    let (next, kept) = (user.next_times(), user.keep(KvFormat::Bf16));
    let blocks = kept.blocks();
    let outputs = |engine: &Engine| {
        let mut out = poisoned(user.keys, user.shape);
        let mut seqs = [user.causal(0, &next, &blocks, &mut out)];
        engine.causal(user.shape, &tables.scoring(), &mut seqs).expect("causal");
        out.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()
    };
    let engines = engines();
    let widened = outputs(&engines[0]);
    assert_eq!(engines[0].isa(), Isa::Portable);
    let size = widened.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    for engine in &engines[1..] {
        let off = worst(outputs(engine).into_iter(), &widened) / size;
        assert_eq!(off > 1e-4, engine.isa().multiplies_bf16(), "{}: {off:e}", engine.isa());
    }
}
