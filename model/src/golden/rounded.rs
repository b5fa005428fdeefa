//! Encoders that keep numbers in bf16, against recorded outputs. They are held to what the plain computation in bf16 loses on
//! the same inputs: twice that, and 1e-3. The plain computation rounds no more than the encoder does.

use std::sync::Arc;

use super::file::{Histories, User};
use super::naive::{Naive, Rounds};
use super::{Check, GoldenError, Place, Report};
use crate::cpu::CpuEncoder;
use crate::encoder::{Advance, EncodeError, Encoder, Finish, Score};
use crate::items::{ItemTable, l2_normalise};
use crate::model::Model;
use crate::window::Window;

/// Longest history that a replay takes: the plain computation beside it takes time with the square of the length.
pub(super) const REPLAY_EVENTS_MAX: usize = 1024;

/// What the checks need of an encoder beside its serving.
pub(crate) trait Rounded: Encoder {
    fn served(&self) -> &Arc<Model>;
    fn rounds(&self) -> Rounds;
    /// Rows `[n, D]` of the last layer for a whole window at once.
    fn whole(&mut self, window: Window<'_>, items: &ItemTable, query_time: i64) -> Result<Vec<f32>, EncodeError>;
    /// Rows `[C, D]` of the last layer for candidates.
    fn scored(&mut self, job: &Score<'_>) -> Result<Vec<f32>, EncodeError>;
}

impl Rounded for CpuEncoder {
    fn served(&self) -> &Arc<Model> {
        self.model()
    }
    fn rounds(&self) -> Rounds {
        if self.engine().isa().multiplies_bf16() { Rounds::Products } else { Rounds::States }
    }
    fn whole(&mut self, window: Window<'_>, items: &ItemTable, query_time: i64) -> Result<Vec<f32>, EncodeError> {
        self.encode_rows(window, items, query_time)
    }
    fn scored(&mut self, job: &Score<'_>) -> Result<Vec<f32>, EncodeError> {
        self.candidate_rows(job)
    }
}

/// Errors of the encoder and of the plain computation, by kind of output.
struct Found {
    rounded: Vec<Check>,
    plain: Vec<Check>,
}

/// Runs histories of at most `events_max` events through an encoder: each at once, in slices through a state, and candidates.
pub(super) fn compare(
    (name, which): (String, &'static str),
    encoder: &mut impl Rounded,
    histories: &Histories,
    events_max: usize,
) -> Result<Report, GoldenError> {
    let model = Arc::clone(encoder.served());
    let items = ItemTable::new(&model);
    let kinds = ["output", "output (slices)", "candidate_rows", "candidate_probs"];
    let of = || kinds.into_iter().map(Check::new).collect();
    let mut found = Found { rounded: of(), plain: of() };
    for (history, user) in histories.users.iter().enumerate().filter(|(_, user)| user.window().len() <= events_max) {
        through(encoder, &items, (history, user, histories.tasks), &mut found.rounded)?;
        plain((&model, encoder.rounds()), &items, user, &mut found.plain);
    }
    let bound = found.plain.iter().map(|check| check.error_max).fold(0.0, f64::max);
    let checks: Vec<Check> =
        found.rounded.into_iter().filter(|check| check.rows > 0 || check.error_max > 0.0).collect();
    if checks.is_empty() {
        let reason = format!("no history has {events_max} events or fewer: there is nothing to hold bf16 to");
        return Err(GoldenError::Value { name: "lengths", index: 0, reason });
    }
    Ok(Report { name, which, checks, tolerance: 2.0 * bound + 1e-3 })
}

fn through(
    encoder: &mut impl Rounded,
    items: &ItemTable,
    (history, user, tasks): (usize, &User, usize),
    checks: &mut [Check],
) -> Result<(), GoldenError> {
    let rows = encoder.whole(user.window(), items, user.query_time)?;
    outputs(&mut checks[0], (history, user), &rows, encoder.served());
    let mut state = encoder.new_state();
    let mut step = 1;
    while state.rows_missing(&user.window()) > 0 {
        let job = Advance { state: &mut state, window: user.window(), items, rows_max: step };
        encoder.advance(&mut [job])?;
        // Steps that cut across every page, and a copied state, so that pages are shared.
        step = step * 3 + 1;
    }
    let shared = state.clone();
    let job = Finish { state: &shared, window: user.window(), items, query_time: user.query_time };
    let encoded = encoder.finish(&[job])?;
    let last = user.window().len().wrapping_sub(1);
    if let Some((_, wanted)) = user.outputs.iter().find(|(position, _)| *position == last) {
        let at = Place { history, row: last };
        checks[1].compare(at, (encoded[0].query().unwrap_or_default(), wanted), wanted.len());
    }
    if user.candidates.is_empty() {
        return Ok(());
    }
    let job = Score { encoded: &encoded[0], items, candidates: &user.candidates };
    let at = Place { history, row: 0 };
    if !user.candidate_rows.is_empty() {
        let width = user.candidate_rows.len() / user.candidates.len();
        checks[2].compare(at, (&encoder.scored(&job)?, &user.candidate_rows), width);
    }
    if !user.candidate_probs.is_empty() {
        let scores = encoder.score(&[job])?;
        checks[3].compare(at, (&scores[0].probs, &user.candidate_probs), tasks);
    }
    Ok(())
}

fn plain((model, rounds): (&Model, Rounds), items: &ItemTable, user: &User, checks: &mut [Check]) {
    let mut naive = Naive::new((model, rounds), &user.window(), items, user.query_time);
    let rows = std::mem::take(&mut naive.rows);
    outputs(&mut checks[0], (0, user), &rows, model);
    if !user.candidate_rows.is_empty() {
        let candidates = user.candidates.iter().map(|&slot| items.row(slot).unwrap_or_default());
        let rows: Vec<f32> = candidates.flat_map(|item| naive.candidate(item)).collect();
        checks[2].compare(Place::default(), (&rows, &user.candidate_rows), model.config().embedding_dim);
    }
}

fn outputs(check: &mut Check, (history, user): (usize, &User), rows: &[f32], model: &Model) {
    let (d, dim) = (model.config().embedding_dim, model.config().item_embedding_dim);
    for (position, wanted) in &user.outputs {
        let mut found = rows[position * d..position * d + dim].to_vec();
        l2_normalise(&mut found, 1e-6);
        check.compare(Place { history, row: *position }, (&found, wanted), dim);
    }
}
