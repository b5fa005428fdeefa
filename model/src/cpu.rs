//! The fast encoder: [`longbow_kernels`] on packed rows.
//!
//! The rows of all jobs of a call lie one after another in one matrix, so that each dense layer is one product;
//! attention runs for each job over that job's keys. A job is cut into slices by its own length only, and a
//! row's result in a product does not depend on the rows beside it: so no job can see its neighbours.

mod heads;
mod pass;
mod stu;
mod watch;
mod weights;

use std::sync::Arc;
use std::time::Duration;

use longbow_kernels::{Engine, KernelError, KvFormat, recycle};

use crate::config::Config;
use crate::encoder::{Advance, EncodeError, Encoder, Finish, Score, Scores, check_finish, check_version};
use crate::items::{ItemTable, l2_normalise};
use crate::model::{Model, Version};
use crate::state::{Encoded, UserState};
use crate::window::{Window, check_items, check_time};
use pass::{Candidates, Pass, Scratch, Slice, Tail};
pub use stu::CpuStuEncoder;
use watch::Watch;
pub use watch::{Stage, StageClock};
use weights::Weights;

/// Most rows of one job in one pass through the layers: enough to fill the kernels' tiles.
const SLICE_ROWS: usize = 1024;
/// Most rows of one pass over all jobs: bounds the scratch memory.
const PASS_ROWS: usize = 4096;

impl From<KernelError> for EncodeError {
    fn from(e: KernelError) -> Self {
        Self::Kernel(e.to_string())
    }
}

/// The fast path on a CPU. Scratch memory is kept between calls.
#[derive(Debug)]
pub struct CpuEncoder {
    model: Arc<Model>,
    engine: Arc<Engine>,
    weights: Weights,
    format: KvFormat,
    scratch: Scratch,
    lists: Lists,
}

/// Lists of the calls, kept empty between them for their memory.
#[derive(Debug, Default)]
struct Lists {
    plans: Vec<(usize, usize)>,
    todo: Vec<Todo<'static, 'static>>,
    slices: Vec<Slice<'static>>,
    tails: Vec<Tail<'static>>,
    parts: Vec<(usize, Candidates<'static>)>,
}

/// A job of [`Encoder::advance`] on its way.
#[derive(Debug)]
struct Todo<'j, 'a> {
    job: &'j mut Advance<'a>,
    target: usize,
}

impl CpuEncoder {
    /// An encoder of `model` on `engine`, whose states are kept in f32.
    ///
    /// # Panics
    /// Never: [`Model`] has checked the shapes of its tensors.
    #[must_use]
    pub fn new(model: Arc<Model>, engine: Arc<Engine>) -> Self {
        let weights = Weights::new(&model).unwrap_or_else(|e| unreachable!("a checked model: {e}"));
        let format = KvFormat::F32;
        Self { model, engine, weights, format, scratch: Scratch::default(), lists: Lists::default() }
    }

    /// The same encoder, with new states kept in `format`: bfloat16 takes half the memory, and on a CPU that multiplies it a
    /// fraction of the time. Its error is at most twice that of the plain computation in bf16, and 1e-3 ([`crate::golden::check_bf16`]).
    #[must_use]
    pub fn keeping(self, format: KvFormat) -> Self {
        Self { format, ..self }
    }

    /// What new states are kept in.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// The same encoder, with the memory it has grown, on another engine: warmed up beside the one that serves, say.
    #[must_use]
    pub fn on(self, engine: Arc<Engine>) -> Self {
        Self { engine, ..self }
    }

    /// Adds up from now on where the time of calls goes, by this clock.
    pub fn watch(&mut self, clock: StageClock) {
        self.scratch.watch = Watch::new(clock);
    }

