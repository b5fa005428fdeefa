//! Items searched on the GPU: what is found, changes, faults.

use super::{Small, device_of, metric, stand_in, write_bundle};
use crate::process::{Link, Process};
use longbow::config::{self, DeviceVectors, ModelDevice};
use longbow::device::{self, Gpu};
use longbow::retrieve::{ItemIndex, Items};
use longbow_index::{Bitmap, ExactRetriever, IndexOptions, Kind, LiveIndex, Query, Retriever};
use longbow_kernels::Engine;
use longbow_kernels::cuda::probe;
use longbow_model::{Bundle, CpuEncoder};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const DIM: usize = 24;

/// The GPU below a small model's encoder; none where there is none.
fn gpu() -> Option<Gpu> {
    if probe().is_err() {
        eprintln!("skipped: no GPU and no stand-in");
        return None;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("short");
    write_bundle(&path);
    let bundle = Bundle::open(&path).unwrap();
    let engine = Arc::new(Engine::new(1, None).unwrap());
    let cpu = CpuEncoder::new(Arc::clone(bundle.model()), Arc::clone(&engine));
    let room = device::Room { states: 16 << 20, host: 0 };
    Some(device::build(&bundle, cpu, &engine, ModelDevice::Cuda, room).unwrap().gpu)
}

fn settings(device_vectors: DeviceVectors) -> config::Index {
    config::Index { device: ModelDevice::Cuda, device_vectors, ..config::Index::default() }
}

fn vector(rng: &mut StdRng) -> Vec<f32> {
    (0..DIM).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
}

fn index(gpu: &Gpu, items: &BTreeMap<u32, Vec<f32>>, settings: &config::Index) -> anyhow::Result<ItemIndex> {
    let (slots, vectors): (Vec<u32>, Vec<Vec<f32>>) = items.iter().map(|(slot, v)| (*slot, v.clone())).unzip();
    let options = IndexOptions { merge_rows: 50, ..IndexOptions::new(DIM, Kind::Exact) };
    let unit: Vec<f32> = vectors.iter().flat_map(|vector| unit(vector)).collect();
    let live = LiveIndex::build(options, &slots, &unit).unwrap();
    ItemIndex::new(live, Items { slots: &slots, vectors: &unit }, gpu, settings)
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

#[test]
fn what_the_gpu_finds_is_what_the_host_would_find_through_all_changes() {
    let Some(gpu) = gpu() else { return };
    let mut rng = StdRng::seed_from_u64(31);
    for (kept, least) in [(DeviceVectors::Bf16, 0.97), (DeviceVectors::Int8, 0.97)] {
        let mut items: BTreeMap<u32, Vec<f32>> = (1..400).step_by(2).map(|slot| (slot, vector(&mut rng))).collect();
        let index = index(&gpu, &items, &settings(kept)).unwrap();
        assert!(index.path().starts_with("cuda (exact over"), "{}", index.path());
        let mut recalls = Vec::new();
        for round in 0..6 {
            for _ in 0..30 {
                // Later slots need more room than there was.
                let slot = rng.random_range(1..400 + 400 * round);
                if rng.random_bool(0.3) {
                    assert_eq!(index.remove(slot).unwrap(), items.remove(&slot).is_some());
                } else {
                    let new = vector(&mut rng);
                    assert_eq!(index.put(slot, &new).unwrap(), items.insert(slot, new).is_none());
                }
            }
            let slots: Vec<u32> = items.keys().copied().collect();
            let truth =
                ExactRetriever::new(DIM, &slots, &items.values().flatten().copied().collect::<Vec<_>>()).unwrap();
            let filters: Vec<Option<Bitmap>> = vec![
                None,
                Some((0..3000).filter(|_| rng.random_bool(0.5)).collect()),
                Some((0..3000).filter(|_| rng.random_bool(0.01)).collect()),
                Some(Bitmap::new()),
            ];
            let vectors: Vec<Vec<f32>> = (0..10).map(|_| unit(&vector(&mut rng))).collect();
            let queries: Vec<Query<'_>> = (0..)
                .zip(&vectors)
                .map(|(at, vector)| Query {
                    vector,
                    k: [0, 1, 10, 60, 1024][at % 5],
                    eligible: filters[at % 4].as_ref(),
                })
                .collect();
            let before = index.on_gpu();
            let (found, exact) = (index.search(&queries).unwrap(), truth.search(&queries).unwrap());
            assert_eq!(index.on_gpu() - before, queries.len() as u64);
            for ((query, found), exact) in queries.iter().zip(&found).zip(&exact) {
                assert_eq!(found.len(), exact.len(), "k = {}", query.k);
                recalls.push(found.recall_against(exact));
                let named = found.slots.iter().copied().collect();
                // The same scores in the same order as the host gives these very items.
                let again = truth.search(&[Query { eligible: Some(&named), ..*query }]).unwrap();
                assert_eq!(found.slots, again[0].slots);
                for (a, b) in found.scores.iter().zip(&again[0].scores) {
                    assert!((a - b).abs() < 1e-6, "{a} and {b}");
                }
            }
        }
        let mean = recalls.iter().sum::<f32>() / recalls.len() as f32;
        eprintln!("{kept:?}: recall {mean}");
        assert!(mean >= least, "{kept:?}: {mean}");
    }
}

#[test]
fn what_the_gpu_does_not_do_the_index_in_host_memory_does() {
    let Some(gpu) = gpu() else { return };
    let mut rng = StdRng::seed_from_u64(32);
    let items: BTreeMap<u32, Vec<f32>> = (1..1500).map(|slot| (slot, vector(&mut rng))).collect();
    let index = index(&gpu, &items, &settings(DeviceVectors::Bf16)).unwrap();
    let query = unit(&vector(&mut rng));
    let many = Query { vector: &query, k: 1025, eligible: None };
    let few = Query { k: 3, ..many };
    let hits = index.search(&[many, few, many]).unwrap();
    assert_eq!((hits[0].len(), hits[1].len(), hits[2].len(), index.on_gpu()), (1025, 3, 1025, 1));
    assert_eq!(hits[1].slots, hits[0].slots[..3]);
    assert_eq!(hits, [hits[0].clone(), hits[1].clone(), hits[0].clone()]);
    let error = index.search(&[few, Query { vector: &query[1..], ..few }]).unwrap_err();
    assert!(error.to_string().contains("the index holds 24"), "{error}");
    // Too few changes to be brought to the device by their writer, then enough.
    for round in 0..2 {
        for slot in 1..4500_u32 {
            index.put(slot, &unit(&[slot as f32; DIM])).unwrap();
        }
        index.put(7 + round, &query).unwrap();
        assert_eq!(index.search(&[few]).unwrap()[0].slots[0], 7 + round);
    }
}

#[test]
fn a_gpu_that_is_demanded_for_the_search_and_absent_is_an_error_and_else_the_reason_is_told() {
    let items = (1..20).map(|slot| (slot, vec![1.0; DIM])).collect();
    let error = index(&Gpu::default(), &items, &settings(DeviceVectors::Bf16)).map(drop).unwrap_err();
    assert!(
        format!("{error:#}").contains("index.device") && format!("{error:#}").contains("not on a GPU"),
        "{error:#}"
    );
    let auto = config::Index { device: ModelDevice::Auto, ..settings(DeviceVectors::Bf16) };
    assert_eq!(index(&Gpu::default(), &items, &auto).unwrap().path(), "cpu (exact): the encoder is not on a GPU");
    let Some(gpu) = gpu() else { return };
    let cpu = config::Index { device: ModelDevice::Cpu, ..auto };
    assert_eq!(index(&gpu, &items, &cpu).unwrap().path(), "cpu (exact): index.device is \"cpu\"");
}

/// Items that fit somebody without a history, best first.
fn similar(server: &Process) -> (u16, Vec<String>) {
    let ask = json!({"user": "nobody", "k": 20, "objective": "similarity", "deadline_ms": 20_000});
    let reply = Link::new(server.http).call("POST", "/v1/rank", &ask.to_string());
    let answer: Value = if reply.body.is_empty() { Value::Null } else { reply.json() };
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    (reply.status, items.iter().map(|item| item["id"].to_string()).collect())
}

#[test]
fn a_gpu_lost_in_a_search_leaves_the_index_in_host_memory() {
    if !stand_in() {
        return eprintln!("skipped: not the stand-in driver");
    }
    let small = Small::new(&["model.device=cuda", "index.device=cuda", "index.device_vectors=int8"]);
    let mark = small.data.with_extension("fail");
    let server = small.start(&[("LONGBOW_STAND_IN_FAIL_FILE", mark.to_str().unwrap())]);
    assert!(device_of(&server).starts_with("cuda (stand-in"));
    let models = Link::new(server.admin).call("GET", "/v1/models", "").json();
    assert!(models["current"]["search"].as_str().unwrap().starts_with("cuda (exact over int8"), "{models}");
    let on_gpu = similar(&server);
    assert_eq!((on_gpu.0, on_gpu.1.len()), (200, 20), "{on_gpu:?}");
    let until = std::time::Instant::now() + crate::process::PATIENCE;
    while metric(&server, "longbow_gpu_searches_total") == Some(0.0) {
        assert!(std::time::Instant::now() < until, "no search is counted");
    }
    // The search is the first to touch the lost device.
    std::fs::write(&mark, "").unwrap();
    // It was found lost while this request was under way, whose history lay on it.
    assert_eq!(similar(&server).0, 503);
    assert_eq!(similar(&server), on_gpu, "the index in host memory answers as the GPU did");
    while metric(&server, "longbow_gpu_lost") != Some(1.0) {
        assert!(std::time::Instant::now() < until, "the loss is not told");
    }
    assert_eq!(server.wait().code(), Some(1), "whoever watches the process starts another");
    let log = crate::process::log(&small.data);
    assert!(log.contains("the index in host memory answers") && log.contains("the GPU is lost"), "{log}");
}
