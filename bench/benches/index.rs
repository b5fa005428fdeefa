//! Criterion benches of retrieval: each kind, with and without a filter.

#![expect(clippy::unwrap_used, reason = "a bench stops at the first fault")]

#[path = "../src/index/world.rs"]
mod world;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use longbow_index::{Bitmap, IndexOptions, Kind, LiveIndex, Query, Retriever};
use std::hint::black_box;

const ITEMS: u32 = 100_000;
const DIM: usize = 64;
const K: usize = 200;

fn search(criterion: &mut Criterion) {
    let items = world::vectors(7, ITEMS as usize, DIM, 500);
    let queries = world::vectors(8, 64, DIM, 500);
    let slots: Vec<u32> = (1..=ITEMS).collect();
    let filters: [(&str, Option<Bitmap>); 3] = [
        ("100%", None),
        ("10%", Some(slots.iter().copied().filter(|slot| slot % 10 == 3).collect())),
        ("1%", Some(slots.iter().copied().filter(|slot| slot % 100 == 3).collect())),
    ];
    let mut group = criterion.benchmark_group("index");
    group.sample_size(20);
    for kind in [Kind::Exact, Kind::IvfFlat { nlist: 0 }, Kind::IvfPq { nlist: 0, m: 32 }] {
        let index = LiveIndex::build(IndexOptions::new(DIM, kind), &slots, &items).unwrap();
        for (name, filter) in &filters {
            let mut vectors = queries.chunks_exact(DIM).cycle();
            group.bench_function(BenchmarkId::new(kind.to_string(), name), |bencher| {
                bencher.iter(|| {
                    let vector = vectors.next().unwrap();
                    black_box(index.search(&[Query { vector, k: K, eligible: filter.as_ref() }]).unwrap())
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default(); targets = search }
criterion_main!(benches);
