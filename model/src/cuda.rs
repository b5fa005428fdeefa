//! The encoder on a GPU: [`longbow_kernels::cuda`] on packed rows, states in pages of device memory.
//!
//! What callers see is what [`crate::CpuEncoder`] shows, to the rounding of bf16: states, windows, errors, and that a
//! job's result does not depend on the jobs beside it. [`FallbackEncoder`] goes on with the CPU once the device is lost.

mod fallback;
mod items;
mod pages;
mod pass;
mod place;
mod stage;
mod tier;
mod weights;

use std::sync::Arc;

use longbow_kernels::cuda::{CudaEngine, CudaError};

use crate::config::Config;
use crate::encoder::{Advance, EncodeError, Encoder, Finish, HostTier, Score, Scores, check_finish, check_version};
use crate::items::{ItemTable, l2_normalise};
use crate::model::{Model, Version};
use crate::state::{Block, Encoded, UserState};
use crate::window::{Window, check_items, check_time};

pub use fallback::{DeviceHealth, FallbackEncoder};
use items::ItemMirror;
pub(crate) use pages::DevicePages;
pub use pages::PagePool;
use pass::{Batch, Kind, Pass, Scratch, Started};
use place::Placed;
use tier::HostStore;
use weights::Weights;

/// Most rows of one pass over all jobs: bounds the scratch memory. Half of them may be of one job: a whole long history.
const PASS_ROWS: usize = 1 << 15;

/// The fast path on a GPU.
#[derive(Debug)]
pub struct CudaEncoder {
    model: Arc<Model>,
    engine: Arc<CudaEngine>,
    weights: Weights,
    pool: Arc<PagePool>,
    items: ItemMirror,
    scratch: Scratch,
    pass_rows: usize,
    host: Option<HostStore>,
}

/// Some candidates of a job, by its place among the jobs.
type Slice<'a> = (usize, &'a [u32]);

/// A job of [`Encoder::advance`] on its way.
struct Todo<'j, 'a> {
    job: &'j mut Advance<'a>,
    target: usize,
}

impl CudaEncoder {
    /// An encoder of `model` on `engine`, with `state_bytes` of device memory for users' K/V.
    ///
    /// # Errors
    /// [`CudaError`]: shapes that the kernels do not take, or too little memory.
    pub fn new(model: Arc<Model>, engine: Arc<CudaEngine>, state_bytes: usize) -> Result<Self, CudaError> {
        let weights = Weights::new(&model, &engine)?;
        let pool = PagePool::new(engine.device(), weights.shape, weights.layers.len(), state_bytes)?;
        let scratch = Scratch::new(engine.device())?;
        Ok(Self {
            model,
            engine,
            weights,
            pool,
            items: ItemMirror::default(),
            scratch,
            pass_rows: PASS_ROWS,
            host: None,
        })
    }

    /// The same with at most `rows` rows in one pass, instead of 32,768: less scratch memory, more passes.
    #[must_use]
    pub fn with_pass_rows(self, rows: usize) -> Self {
        Self { pass_rows: rows.max(2), ..self }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The kernels.
    #[must_use]
    pub fn engine(&self) -> &Arc<CudaEngine> {
        &self.engine
    }

    /// The users' pages.
    #[must_use]
    pub fn pool(&self) -> &Arc<PagePool> {
        &self.pool
    }

    /// Whether the device is lost: every call fails until the process ends.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.pool.lost()
    }

    /// Counts everything on the device as gone: somebody else found it lost.
    pub(crate) fn lose(&self) {
        self.pool.lose();
    }

    fn fault(&self, error: &CudaError) -> EncodeError {
        if error.lost() {
            self.pool.lose();
        }
        EncodeError::Kernel(error.to_string())
    }

    /// Starts a batch; the one before may still run.
    fn start(&mut self, items: &ItemTable, batch: &Batch, kind: Kind) -> Result<Started, EncodeError> {
        let result = self.items.follow(self.engine.device(), items).and_then(|moved| {
            if moved {
                self.scratch.forget_graphs();
            }
            let (engine, weights, items) = (&*self.engine, &self.weights, &self.items);
            let pass = Pass { engine, weights, items, pages: self.pool.store(), scratch: &mut self.scratch };
            pass.start(batch, kind)
        });
        result.map_err(|error| self.fault(&error))
    }

    /// Waits for a batch and gives what it computed to `take`.
    fn results<T>(&mut self, started: Started, take: impl FnOnce(&[f32]) -> T) -> Result<T, EncodeError> {
        let result = self.scratch.results(started).map(take);
        result.map_err(|error| self.fault(&error))
    }

