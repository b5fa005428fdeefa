//! Warm-up: every shape runs once before the device is ready, and the cost model is fitted to what it took.

use super::cost::{CostModel, Line, Sample, Work};
use super::execute::{Executor, Fault};
use super::handle::UserWindow;
use longbow_model::{Advance, Encoded, Finish, ItemTable, Score};
use std::time::{Duration, Instant};

/// What is run before ready.
#[derive(Clone, Debug)]
pub struct WarmUp {
    /// Lengths of histories; the model's full length is always added, and longer ones are left out.
    pub lengths: Vec<usize>,
    /// Numbers of candidates scored against each.
    pub candidates: Vec<usize>,
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
            slice_rows: 512,
            time_max: Duration::from_secs(20),
        }
    }
}

/// Runs every shape and fits the cost model. The states are thrown away.
pub(super) fn warm_up(executor: &mut Executor, shapes: &WarmUp) -> Result<(), Fault> {
    let began = Instant::now();
    let full = executor.encoder.config().max_sequence_len;
    let scores = executor.encoder.config().num_tasks > 0;
    let items = executor.items.load_full();
    let mut lengths: Vec<usize> = shapes.lengths.iter().copied().filter(|&len| len > 0 && len < full).collect();
    lengths.push(full);
    let (mut encode, mut score) = (Vec::new(), Vec::new());
    for len in lengths {
        let window = synthetic(len, &items);
        let mut encoded = None;
        // The first run pays for pages and threads; the second is what serving looks like. Only short histories run twice.
        for round in 0..if len < full { 2 } else { 1 } {
            let measured = round == 1 || len == full;
            encoded = Some(history(executor, &window, shapes, began, measured.then_some(&mut encode))?);
        }
        let Some(encoded) = encoded.filter(|_| scores) else { continue };
        for &count in &shapes.candidates {
            let sample = candidates(executor, &encoded, count, &items)?;
            score.push(sample);
        }
    }
    let fallback = CostModel::default();
    executor.cost = CostModel {
        encode: Line::fit(&encode).unwrap_or(fallback.encode),
        score: Line::fit(&score).unwrap_or(fallback.score),
    };
    tracing::info!(
        encode = ?executor.cost.encode, score = ?executor.cost.score, full_length = full,
        full_ms = executor.cost.predict(Work::encode(0, full)).as_secs_f64() * 1e3,
        took_ms = began.elapsed().as_millis(), "device warmed up"
    );
    Ok(())
}

/// Encodes a history in slices, and its last row.
fn history(
    executor: &mut Executor,
    window: &UserWindow,
    shapes: &WarmUp,
    began: Instant,
    mut samples: Option<&mut Vec<Sample>>,
) -> Result<Encoded, Fault> {
    let items = executor.items.load_full();
    let mut state = executor.residency.blank.clone();
    let mut push = |work: Work, took: Duration| {
        if let Some(samples) = &mut samples {
            samples.push(Sample { rows: work.rows, pairs: work.pairs, ms: took.as_secs_f64() * 1e3 });
        }
    };
    let mut part = window.part(0..window.len());
    while state.rows_missing(&part) > 0 {
        if began.elapsed() > shapes.time_max {
            tracing::warn!(rows = state.rows(), of = window.len(), "warm-up is slow: the full length was cut short");
            part = window.part(0..state.rows() + 1);
            break;
        }
        let (ready, rows_max) = (state.rows(), shapes.slice_rows.max(1));
        let jobs = &mut [Advance { state: &mut state, window: part, items: &items, rows_max }];
        let ((), took) = executor.call(|encoder| encoder.advance(jobs))?;
        push(Work::append(ready, state.rows() - ready), took);
    }
    let query_time = window.times.last().map_or(0, |time| time + 60);
    let jobs = [Finish { state: &state, window: part, items: &items, query_time }];
    let (mut encoded, took) = executor.call(|encoder| encoder.finish(&jobs))?;
    push(Work::finish(part.len()), took);
    encoded.pop().ok_or_else(|| Fault::Lost("the encoder answered no job of one".to_owned()))
}

/// Scores `count` candidates twice; the second time counts.
fn candidates(executor: &mut Executor, encoded: &Encoded, count: usize, items: &ItemTable) -> Result<Sample, Fault> {
    let slots: Vec<u32> = slots(items).take(count).collect();
    let jobs = [Score { encoded, items, candidates: &slots }];
    executor.call(|encoder| encoder.score(&jobs))?;
    let (_, took) = executor.call(|encoder| encoder.score(&jobs))?;
    let work = Work::score(slots.len(), encoded.events());
    Ok(Sample { rows: work.candidates, pairs: work.candidate_pairs, ms: took.as_secs_f64() * 1e3 })
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