    /// The time of each [`Stage`], in the order of [`Stage::ALL`], since the last take: nothing where no clock is given. Checks of
    /// jobs and what is made for an answer belong to no stage.
    pub fn take_stages(&mut self) -> [Duration; Stage::ALL.len()] {
        self.scratch.watch.take()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The kernels' engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Rows `[n, D]` of the last layer for a whole window at once, without a state: row i takes event i + 1's
    /// time as its next time, the last row `query_time`. Not normalised. For checks against other encoders.
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
        let mut state = self.new_state();
        state.reserve(&window, window.len());
        let slice = Slice { state: &mut state, window, items, first: 0, next_times: &next_times };
        let mut pass = self.pass();
        pass.history(&mut [slice], true)?;
        Ok(pass.rows().to_vec())
    }

    /// Rows `[C, D]` of the last layer for one job's candidates, before any norm. For checks.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn candidate_rows(&mut self, job: &Score<'_>) -> Result<Vec<f32>, EncodeError> {
        self.check_score(job)?;
        let mut rows = Vec::with_capacity(job.candidates.len() * self.weights.config.embedding_dim);
        for candidates in job.candidates.chunks(SLICE_ROWS) {
            let mut pass = self.pass();
            pass.candidates(&[(0, Candidates { encoded: job.encoded, items: job.items, candidates })])?;
            rows.extend_from_slice(pass.rows());
        }
        Ok(rows)
    }

    fn pass(&mut self) -> Pass<'_> {
        Pass::new(&self.engine, &self.weights, &mut self.scratch)
    }

    fn check_score(&self, job: &Score<'_>) -> Result<(), EncodeError> {
        check_version(self.model.version(), job.encoded.version())?;
        #[cfg(feature = "cuda")]
        if job.encoded.device.is_some() {
            return Err(EncodeError::Kernel("the history was encoded on a GPU, which is no longer in use".to_owned()));
        }
        check_items(job.candidates, 0, &self.weights.config, job.items)
    }

    /// Checks a job and says up to which row it goes; `valid` rows of its state are right.
    fn plan_advance(&self, job: &Advance<'_>, valid: usize) -> Result<usize, EncodeError> {
        check_version(self.model.version(), job.state.version())?;
        let wanted = job.window.len().saturating_sub(1);
        if valid < wanted {
            job.window.check_rows(valid, &self.weights.config, job.items)?;
        }
        Ok(wanted.min(valid.saturating_add(job.rows_max)))
    }

    /// One pass: the next slice of each job, for as many jobs as the pass holds.
    fn advance_pass(&mut self, todo: &mut [Todo<'_, '_>]) -> Result<(), EncodeError> {
        let mut slices = recycle(std::mem::take(&mut self.lists.slices));
        let mut total = 0;
        for Todo { job, target } in todo.iter_mut() {
            let first = job.state.rows();
            let count = target.saturating_sub(first).min(SLICE_ROWS);
            if count == 0 || total + count > PASS_ROWS {
                continue;
            }
            total += count;
            let next_times = &job.window.times[first + 1..=first + count];
            job.state.reserve(&job.window, first + count);
            slices.push(Slice { state: &mut *job.state, window: job.window, items: job.items, first, next_times });
        }
        self.pass().history(&mut slices, false)?;
        for slice in slices.drain(..) {
            slice.commit();
        }
        self.lists.slices = recycle(slices);
        Ok(())
    }

    /// The last rows of up to [`PASS_ROWS`] jobs.
    fn finish_pass(&mut self, jobs: &[Finish<'_>], encoded: &mut Vec<Encoded>) -> Result<(), EncodeError> {
        let mut tails: Vec<Tail<'_>> = recycle(std::mem::take(&mut self.lists.tails));
        tails.extend(jobs.iter().filter(|job| !job.window.is_empty()).map(Tail::new));
        let mut pass = self.pass();
        pass.history(&mut tails, true)?;
        let (width, dim, epsilon) = (pass.width(), pass.item_dim(), pass.epsilon());
        let mut rows = pass.rows().chunks_exact(width);
        let mut done = tails.drain(..);
        encoded.extend(jobs.iter().map(|job| {
            // An empty history has no last row, and so neither a tail nor a query.
            let (mut query, mut tail, mut held) = (Vec::new(), None, 0);
            if !job.window.is_empty() {
                query.extend_from_slice(&rows.next().unwrap_or_default()[..dim]);
                l2_normalise(&mut query, epsilon);
                tail = done.next().map(Tail::into_block);
                held = job.window.len() - 1;
            }
            Encoded {
                version: job.state.version(),
                blocks: job.state.share(held),
                rows: held,
                tail,
                query_time: job.query_time,
                query,
                #[cfg(feature = "cuda")]
                device: None,
            }
        }));
        drop(done);
        self.lists.tails = recycle(tails);
        Ok(())
    }

    fn check_finish(&self, job: &Finish<'_>) -> Result<(), EncodeError> {
        let held = job.state.rows_valid(&job.window);
        check_finish(job, (&self.weights.config, self.model.version()), held)
    }
}

