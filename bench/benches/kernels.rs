//! Criterion benches of the kernels: each instruction set on one thread, so that figures compare across machines.
#![allow(missing_docs, reason = "criterion's macros define undocumented items")]
#![expect(clippy::expect_used, reason = "a bench that cannot run should stop")]

#[path = "../src/attention/world.rs"]
mod world;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longbow_kernels::{Affine, Engine, Isa, KvFormat, LayerNorm, Linear, MatrixMut, MatrixRef, PackedMatrix, Shape};
use world::World;

const SHAPE: Shape = Shape { heads: 2, d_qk: 32, d_v: 32 };

fn engines() -> Vec<Engine> {
    Isa::available().into_iter().map(|isa| Engine::new(1, Some(isa)).expect("engine")).collect()
}

/// Whole histories; throughput in (query, key) pairs.
fn causal(c: &mut Criterion) {
    let mut group = c.benchmark_group("causal");
    group.sample_size(10);
    for n in [200_usize, 2000] {
        let mut world = World::new(SHAPE, n, 1, KvFormat::F32).expect("world");
        group.throughput(Throughput::Elements((n * n / 2) as u64));
        for engine in engines() {
            group.bench_with_input(BenchmarkId::new(engine.isa().to_string(), n), &n, |b, &n| {
                b.iter(|| world.attend(&engine, Some(n)).expect("causal"));
            });
        }
    }
    group.finish();
}

/// Few rows over a long history: an append of 1 and 8 rows, and 100 candidates.
fn long_history(c: &mut Criterion) {
    let mut group = c.benchmark_group("over 10000 keys");
    group.sample_size(10);
    let mut world = World::new(SHAPE, 10_000, 100, KvFormat::F32).expect("world");
    for engine in engines() {
        for rows in [1_usize, 8] {
            group.bench_with_input(
                BenchmarkId::new(engine.isa().to_string(), format!("append {rows}")),
                &rows,
                |b, &r| {
                    b.iter(|| world.attend(&engine, Some(r)).expect("append"));
                },
            );
        }
        group.bench_function(BenchmarkId::new(engine.isa().to_string(), "100 candidates"), |b| {
            b.iter(|| world.attend(&engine, None).expect("candidates"));
        });
    }
    group.finish();
}

/// The layers around the attention, for 10,000 rows of a small model.
fn dense(c: &mut Criterion) {
    let mut group = c.benchmark_group("dense, 10000 rows");
    group.sample_size(20);
    let (rows, d, wide) = (10_000, 64, 256);
    let (x, w) = (vec![0.5_f32; rows * d], vec![0.25_f32; d * wide]);
    let (x, w) = (MatrixRef::dense(&x, rows, d).expect("x"), MatrixRef::dense(&w, d, wide).expect("w"));
    let weight = PackedMatrix::new(w);
    let linear = Linear { weight: &weight, bias: None };
    let (mut y, mut z) = (vec![0.0_f32; rows * wide], vec![0.0_f32; rows * d]);
    let ones = vec![1.0_f32; d];
    for engine in engines() {
        let isa = engine.isa().to_string();
        group.bench_function(BenchmarkId::new(&isa, "product 64x256"), |b| {
            b.iter(|| engine.linear(x, linear, MatrixMut::dense(&mut y, rows, wide).expect("y")).expect("product"));
        });
        let plain = LayerNorm { epsilon: 1e-6, affine: None };
        group.bench_function(BenchmarkId::new(&isa, "norm, product, silu"), |b| {
            b.iter(|| {
                let y = MatrixMut::dense(&mut y, rows, wide).expect("y");
                engine.project(x, plain, linear, (wide, y)).expect("project");
            });
        });
        let affine = LayerNorm { epsilon: 1e-6, affine: Some(Affine { weight: &ones, bias: &ones }) };
        group.bench_function(BenchmarkId::new(&isa, "layer norm 64"), |b| {
            b.iter(|| {
                let z = MatrixMut::dense(&mut z, rows, d).expect("z");
                engine.layer_norm(x, affine, None, z).expect("norm");
            });
        });
    }
    group.finish();
}

criterion_group!(kernels, causal, long_history, dense);
criterion_main!(kernels);
