//! Every instruction set against the f64 reference.

use longbow_kernels::{Engine, KvFormat, Shape, reference};
use proptest::prelude::*;
use rand::rngs::StdRng;

use crate::world::{ERROR_MAX, Kept, Tables, Times, User, engines, error, poisoned, rng};

/// Runs whole histories, appends of their last rows, and candidates of all `users` on `engine`, each as one batch.
fn check(engine: &Engine, tables: &Tables, users: &[User], appended: usize) {
    let shape = users[0].shape;
    let scoring = tables.scoring();
    let kept: Vec<_> = users.iter().map(|u| u.keep(KvFormat::F32)).collect();
    let blocks: Vec<_> = kept.iter().map(Kept::blocks).collect();
    let next: Vec<_> = users.iter().map(User::next_times).collect();
    for tail in [usize::MAX, appended] {
        let firsts: Vec<usize> = users.iter().map(|u| u.keys.saturating_sub(tail)).collect();
        let mut outs: Vec<_> = users.iter().zip(&firsts).map(|(u, f)| poisoned(u.keys - f, shape)).collect();
        let mut seqs = Vec::new();
        for ((((u, &first), next), kv), out) in users.iter().zip(&firsts).zip(&next).zip(&blocks).zip(&mut outs) {
            seqs.push(u.causal(first, next, kv, out));
        }
        let want: Vec<_> = seqs.iter().map(|s| reference::causal(shape, &scoring, s).expect("reference")).collect();
        engine.causal(shape, &scoring, &mut seqs).expect("causal");
        drop(seqs);
        for (((u, out), want), first) in users.iter().zip(&outs).zip(&want).zip(&firsts) {
            let off = error(out, want, tables.yardstick(shape));
            assert!(off <= ERROR_MAX, "{}: {} keys from {first}, {shape:?}: error {off:e}", engine.isa(), u.keys);
        }
    }
    let mut outs: Vec<_> = users.iter().map(|u| poisoned(u.extra(), shape)).collect();
    let mut seqs: Vec<_> = users.iter().zip(&blocks).zip(&mut outs).map(|((u, kv), o)| u.candidates(kv, o)).collect();
    let want: Vec<_> = seqs.iter().map(|s| reference::candidates(shape, &scoring, s).expect("reference")).collect();
    engine.candidates(shape, &scoring, &mut seqs).expect("candidates");
    drop(seqs);
    for ((u, out), want) in users.iter().zip(&outs).zip(&want) {
        let off = error(out, want, tables.yardstick(shape));
        let rows = u.extra();
        assert!(off <= ERROR_MAX, "{}: {rows} candidates, {} keys, {shape:?}: error {off:e}", engine.isa(), u.keys);
    }
}

fn batch(shape: Shape, lengths: &[(usize, usize)], kind: Times, rng: &mut StdRng) -> Vec<User> {
    lengths.iter().map(|&(keys, extra)| User::new(shape, keys, extra, kind, rng)).collect()
}

#[test]
fn ragged_batches_of_common_shapes() {
    let lengths = [(0, 3), (1, 1), (2, 0), (63, 5), (64, 13), (65, 1), (200, 27), (321, 100)];
    let mut rng = rng(1);
    for (heads, d_qk, d_v) in [(2, 32, 32), (1, 64, 64), (4, 16, 16), (2, 50, 50), (8, 25, 25), (2, 40, 24), (1, 1, 1)]
    {
        for (kind, bias) in [(Times::Sorted, true), (Times::Bursts, true), (Times::Wild, true), (Times::Sorted, false)]
        {
            let tables = Tables::new(400, bias, &mut rng);
            let users = batch(Shape { heads, d_qk, d_v }, &lengths, kind, &mut rng);
            for engine in engines() {
                check(&engine, &tables, &users, 3);
            }
        }
    }
}

#[test]
fn every_head_width() {
    let mut rng = rng(2);
    for d in 1..=256 {
        let shape = Shape { heads: 1, d_qk: d, d_v: 257 - d };
        let tables = Tables::new(90, true, &mut rng);
        let users = batch(shape, &[(70, 7)], Times::Sorted, &mut rng);
        for engine in engines() {
            check(&engine, &tables, &users, 2);
        }
    }
}

#[test]
fn few_rows_over_a_long_history() {
    let mut rng = rng(3);
    let shape = Shape { heads: 2, d_qk: 32, d_v: 32 };
    let tables = Tables::new(5200, true, &mut rng);
    for (kind, rows) in [(Times::Sorted, 1), (Times::Bursts, 8), (Times::Wild, 31), (Times::Sorted, 140)] {
        let user = User::new(shape, 5000, rows, kind, &mut rng);
        let (next, kept) = (user.next_times(), user.keep(KvFormat::F32));
        let blocks = kept.blocks();
        for engine in engines() {
            let scoring = tables.scoring();
            let mut out = poisoned(rows, shape);
            let mut seqs = [user.causal(5000 - rows, &next, &blocks, &mut out)];
            let want = reference::causal(shape, &scoring, &seqs[0]).expect("reference");
            engine.causal(shape, &scoring, &mut seqs).expect("causal");
            let off = error(&out, &want, tables.yardstick(shape));
            assert!(off <= ERROR_MAX, "{}: append of {rows} rows: error {off:e}", engine.isa());
            let mut out = poisoned(rows, shape);
            let mut seqs = [user.candidates(&blocks, &mut out)];
            let want = reference::candidates(shape, &scoring, &seqs[0]).expect("reference");
            engine.candidates(shape, &scoring, &mut seqs).expect("candidates");
            let off = error(&out, &want, tables.yardstick(shape));
            assert!(off <= ERROR_MAX, "{}: {rows} candidates: error {off:e}", engine.isa());
        }
    }
}

#[test]
fn tall_tiles() {
    let mut rng = rng(4);
    let shape = Shape { heads: 1, d_qk: 16, d_v: 16 };
    let tables = Tables::new(1100, true, &mut rng);
    let users = batch(shape, &[(1003, 0)], Times::Sorted, &mut rng);
    for engine in engines() {
        check(&engine, &tables, &users, 970);
    }
}

/// Scores large enough that SiLU saturates on both sides.
#[test]
fn extreme_scores_stay_finite_and_right() {
    let mut rng = rng(5);
    let shape = Shape { heads: 1, d_qk: 8, d_v: 8 };
    let tables = Tables::new(128, true, &mut rng);
    let mut user = User::new(shape, 100, 9, Times::Sorted, &mut rng);
    for x in user.q.iter_mut().chain(&mut user.k) {
        *x *= 30.0;
    }
    for engine in engines() {
        check(&engine, &tables, std::slice::from_ref(&user), 4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_batch(
        seed in any::<u64>(),
        (heads, d_qk, d_v) in (1_usize..4, 1_usize..70, 1_usize..70),
        lengths in prop::collection::vec((0_usize..150, 0_usize..30), 1..5),
        (kind, bias) in (prop::sample::select(vec![Times::Sorted, Times::Bursts, Times::Wild]), any::<bool>()),
        appended in 1_usize..40,
    ) {
        let mut rng = rng(seed);
        let tables = Tables::new(151, bias, &mut rng);
        let users = batch(Shape { heads, d_qk, d_v }, &lengths, kind, &mut rng);
        for engine in engines() {
            check(&engine, &tables, &users, appended);
        }
    }
}
