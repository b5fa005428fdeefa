//! The items that are searched: [`LiveIndex`] in host memory, and beside it, where a GPU searches, their vectors there.
//!
//! The index in host memory is the truth: what the GPU finds is ranked by its scores, and it answers whatever the GPU does
//! not (more results than [`longbow_kernels`] gives, a fault, an item that went while it was found).

use crate::config;
use crate::device::Gpu;
use longbow_index::{Change, Hits, IndexError, Kind, LiveIndex, Query, Retriever, Stats};
use parking_lot::Mutex;

#[cfg(feature = "cuda")]
use super::gpu::GpuItems;
#[cfg(not(feature = "cuda"))]
use absent::GpuItems;

/// Items by slot, which come and go while they are searched.
pub struct ItemIndex {
    live: LiveIndex,
    gpu: Option<GpuItems>,
    path: String,
    /// Held by a writer over both, so that they take changes in one order.
    writing: Mutex<()>,
}

/// Items to begin with: `vectors` holds as many entries for each slot as the index has.
#[derive(Clone, Copy)]
pub struct Items<'a> {
    /// Their slots.
    pub slots: &'a [u32],
    /// Their vectors, in the order of `slots`.
    pub vectors: &'a [f32],
}

impl ItemIndex {
    /// Around an index that holds `items` and nothing else, searched where `config` says; `gpu` is what the encoder uses.
    ///
    /// # Errors
    /// Where a GPU is demanded and cannot be used; the message says why.
    pub fn new(live: LiveIndex, items: Items<'_>, gpu: &Gpu, config: &config::Index) -> anyhow::Result<Self> {
        let (gpu, path) = match GpuItems::build(&live, items, gpu, config) {
            Ok(gpu) => {
                let path = gpu.path();
                (Some(gpu), path)
            }
            Err(why) if config.device == config::ModelDevice::Cuda => {
                return Err(why.context("index.device is \"cuda\", but the GPU cannot search the items"));
            }
            Err(why) => (None, format!("cpu ({}): {why:#}", live.kind())),
        };
        Ok(Self { live, gpu, path, writing: Mutex::new(()) })
    }

    /// Adds the item or replaces its vector; true if it was not there.
    ///
    /// # Errors
    /// As [`LiveIndex::apply`].
    pub fn put(&self, slot: u32, vector: &[f32]) -> Result<bool, IndexError> {
        let _turn = self.writing.lock();
        let done = self.live.apply(&[Change::Put { slot, vector }])?;
        if let Some(gpu) = &self.gpu {
            gpu.note(slot, Some(vector));
        }
        Ok(done.added == 1)
    }

    /// Removes the item; true if it was there.
    ///
    /// # Errors
    /// As [`LiveIndex::apply`].
    pub fn remove(&self, slot: u32) -> Result<bool, IndexError> {
        let _turn = self.writing.lock();
        let was_there = self.live.remove(slot)?;
        if let Some(gpu) = &self.gpu {
            gpu.note(slot, None);
        }
        Ok(was_there)
    }

    /// Whether the item is there.
    #[must_use]
    pub fn contains(&self, slot: u32) -> bool {
        self.live.contains(slot)
    }

    /// How the index in host memory does.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.live.stats()
    }

    /// What searches, and why, as it was decided when the index was made.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Queries that the GPU answered.
    #[must_use]
    pub fn on_gpu(&self) -> u64 {
        self.gpu.as_ref().map_or(0, GpuItems::answered)
    }
}

impl Retriever for ItemIndex {
    fn search(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        let Some(gpu) = &self.gpu else { return self.live.search(queries) };
        let found = gpu.search(queries, &self.live);
        let open: Vec<Query<'_>> =
            queries.iter().zip(&found).filter(|(_, hits)| hits.is_none()).map(|(query, _)| *query).collect();
        let mut rest = self.live.search(&open)?.into_iter();
        Ok(found.into_iter().map(|hits| hits.or_else(|| rest.next()).unwrap_or_default()).collect())
    }

    fn search_exact(&self, queries: &[Query<'_>]) -> Result<Vec<Hits>, IndexError> {
        self.live.search_exact(queries)
    }

    fn recall_of(&self, query: &Query<'_>) -> Result<f32, IndexError> {
        if self.gpu.is_none() {
            return self.live.recall_of(query);
        }
        let (found, truth) = (self.search(&[*query])?, self.live.search_exact(&[*query])?);
        Ok(found.first().zip(truth.first()).map_or(1.0, |(found, truth)| found.recall_against(truth)))
    }

    fn len(&self) -> usize {
        self.live.len()
    }

    fn dim(&self) -> usize {
        self.live.dim()
    }

    fn kind(&self) -> Kind {
        self.live.kind()
    }
}

/// Builds without the GPU path have no such items.
#[cfg(not(feature = "cuda"))]
mod absent {
    use super::{Gpu, Hits, Items, LiveIndex, Query, config};

    pub(super) enum GpuItems {}

    impl GpuItems {
        pub(super) fn build(_: &LiveIndex, _: Items<'_>, _: &Gpu, _: &config::Index) -> anyhow::Result<Self> {
            anyhow::bail!("this build has no GPU path")
        }

        pub(super) fn path(&self) -> String {
            match *self {}
        }

        pub(super) fn note(&self, _: u32, _: Option<&[f32]>) {
            match *self {}
        }

        pub(super) fn answered(&self) -> u64 {
            match *self {}
        }

        pub(super) fn search(&self, _: &[Query<'_>], _: &LiveIndex) -> Vec<Option<Hits>> {
            match *self {}
        }
    }
}
