//! Runs golden inputs through the encoders.

use std::sync::Arc;

use super::file::{Content, Histories, StuRows, User};
use super::{Check, GoldenError, Place, Which};
use crate::cpu::{CpuEncoder, CpuStuEncoder};
use crate::encoder::{Advance, Encoder, Finish, Score};
use crate::items::{ItemTable, l2_normalise};
use crate::model::{Model, StuModel};
use crate::reference::{ReferenceEncoder, ReferenceStuEncoder};
use crate::state::{Encoded, UserState};

/// Rows that each history's state grows by, in turn: odd sizes, so that they cut across every block.
const SLICES: [usize; 5] = [1, 37, 256, 5, 300];
/// Most last rows computed one by one for a history.
const FINISHES_MAX: usize = 512;

impl Check {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, rows: 0, error_max: 0.0, worst: Place::default() }
    }

    /// Compares rows of `width` numbers, the first of which stands at `at`.
    pub(super) fn compare(&mut self, at: Place, (found, wanted): (&[f32], &[f32]), width: usize) {
        if found.len() != wanted.len() {
            self.note(at, f64::INFINITY);
        }
        for (row, (found, wanted)) in found.chunks(width.max(1)).zip(wanted.chunks(width.max(1))).enumerate() {
            let error = relative_error(found, wanted);
            self.note(Place { row: at.row + row, ..at }, if error.is_nan() { f64::INFINITY } else { error });
            self.rows += 1;
        }
    }

    fn note(&mut self, at: Place, error: f64) {
        if error > self.error_max {
            self.error_max = error;
            self.worst = at;
        }
    }
}

/// `||found - wanted|| / ||wanted||`; against a zero row the norm of the difference.
fn relative_error(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(wanted).map(|(f, w)| square(f64::from(*f) - f64::from(*w))).sum();
    let size: f64 = wanted.iter().map(|w| square(f64::from(*w))).sum();
    if size > 0.0 { (difference / size).sqrt() } else { difference.sqrt() }
}

/// The checks of candidate outputs, for the files that have them.
struct Candidates {
    rows: Check,
    probs: Check,
}

impl Candidates {
    fn new() -> Self {
        Self { rows: Check::new("candidate_rows"), probs: Check::new("candidate_probs") }
    }

    fn compare(&mut self, (history, user): (usize, &User), rows: &[f32], probs: &[f32], tasks: usize) {
        let at = Place { history, row: 0 };
        if !user.candidate_rows.is_empty() {
            let width = user.candidate_rows.len() / user.candidates.len().max(1);
            self.rows.compare(at, (rows, &user.candidate_rows), width);
        }
        if !user.candidate_probs.is_empty() {
            self.probs.compare(at, (probs, &user.candidate_probs), tasks);
        }
    }
}

/// The checks that compared something.
fn used(checks: Vec<Check>) -> Vec<Check> {
    checks.into_iter().filter(|check| check.rows > 0 || check.error_max > 0.0).collect()
}

