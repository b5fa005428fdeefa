//! Item vectors on a GPU and the search over them: every eligible item is scored.
//!
//! Changes wait in a list until the next search, which brings them to the device first: so a search sees every change whose
//! call returned before it began, and no writer waits for the device (one in [`CHANGES_MAX`] does, and brings them itself).

use super::items::Items;
use crate::config::{self, DeviceVectors, ModelDevice};
use crate::device::Gpu;
use anyhow::{Context, bail, ensure};
use longbow_index::{Hits, LiveIndex, Query, Retriever, unit};
use longbow_kernels::cuda::{Ask, CudaError, ItemSearch, K_MAX, Precision, RowScore};
use longbow_model::cuda::DeviceHealth;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Changes that wait at most.
const CHANGES_MAX: usize = 4_096;
/// With int8 vectors, candidates fetched for each result wanted: their exact scores then decide.
const INT8_FETCH: usize = 2;
/// How far a score of the device may be from the host's on the same rounded vectors: sums of f32 in another order.
const SCORE_TOLERANCE: f64 = 1e-4;
/// Items whose own vectors the device is tried with before it serves, and the results looked at.
const TRIALS: usize = 2;
const TRIAL_RESULTS: usize = 100;

/// Items on a GPU, by slot.
pub(super) struct GpuItems {
    search: Mutex<ItemSearch>,
    /// What the device does not know yet, the last word on each slot; none: the item is gone.
    changes: Mutex<HashMap<u32, Option<Vec<f32>>>>,
    health: Arc<DeviceHealth>,
    /// The device's items are no longer those of the index: it is not asked again.
    off: AtomicBool,
    answered: AtomicU64,
    path: String,
}

impl GpuItems {
    /// The vectors on the GPU of the encoder, tried against the host's own search.
    pub(super) fn build(live: &LiveIndex, items: Items<'_>, gpu: &Gpu, config: &config::Index) -> anyhow::Result<Self> {
        if config.device == ModelDevice::Cpu {
            bail!("index.device is \"cpu\"");
        }
        let (engine, health) = gpu.parts().context("the encoder is not on a GPU")?;
        let (precision, kept) = match config.device_vectors {
            DeviceVectors::Bf16 => (Precision::Bf16, "bf16"),
            DeviceVectors::Int8 => (Precision::Int8, "int8"),
        };
        let rows = items.slots.iter().max().map_or(0, |&last| last as usize + 1);
        // Room for items to come: growing later moves all of them once.
        let mut search = ItemSearch::new(engine, precision, live.dim(), rows + rows / 8)
            .with_context(|| format!("make room for {rows} items on the GPU"))?;
        search.put(items.slots, items.vectors).context("bring the items to the GPU")?;
        prove(&mut search, items).context("the GPU does not find what it should")?;
        let path = format!("cuda (exact over {kept}, {} MiB); after a fault {}", search.bytes() >> 20, live.kind());
        Ok(Self {
            search: Mutex::new(search),
            changes: Mutex::default(),
            health: Arc::clone(health),
            off: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            path,
        })
    }

    pub(super) fn path(&self) -> String {
        self.path.clone()
    }