    /// Runs a batch and gives what it computes to `take`.
    fn pass<T>(
        &mut self,
        items: &ItemTable,
        batch: &Batch,
        kind: Kind,
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, EncodeError> {
        let started = self.start(items, batch, kind)?;
        self.results(started, take)
    }

    /// Waits for everything, whatever became of it.
    fn settle(&mut self) -> Result<(), EncodeError> {
        let result = self.scratch.settle(self.engine.device());
        result.map_err(|error| self.fault(&error))
    }

    fn holds(&self, pages: Option<&DevicePages>) -> bool {
        pages.is_some_and(|pages| Arc::ptr_eq(&pages.pool, &self.pool) && pages.parked.is_empty())
    }

    /// One pass of [`Encoder::advance`]: the next slice of each job with the first job's item table that fits. It may still
    /// run; states hold its rows already, which counts once everything has ended well.
    fn advance_pass(&mut self, todo: &mut [Todo<'_, '_>]) -> Result<(), EncodeError> {
        let (mut batch, mut placed, mut total) = (Batch::default(), Vec::new(), 0);
        let mut table: Option<&ItemTable> = None;
        for (at, Todo { job, target }) in todo.iter_mut().enumerate() {
            let first = job.state.rows();
            let count = target.saturating_sub(first).min(self.pass_rows / 2);
            if count == 0 || total + count > self.pass_rows || table.is_some_and(|table| !items::same(table, job.items))
            {
                continue;
            }
            total += count;
            table = Some(job.items);
            let held = job.state.device.as_ref().map_or(&[][..], |pages| &pages.pages);
            let next_times = &job.window.times[first + 1..=first + count];
            placed.push((at, self.place(&mut batch, &job.window, (first, next_times), (held, false))?));
        }
        let Some(table) = table else { return Ok(()) };
        let _ = self.start(table, &batch, Kind::Keep)?;
        for (at, Placed { pages, rows, next_time }) in placed {
            let job = &mut *todo[at].job;
            job.state.reserve(&job.window, rows);
            if let Some(device) = &mut job.state.device {
                device.pages = pages;
            }
            job.state.commit(rows, next_time);
        }
        Ok(())
    }

    /// Rows `[n, D]` of the last layer for a whole window at once. For checks.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode_rows(
        &mut self,
        window: Window<'_>,
        items: &ItemTable,
        query_time: i64,
    ) -> Result<Vec<f32>, EncodeError> {
        window.check(&self.weights.config, items)?;
        check_time(query_time, window.len())?;
        let Some((_, later)) = window.times.split_first() else { return Ok(Vec::new()) };
        let next_times: Vec<i64> = later.iter().copied().chain([query_time]).collect();
        let mut batch = Batch::default();
        let _held = self.place(&mut batch, &window, (0, &next_times), (&[], false))?;
        self.rows_of(items, &batch, Kind::Rows)
    }

    /// Rows `[C, D]` of the last layer for one job's candidates. For checks.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn candidate_rows(&mut self, job: &Score<'_>) -> Result<Vec<f32>, EncodeError> {
        self.check_score(job)?;
        let mut batch = Batch::default();
        self.place_candidates(&mut batch, job.encoded, job.candidates);
        self.rows_of(job.items, &batch, Kind::CandidateRows)
    }

    /// Rows without their padding.
    fn rows_of(&mut self, items: &ItemTable, batch: &Batch, kind: Kind) -> Result<Vec<f32>, EncodeError> {
        let (d, full) = (self.weights.d, self.weights.config.embedding_dim);
        self.pass(items, batch, kind, |rows| rows.chunks_exact(d).flat_map(|row| &row[..full]).copied().collect())
    }

    fn check_finish(&self, job: &Finish<'_>) -> Result<(), EncodeError> {
        let held = if self.holds(job.state.device.as_ref()) { job.state.rows_valid(&job.window) } else { 0 };
        check_finish(job, (&self.weights.config, self.model.version()), held)
    }

    fn check_score(&self, job: &Score<'_>) -> Result<(), EncodeError> {
        check_version(self.model.version(), job.encoded.version())?;
        if !self.holds(job.encoded.device.as_ref()) {
            return Err(EncodeError::Kernel("the history was not encoded on this GPU".to_owned()));
        }
        check_items(job.candidates, 0, &self.weights.config, job.items)
    }

    /// The last rows of jobs with one item table, as many as fit into one pass.
    fn finish_pass(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        let (mut batch, mut placed) = (Batch::default(), Vec::with_capacity(jobs.len()));
        for job in jobs {
            let held = job.state.device.as_ref().map_or(&[][..], |pages| &pages.pages);
            placed.push(match job.window.len().checked_sub(1) {
                // The last row's page is the request's own: the state stays as it is.
                Some(last) => Some(self.place(&mut batch, &job.window, (last, &[job.query_time]), (held, true))?),
                None => None,
            });
        }
        let mut queries = Vec::new();
        if let Some(job) = jobs.first().filter(|_| !batch.items.is_empty()) {
            let (d, dim, epsilon) = (self.weights.d, self.weights.config.item_embedding_dim, self.weights.epsilon);
            queries = self.pass(job.items, &batch, Kind::Rows, |rows| -> Vec<Vec<f32>> {
                rows.chunks_exact(d).map(|row| row[..dim].to_vec()).collect()
            })?;
            queries.iter_mut().for_each(|query| l2_normalise(query, epsilon));
        }
        let mut queries = queries.into_iter();
        Ok(jobs
            .iter()
            .zip(placed)
            .map(|(job, placed)| {
                let held = job.window.len().saturating_sub(1);
                let time = job.window.times.last().copied().unwrap_or_default();
                let mut device = DevicePages::new(&self.pool);
                let tail = placed.map(|placed| {
                    device.pages = placed.pages;
                    Block::single(job.state.shape(), time)
                });
                let query = if tail.is_some() { queries.next().unwrap_or_default() } else { Vec::new() };
                Encoded {
                    version: job.state.version(),
                    blocks: job.state.share(held),
                    rows: held,
                    tail,
                    query_time: job.query_time,
                    query,
                    device: Some(device),
                }
            })
            .collect())
    }
}

