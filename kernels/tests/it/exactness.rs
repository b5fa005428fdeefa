//! What must hold bit for bit, and what to rounding.

use longbow_kernels::{Engine, Isa, KvFormat, Shape};

use crate::world::{Kept, Tables, Times, User, engines, error, poisoned, rng};

const SHAPE: Shape = Shape { heads: 2, d_qk: 24, d_v: 40 };

const FORMATS: [KvFormat; 2] = [KvFormat::F32, KvFormat::Bf16];

fn causal(engine: &Engine, tables: &Tables, users: &[&User], format: KvFormat) -> Vec<Vec<f32>> {
    let kept: Vec<_> = users.iter().map(|u| u.keep(format)).collect();
    let blocks: Vec<_> = kept.iter().map(Kept::blocks).collect();
    let next: Vec<_> = users.iter().map(|u| u.next_times()).collect();
    let mut outs: Vec<_> = users.iter().map(|u| poisoned(u.keys, SHAPE)).collect();
    let mut seqs = Vec::new();
    for (((u, next), kv), out) in users.iter().zip(&next).zip(&blocks).zip(&mut outs) {
        seqs.push(u.causal(0, next, kv, out));
    }
    engine.causal(SHAPE, &tables.scoring(), &mut seqs).expect("causal");
    drop(seqs);
    outs
}

fn candidates(engine: &Engine, tables: &Tables, users: &[&User], format: KvFormat) -> Vec<Vec<f32>> {
    let kept: Vec<_> = users.iter().map(|u| u.keep(format)).collect();
    let blocks: Vec<_> = kept.iter().map(Kept::blocks).collect();
    let mut outs: Vec<_> = users.iter().map(|u| poisoned(u.extra(), SHAPE)).collect();
    let mut seqs: Vec<_> = users.iter().zip(&blocks).zip(&mut outs).map(|((u, kv), o)| u.candidates(kv, o)).collect();
    engine.candidates(SHAPE, &tables.scoring(), &mut seqs).expect("candidates");
    drop(seqs);
    outs
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Alone, beside others, with one thread or three: the same bits.
#[test]
fn a_result_depends_on_its_own_sequence_only() {
    let mut rng = rng(11);
    let tables = Tables::new(3300, true, &mut rng);
    let users: Vec<User> = [(0, 2), (1, 1), (130, 7), (700, 150), (3201, 40), (77, 0)]
        .into_iter()
        .map(|(keys, extra)| User::new(SHAPE, keys, extra, Times::Bursts, &mut rng))
        .collect();
    let all: Vec<&User> = users.iter().collect();
    for isa in Isa::available() {
        for format in FORMATS {
            let (one, three) = (Engine::new(1, Some(isa)).expect("engine"), Engine::new(3, Some(isa)).expect("engine"));
            for run in [causal, candidates] {
                let together = run(&three, &tables, &all, format);
                for (user, batched) in all.iter().zip(&together) {
                    let alone = run(&one, &tables, &[*user], format);
                    assert_eq!(bits(batched), bits(&alone[0]), "{isa}, {format}: a user of {} keys", user.keys);
                }
            }
        }
    }
}

/// A neighbour full of NaN must not matter.
#[test]
fn a_poisoned_neighbour_changes_nothing() {
    let mut rng = rng(12);
    let tables = Tables::new(300, true, &mut rng);
    let good = User::new(SHAPE, 250, 30, Times::Sorted, &mut rng);
    let mut bad = User::new(SHAPE, 190, 20, Times::Wild, &mut rng);
    for x in bad.q.iter_mut().chain(&mut bad.k).chain(&mut bad.v) {
        *x = f32::NAN;
    }
    for (engine, format) in engines().into_iter().flat_map(|e| FORMATS.map(|f| (e.clone(), f))) {
        for run in [causal, candidates] {
            let alone = run(&engine, &tables, &[&good], format);
            let beside = run(&engine, &tables, &[&bad, &good, &bad], format);
            assert_eq!(bits(&alone[0]), bits(&beside[1]), "{}", engine.isa());
            assert!(beside[0].iter().all(|x| x.is_nan()), "{}: bad data must show", engine.isa());
        }
    }
}

/// Keys behind a row's position are not looked at.
#[test]
fn the_future_changes_nothing() {
    let mut rng = rng(13);
    let tables = Tables::new(300, true, &mut rng);
    let user = User::new(SHAPE, 260, 0, Times::Sorted, &mut rng);
    for (engine, format) in engines().into_iter().flat_map(|e| FORMATS.map(|f| (e.clone(), f))) {
        let before = causal(&engine, &tables, &[&user], format);
        for cut in [1, 63, 64, 100, 255] {
            let mut changed = User::new(SHAPE, 260, 0, Times::Sorted, &mut crate::world::rng(99));
            changed.stride = user.stride;
            changed.q = user.q.clone();
            changed.k = user.k.clone();
            changed.v = user.v.clone();
            changed.cuts = user.cuts.clone();
            changed.times[..=cut].copy_from_slice(&user.times[..=cut]);
            for x in changed.k[cut * user.stride..].iter_mut().chain(&mut changed.v[cut * user.stride..]) {
                *x = 7.5;
            }
            let after = causal(&engine, &tables, &[&changed], format);
            let width = SHAPE.v_width();
            assert_eq!(bits(&before[0][..cut * width]), bits(&after[0][..cut * width]), "{}: {cut}", engine.isa());
            assert_ne!(bits(&before[0]), bits(&after[0]));
        }
    }
}

/// A history appended in slices agrees with the whole to rounding.
#[test]
fn appends_agree_with_the_whole() {
    let mut rng = rng(14);
    let tables = Tables::new(3000, true, &mut rng);
    let user = User::new(SHAPE, 2900, 0, Times::Sorted, &mut rng);
    let (next, kept) = (user.next_times(), user.keep_whole(KvFormat::F32));
    let blocks = kept.blocks();
    let width = SHAPE.v_width();
    for engine in engines().into_iter().rev().take(2) {
        let whole = causal(&engine, &tables, &[&user], KvFormat::F32);
        for first in [0, 1, 1300, 2700, 2890, 2899] {
            let mut out = poisoned(user.keys - first, SHAPE);
            let mut seqs = [user.causal(first, &next, &blocks, &mut out)];
            engine.causal(SHAPE, &tables.scoring(), &mut seqs).expect("causal");
            let want: Vec<f64> = whole[0][first * width..].iter().map(|&x| f64::from(x)).collect();
            let off = error(&out, &want, tables.yardstick(SHAPE));
            assert!(off <= crate::world::ERROR_MAX, "{}: from {first}: {off:e}", engine.isa());
        }
    }
}

/// Instruction sets agree with the portable kernel to rounding.
#[test]
fn instruction_sets_agree() {
    let mut rng = rng(15);
    let tables = Tables::new(600, true, &mut rng);
    let user = User::new(SHAPE, 555, 60, Times::Wild, &mut rng);
    let engines = engines();
    for run in [causal, candidates] {
        let portable: Vec<f64> =
            run(&engines[0], &tables, &[&user], KvFormat::F32)[0].iter().map(|&x| f64::from(x)).collect();
        for engine in &engines[1..] {
            let off = error(&run(engine, &tables, &[&user], KvFormat::F32)[0], &portable, tables.yardstick(SHAPE));
            assert!(off <= crate::world::ERROR_MAX, "{}: {off:e}", engine.isa());
        }
    }
}
