//! Warm-up: every shape runs once before the device is ready, and the cost model is fitted to what it took.

use super::cost::{CostModel, Line, Sample, Work};
use super::handle::UserWindow;
use longbow_model::{Advance, EncodeError, Encoded, Encoder, Finish, ItemTable, Score};
use std::time::{Duration, Instant};

/// What is run before ready.
#[derive(Clone, Debug)]
pub struct WarmUp {
    /// Lengths of histories; those longer than the model takes are left out.
    pub lengths: Vec<usize>,
    /// Numbers of candidates scored against each.
    pub candidates: Vec<usize>,
    /// Whether the model's full length is run too, once. Where not, it has been run before on the same encoder.
    pub full_length: bool,
    /// Candidates scored against the full length: the most that a request may bring. 0: as against the others.
    pub candidates_max: usize,
    /// Rows of a slice of a long history.
    pub slice_rows: usize,
    /// Longest the warm-up may take: the full length is cut short beyond it.
    pub time_max: Duration,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self {
            lengths: vec![1, 16, 128, 512, 2_048],
            candidates: vec![1, 64, 512],
            full_length: true,
            candidates_max: 0,
            slice_rows: 512,
            time_max: Duration::from_secs(20),
        }
    }
}

/// A warm-up under way. What it computes is thrown away; what stays is the memory that the encoder has grown.
pub(crate) struct Rehearsal<'a> {
    encoder: &'a mut dyn Encoder,
    items: &'a ItemTable,
    shapes: &'a WarmUp,
    /// Says that nobody waits for the end any more.
    stopped: &'a dyn Fn() -> bool,
    began: Instant,
}

impl<'a> Rehearsal<'a> {
    pub(crate) fn new(
        encoder: &'a mut dyn Encoder,
        items: &'a ItemTable,
        shapes: &'a WarmUp,
        stopped: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { encoder, items, shapes, stopped, began: Instant::now() }
    }

    /// Runs every shape and fits a cost model to what it took. Ends early, with what there is, once it is stopped.
    pub(crate) fn run(mut self) -> Result<CostModel, EncodeError> {
        let full = self.encoder.config().max_sequence_len;
        let scores = self.encoder.config().num_tasks > 0;
        let mut lengths: Vec<usize> =
            self.shapes.lengths.iter().copied().filter(|&len| len > 0 && len < full).collect();
        if self.shapes.full_length {
            lengths.push(full);
        }
        let (mut encode, mut score) = (Vec::new(), Vec::new());
        for len in lengths {
            if (self.stopped)() {
                break;
            }
            let window = synthetic(len, self.items);
            let mut encoded = None;
            // The first run pays for pages and threads; the second is what serving looks like. Only short histories run twice.
            for round in 0..if len < full { 2 } else { 1 } {
                let measured = round == 1 || len == full;
                encoded = Some(self.history(&window, measured.then_some(&mut encode))?);
            }
            let Some(encoded) = encoded.filter(|_| scores) else { continue };
            let most = Some(self.shapes.candidates_max).filter(|&most| most > 0 && len == full);
            for count in self.shapes.candidates.iter().copied().chain(most) {
                score.push(self.candidates(&encoded, count)?);
            }
        }
        let fallback = CostModel::default();
        let cost = CostModel {
            encode: Line::fit(&encode).unwrap_or(fallback.encode),
            score: Line::fit(&score).unwrap_or(fallback.score),
        };
        tracing::info!(
            encode = ?cost.encode, score = ?cost.score, full_length = full,
            full_ms = cost.predict(Work::encode(0, full)).as_secs_f64() * 1e3,
            took_ms = self.began.elapsed().as_millis(), "encoder warmed up"
        );
        Ok(cost)
    }

    fn timed<T>(
        &mut self,
        run: impl FnOnce(&mut dyn Encoder) -> Result<T, EncodeError>,
    ) -> Result<(T, Duration), EncodeError> {
        let began = Instant::now();
        Ok((run(self.encoder)?, began.elapsed()))
    }

    /// Encodes a history in slices, and its last row.
    fn history(&mut self, window: &UserWindow, mut samples: Option<&mut Vec<Sample>>) -> Result<Encoded, EncodeError> {
        let (items, rows_max) = (self.items, self.shapes.slice_rows.max(1));
        let mut state = self.encoder.new_state();
        let mut push = |work: Work, took: Duration| {
            if let Some(samples) = &mut samples {
                samples.push(Sample { rows: work.rows, pairs: work.pairs, ms: took.as_secs_f64() * 1e3 });
            }
        };
        let mut part = window.part(0..window.len());
        while state.rows_missing(&part) > 0 {
            if self.began.elapsed() > self.shapes.time_max || (self.stopped)() {
                tracing::warn!(
                    rows = state.rows(),
                    of = window.len(),
                    "warm-up is slow: the full length was cut short"
                );
                part = window.part(0..state.rows() + 1);
                break;
            }
            let ready = state.rows();
            let jobs = &mut [Advance { state: &mut state, window: part, items, rows_max }];
            let ((), took) = self.timed(|encoder| encoder.advance(jobs))?;
            push(Work::append(ready, state.rows() - ready), took);
        }
        let query_time = window.times.last().map_or(0, |time| time + 60);
        let jobs = [Finish { state: &state, window: part, items, query_time }];
        let (mut encoded, took) = self.timed(|encoder| encoder.finish(&jobs))?;
        push(Work::finish(part.len()), took);
        encoded.pop().ok_or_else(|| EncodeError::Kernel("the encoder answered no job of one".to_owned()))
    }

    /// Scores `count` candidates twice; the second time counts.
    fn candidates(&mut self, encoded: &Encoded, count: usize) -> Result<Sample, EncodeError> {
        let items = self.items;
        let slots: Vec<u32> = slots(items).take(count).collect();
        let jobs = [Score { encoded, items, candidates: &slots }];
        self.timed(|encoder| encoder.score(&jobs))?;
        let (_, took) = self.timed(|encoder| encoder.score(&jobs))?;
        let work = Work::score(slots.len(), encoded.events());
        Ok(Sample { rows: work.candidates, pairs: work.candidate_pairs, ms: took.as_secs_f64() * 1e3 })
    }
}

/// Rows of the table over and over, the padding row left out.
fn slots(items: &ItemTable) -> impl Iterator<Item = u32> {
    let rows = u32::try_from(items.rows()).unwrap_or(u32::MAX);
    (1..rows).cycle()
}

/// A history of `len` events, ten minutes apart.
fn synthetic(len: usize, items: &ItemTable) -> UserWindow {
    let items: Vec<u32> = slots(items).take(len).collect();
    let times = (0..).step_by(600).map(|t| 1_700_000_000 + t).take(items.len()).collect();
    UserWindow { actions: vec![1; items.len()], times, items }
}