impl CudaEncoder {
    /// Hands the probabilities of a pass to its jobs.
    fn take_scores(
        &mut self,
        started: Started,
        slices: &[Slice<'_>],
        scores: &mut [Scores],
    ) -> Result<(), EncodeError> {
        let tasks = self.weights.config.num_tasks;
        self.results(started, |mut from| {
            for (at, slice) in slices {
                let (mine, after) = from.split_at(slice.len() * tasks);
                scores[*at].probs.extend_from_slice(mine);
                from = after;
            }
        })
    }
}

impl Encoder for CudaEncoder {
    fn config(&self) -> &Config {
        &self.weights.config
    }

    fn version(&self) -> Version {
        self.model.version()
    }

    fn new_state(&self) -> UserState {
        UserState::on_device(self.model.version(), DevicePages::new(&self.pool))
    }

    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError> {
        let mut plans = Vec::with_capacity(jobs.len());
        for job in jobs.iter() {
            job.window.check_lengths(&self.weights.config)?;
            check_version(self.model.version(), job.state.version())?;
            let valid = if self.holds(job.state.device.as_ref()) { job.state.rows_valid(&job.window) } else { 0 };
            let wanted = job.window.len().saturating_sub(1);
            if valid < wanted {
                job.window.check_rows(valid, &self.weights.config, job.items)?;
            }
            plans.push((valid, wanted.min(valid.saturating_add(job.rows_max))));
        }
        let mut todo = Vec::with_capacity(jobs.len());
        for (job, (valid, target)) in jobs.iter_mut().zip(plans) {
            if valid < target {
                if !self.holds(job.state.device.as_ref()) {
                    *job.state = self.new_state();
                }
                job.state.truncate(valid);
                todo.push(Todo { job, target });
            }
        }
        let mut done = Ok(());
        while done.is_ok() && todo.iter().any(|t| t.job.state.rows() < t.target) {
            done = self.advance_pass(&mut todo);
        }
        let settled = self.settle();
        if settled.is_err() {
            for Todo { job, .. } in todo {
                *job.state = self.new_state();
            }
        }
        done.and(settled)
    }

    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        jobs.iter().try_for_each(|job| self.check_finish(job))?;
        let mut encoded = Vec::with_capacity(jobs.len());
        for alike in jobs.chunk_by(|a, b| items::same(a.items, b.items)) {
            for jobs in alike.chunks(self.pass_rows) {
                encoded.extend(self.finish_pass(jobs)?);
            }
        }
        Ok(encoded)
    }

    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError> {
        let tasks = self.weights.config.num_tasks;
        if tasks == 0 {
            return Err(EncodeError::NoHeads);
        }
        jobs.iter().try_for_each(|job| self.check_score(job))?;
        let mut scores: Vec<Scores> = jobs.iter().map(|_| Scores { tasks, probs: Vec::new() }).collect();
        let slices: Vec<Slice<'_>> = jobs
            .iter()
            .enumerate()
            .flat_map(|(at, job)| job.candidates.chunks(self.pass_rows / 2).map(move |c| (at, c)))
            .collect();
        let mut rest = &slices[..];
        // One pass computes while the next is put together and goes up.
        let mut open: Option<(Started, &[Slice<'_>])> = None;
        while let Some(((first, _), _)) = rest.split_first() {
            let table = jobs[*first].items;
            let mut rows = 0;
            let fits = |(at, slice): &&Slice<'_>| {
                rows += slice.len();
                rows <= self.pass_rows && items::same(jobs[*at].items, table)
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
            let mut batch = Batch::default();
            for (at, slice) in now {
                self.place_candidates(&mut batch, jobs[*at].encoded, slice);
            }
            let started = self.start(table, &batch, Kind::Probabilities)?;
            if let Some((before, slices)) = open.replace((started, now)) {
                self.take_scores(before, slices, &mut scores)?;
            }
            rest = later;
        }
        if let Some((last, slices)) = open {
            self.take_scores(last, slices, &mut scores)?;
        }
        Ok(scores)
    }
    fn host_tier(&self) -> Option<HostTier> {
        self.host.as_ref().map(HostStore::tier)
    }

    fn park(&mut self, state: &mut UserState) -> bool {
        self.park_pages(state).unwrap_or(false)
    }

    fn unpark(&mut self, state: &mut UserState) -> Result<(), EncodeError> {
        self.unpark_pages(state)
    }
}