    /// Queries answered.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    fn usable(&self) -> bool {
        !self.off.load(Relaxed) && !self.health.lost()
    }

    /// Takes a change: a new vector, or none for an item that is gone.
    pub(super) fn note(&self, slot: u32, vector: Option<&[f32]>) {
        if !self.usable() {
            return;
        }
        let waiting = {
            let mut changes = self.changes.lock();
            changes.insert(slot, vector.map(unit));
            changes.len()
        };
        if waiting >= CHANGES_MAX
            && let Err(error) = self.follow(&mut self.search.lock())
        {
            self.fault(&error);
        }
    }

    /// Brings the device in step. Where that fails it stays behind for good.
    fn follow(&self, search: &mut ItemSearch) -> Result<(), CudaError> {
        // Taken under the lock of the search: whoever comes later has later changes.
        let changes = std::mem::take(&mut *self.changes.lock());
        let (mut slots, mut vectors) = (Vec::new(), Vec::new());
        for (slot, vector) in changes {
            match vector {
                Some(vector) => {
                    slots.push(slot);
                    vectors.extend(vector);
                }
                None => search.remove(slot),
            }
        }
        let result = search.put(&slots, &vectors);
        if result.is_err() {
            self.off.store(true, Relaxed);
        }
        result
    }

    fn fault(&self, error: &CudaError) {
        self.health.note(error.lost());
        let off = !self.usable();
        tracing::error!(%error, off, "the GPU's search failed: the index in host memory answers");
    }

    /// Answers the queries that the device can; none for the others.
    pub(super) fn search(&self, queries: &[Query<'_>], live: &LiveIndex) -> Vec<Option<Hits>> {
        let mut hits: Vec<Option<Hits>> = queries.iter().map(|_| None).collect();
        if !self.usable() {
            return hits;
        }
        let mut search = self.search.lock();
        let (precision, dim) = (search.precision(), search.dim());
        let (mut places, mut asks) = (Vec::with_capacity(queries.len()), Vec::with_capacity(queries.len()));
        for (place, query) in queries.iter().enumerate() {
            // What the index refuses it shall refuse itself.
            let fits = query.vector.len() == dim && query.vector.iter().all(|x| x.is_finite());
            if let Some(k) = fetch(precision, query.k).filter(|_| fits) {
                let eligible = query.eligible.map(longbow_index::Bitmap::words);
                places.push(place);
                asks.push(Ask { vector: query.vector, k, eligible });
            }
        }
        if asks.is_empty() {
            return hits;
        }
        let found = self.follow(&mut search).and_then(|()| search.find(&asks));
        drop(search);
        match found {
            Ok(found) => {
                for (place, found) in places.into_iter().zip(found) {
                    hits[place] = ranked(&queries[place], &found, live);
                }
                let answered = hits.iter().flatten().count();
                self.answered.fetch_add(answered as u64, Relaxed);
            }
            Err(error) => self.fault(&error),
        }
        hits
    }
}

/// Candidates to fetch for `k` results; none for more than the device gives.
fn fetch(precision: Precision, k: usize) -> Option<usize> {
    let most = match precision {
        Precision::Bf16 => k,
        Precision::Int8 => (k * INT8_FETCH).min(K_MAX),
    };
    (k <= K_MAX).then_some(most)
}

/// The best of what was found, by exact scores; none where something of it has gone in the meantime.
fn ranked(query: &Query<'_>, found: &[RowScore], live: &LiveIndex) -> Option<Hits> {
    let slots: Vec<u32> = found.iter().map(|(slot, _)| *slot).collect();
    let hits = live.best_of(query, &slots).ok()?;
    (hits.len() == query.k.min(found.len())).then_some(hits)
}

/// Searches for some of the items themselves and holds what is found to the host's own search over the same rounded vectors:
/// kernels that find something else on this device would choose ads, too.
fn prove(search: &mut ItemSearch, items: Items<'_>) -> anyhow::Result<()> {
    let (dim, precision) = (search.dim(), search.precision());
    let count = items.slots.len();
    for trial in 0..TRIALS.min(count) {
        let query = &items.vectors[count * trial / TRIALS * dim..][..dim];
        let dot = |vector: &[f32]| -> f64 {
            precision.rounded(vector).iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let scores: HashMap<u32, f64> =
            items.slots.iter().copied().zip(items.vectors.chunks_exact(dim).map(dot)).collect();
        let mut best: Vec<f64> = scores.values().copied().collect();
        best.sort_by(|a, b| b.total_cmp(a));
        let found = search.find(&[Ask { vector: query, k: TRIAL_RESULTS.min(count), eligible: None }])?;
        let found = found.first().context("no answer")?;
        ensure!(found.len() == TRIAL_RESULTS.min(count), "{} results of {count} items", found.len());
        for (place, ((slot, score), best)) in found.iter().zip(&best).enumerate() {
            let own = scores.get(slot).with_context(|| format!("slot {slot} holds no item"))?;
            let worst = (f64::from(*score) - best).abs().max((f64::from(*score) - own).abs());
            ensure!(worst <= SCORE_TOLERANCE, "result {place} of trial {trial} scores {score}, the host says {best}");
        }
    }
    Ok(())
}