impl Encoder for CpuEncoder {
    fn config(&self) -> &Config {
        &self.weights.config
    }

    fn version(&self) -> Version {
        self.model.version()
    }

    fn new_state(&self) -> UserState {
        UserState::with_format(&self.weights.config, self.model.version(), self.format)
    }

    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError> {
        let mut plans = recycle(std::mem::take(&mut self.lists.plans));
        for job in jobs.iter() {
            job.window.check_lengths(&self.weights.config)?;
            let valid = job.state.rows_valid(&job.window);
            plans.push((valid, self.plan_advance(job, valid)?));
        }
        let mut todo = recycle(std::mem::take(&mut self.lists.todo));
        for (job, &(valid, target)) in jobs.iter_mut().zip(&plans) {
            if valid < target {
                job.state.truncate(valid);
                todo.push(Todo { job, target });
            }
        }
        while todo.iter().any(|t| t.job.state.rows() < t.target) {
            self.advance_pass(&mut todo)?;
        }
        (self.lists.plans, self.lists.todo) = (plans, recycle(todo));
        Ok(())
    }

    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        jobs.iter().try_for_each(|job| self.check_finish(job))?;
        let mut encoded = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(PASS_ROWS) {
            self.finish_pass(jobs, &mut encoded)?;
        }
        Ok(encoded)
    }

    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError> {
        let tasks = self.weights.config.num_tasks;
        if tasks == 0 {
            return Err(EncodeError::NoHeads);
        }
        jobs.iter().try_for_each(|job| self.check_score(job))?;
        let room = |job: &Score<'_>| Scores { tasks, probs: Vec::with_capacity(job.candidates.len() * tasks) };
        let mut scores: Vec<Scores> = jobs.iter().map(room).collect();
        let mut slices = recycle(std::mem::take(&mut self.lists.parts));
        let mut total = 0;
        for (at, job) in jobs.iter().enumerate() {
            for candidates in job.candidates.chunks(SLICE_ROWS) {
                if total + candidates.len() > PASS_ROWS {
                    self.score_pass(&slices, &mut scores)?;
                    slices.clear();
                    total = 0;
                }
                total += candidates.len();
                slices.push((at, Candidates { encoded: job.encoded, items: job.items, candidates }));
            }
        }
        self.score_pass(&slices, &mut scores)?;
        self.lists.parts = recycle(slices);
        Ok(scores)
    }
}

impl CpuEncoder {
    /// Scores slices of candidates and adds the probabilities to the scores of their jobs.
    fn score_pass(&mut self, slices: &[(usize, Candidates<'_>)], scores: &mut [Scores]) -> Result<(), EncodeError> {
        if slices.is_empty() {
            return Ok(());
        }
        let mut pass = self.pass();
        pass.candidates(slices)?;
        let mut probs = pass.heads(slices)?;
        for (at, part) in slices {
            let (mine, rest) = probs.split_at(part.candidates.len() * scores[*at].tasks);
            scores[*at].probs.extend_from_slice(mine);
            probs = rest;
        }
        Ok(())
    }
}