/// Compares rows `[n, D]` of the last layer with the expected outputs.
fn compare_outputs(
    check: &mut Check,
    (history, user): (usize, &User),
    rows: &[f32],
    (width, dim): (usize, usize),
    epsilon: f32,
) {
    for (position, wanted) in &user.outputs {
        let mut found = rows[position * width..position * width + dim].to_vec();
        l2_normalise(&mut found, epsilon);
        check.compare(Place { history, row: *position }, (&found, wanted), dim);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an epsilon of 1e-6 needs no more than f32")]
fn epsilon(model: &Model) -> f32 {
    model.config().epsilon as f32
}

pub(super) fn reference(model: &Model, histories: &Histories) -> Result<Vec<Check>, GoldenError> {
    let encoder = ReferenceEncoder::new(model)?;
    let items = ItemTable::new(model);
    let widths = (model.config().embedding_dim, model.config().item_embedding_dim);
    let (mut output, mut candidates) = (Check::new("output"), Candidates::new());
    for user in histories.users.iter().enumerate() {
        let (_, user_of) = user;
        let history = encoder.history(user_of.window(), &items, user_of.query_time)?;
        compare_outputs(&mut output, user, &history.rows()?, widths, epsilon(model));
        let rows = encoder.candidate_rows(&history, &items, &user_of.candidates)?;
        let probs =
            if histories.tasks > 0 { encoder.probabilities(&rows, &items, &user_of.candidates)? } else { Vec::new() };
        candidates.compare(user, &rows, &probs, histories.tasks);
    }
    Ok(used(vec![output, candidates.rows, candidates.probs]))
}

pub(super) fn fast(encoder: &mut CpuEncoder, histories: &Histories) -> Result<Vec<Check>, GoldenError> {
    let model = &*Arc::clone(encoder.model());
    let items = ItemTable::new(model);
    let widths = (model.config().embedding_dim, model.config().item_embedding_dim);
    let (mut output, mut sliced, mut candidates) =
        (Check::new("output"), Check::new("output (slices)"), Candidates::new());
    for user in histories.users.iter().enumerate() {
        let rows = encoder.encode_rows(user.1.window(), &items, user.1.query_time)?;
        compare_outputs(&mut output, user, &rows, widths, epsilon(model));
    }
    let states = advance_in_slices(encoder, &items, histories)?;
    for (user, state) in histories.users.iter().enumerate().zip(&states) {
        last_rows(encoder, &items, (user, state), &mut sliced)?;
    }
    let jobs: Vec<Finish<'_>> = histories
        .users
        .iter()
        .zip(&states)
        .map(|(user, state)| Finish { state, window: user.window(), items: &items, query_time: user.query_time })
        .collect();
    let encoded = encoder.finish(&jobs)?;
    score(encoder, &items, (histories, &encoded), &mut candidates)?;
    Ok(used(vec![output, sliced, candidates.rows, candidates.probs]))
}

/// All users' states, grown together by unequal slices.
fn advance_in_slices(
    encoder: &mut CpuEncoder,
    items: &ItemTable,
    histories: &Histories,
) -> Result<Vec<UserState>, GoldenError> {
    let mut states: Vec<UserState> = histories.users.iter().map(|_| encoder.new_state()).collect();
    let mut round = 0;
    while states.iter().zip(&histories.users).any(|(state, user)| state.rows_missing(&user.window()) > 0) {
        let mut jobs: Vec<Advance<'_>> = states
            .iter_mut()
            .zip(&histories.users)
            .enumerate()
            .map(|(at, (state, user))| Advance {
                state,
                window: user.window(),
                items,
                rows_max: SLICES[(round + at) % SLICES.len()],
            })
            .collect();
        encoder.advance(&mut jobs)?;
        round += 1;
    }
    Ok(states)
}

/// Each expected row as the last row of the window that ends with it.
fn last_rows(
    encoder: &mut CpuEncoder,
    items: &ItemTable,
    ((history, user), state): ((usize, &User), &UserState),
    check: &mut Check,
) -> Result<(), GoldenError> {
    let window = user.window();
    let next_time = |i: usize| window.times.get(i + 1).copied().unwrap_or(user.query_time);
    let step = user.outputs.len().div_ceil(FINISHES_MAX).max(1);
    // Counted from the end, so that the last row is always among them.
    let picked: Vec<&(usize, Vec<f32>)> = user.outputs.iter().rev().step_by(step).collect();
    let jobs: Vec<Finish<'_>> = picked
        .iter()
        .map(|(i, _)| Finish { state, window: window.first(i + 1), items, query_time: next_time(*i) })
        .collect();
    for (encoded, &(row, ref wanted)) in encoder.finish(&jobs)?.iter().zip(picked) {
        check.compare(Place { history, row }, (encoded.query().unwrap_or_default(), wanted), wanted.len());
    }
    Ok(())
}

fn score(
    encoder: &mut CpuEncoder,
    items: &ItemTable,
    (histories, encoded): (&Histories, &[Encoded]),
    check: &mut Candidates,
) -> Result<(), GoldenError> {
    let jobs: Vec<Score<'_>> = histories
        .users
        .iter()
        .zip(encoded)
        .map(|(user, encoded)| Score { encoded, items, candidates: &user.candidates })
        .collect();
    let probs: Vec<Vec<f32>> = if histories.tasks > 0 {
        encoder.score(&jobs)?.into_iter().map(|scores| scores.probs).collect()
    } else {
        vec![Vec::new(); jobs.len()]
    };
    for ((user, job), probs) in histories.users.iter().enumerate().zip(&jobs).zip(&probs) {
        let rows = encoder.candidate_rows(job)?;
        check.compare(user, &rows, probs, histories.tasks);
    }
    Ok(())
}

pub(super) fn stu(model: &Arc<StuModel>, which: &Which, rows: &StuRows) -> Result<Vec<Check>, GoldenError> {
    let found = match which {
        Which::Reference => ReferenceStuEncoder::new(model)?.encode(&rows.input)?,
        Which::Fast(engine) => CpuStuEncoder::new(Arc::clone(model), Arc::clone(engine)).encode(&rows.input)?,
    };
    let mut output = Check::new("output");
    output.compare(Place::default(), (&found, &rows.output), model.config().embedding_dim);
    Ok(vec![output])
}

/// Embeddings of content vectors.
pub(super) fn content(items: &ItemTable, content: &Content) -> Result<Check, GoldenError> {
    let mut check = Check::new("content_rows");
    for (row, (vector, wanted)) in content.pairs().enumerate() {
        let found = items.embed(vector).map_err(|e| GoldenError::Value {
            name: "content",
            index: row,
            reason: e.to_string(),
        })?;
        check.compare(Place { history: 0, row }, (&found, wanted), wanted.len());
    }
    Ok(check)
}
