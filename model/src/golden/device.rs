//! Golden files on a GPU. Its numbers are bf16, so it is held to what the plain computation in bf16 loses on the same
//! inputs: twice that, and 1e-3.

use std::path::Path;
use std::sync::Arc;

use longbow_kernels::cuda::CudaEngine;

use super::file::{Histories, User};
use super::{Check, GoldenError, Place, Report};
use crate::config::Flavour;
use crate::cuda::CudaEncoder;
use crate::cuda::naive::Naive;
use crate::encoder::{Advance, EncodeError, Encoder, Finish, Score};
use crate::items::{ItemTable, l2_normalise};
use crate::load::{self, Recorded};
use crate::model::Model;

/// Device memory for the states of a check.
const STATE_BYTES: usize = 512 << 20;
/// Longest history that a replay takes: the plain computation beside it takes time with the square of the length.
const REPLAY_EVENTS_MAX: usize = 1024;

/// Errors of the device and of the plain computation, by kind of output.
struct Found {
    device: Vec<Check>,
    plain: Vec<Check>,
}

/// Runs the inputs of a golden file of the serving form through the GPU: each history at once, in slices through a state,
/// and candidates. Files of the other form are not for this path: nothing is reported for them.
///
/// # Errors
/// [`GoldenError`]: the file cannot be used, or the device failed.
pub fn check_device(path: impl AsRef<Path>, engine: &Arc<CudaEngine>) -> Result<Option<Report>, GoldenError> {
    let path = path.as_ref();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut checked = load::file(path)?;
    let golden = std::mem::take(&mut checked.golden);
    let Flavour::RelBias(config) = &checked.flavour else { return Ok(None) };
    let histories = Histories::parse(config, &golden)?;
    let model = Arc::new(Model::from_checked(checked)?);
    let refused = |error: longbow_kernels::cuda::CudaError| GoldenError::Encode(EncodeError::Kernel(error.to_string()));
    let mut encoder = CudaEncoder::new(model, Arc::clone(engine), STATE_BYTES).map_err(refused)?;
    compare(name, &mut encoder, &histories, usize::MAX).map(Some)
}

/// Runs recorded inputs through a GPU encoder at hand, as [`check_device`] does; histories of more than 1,024 events are
/// left out.
pub(crate) fn replay_on_device(
    name: &str,
    encoder: &mut CudaEncoder,
    recorded: &Recorded,
) -> Result<Report, GoldenError> {
    let histories = Histories::parse(encoder.config(), recorded)?;
    compare(name.to_owned(), encoder, &histories, REPLAY_EVENTS_MAX)
}

fn compare(
    name: String,
    encoder: &mut CudaEncoder,
    histories: &Histories,
    events_max: usize,
) -> Result<Report, GoldenError> {
    let model = Arc::clone(encoder.model());
    let items = ItemTable::new(&model);
    let kinds = ["output", "output (slices)", "candidate_rows", "candidate_probs"];
    let of = || kinds.into_iter().map(Check::new).collect();
    let mut found = Found { device: of(), plain: of() };
    for user in histories.users.iter().filter(|user| user.window().len() <= events_max) {
        user_on_device(encoder, &items, (user, histories.tasks), &mut found.device)?;
        plain(&model, &items, user, &mut found.plain);
    }
    let bound = found.plain.iter().map(|check| check.error_max).fold(0.0, f64::max);
    let checks = found.device.into_iter().filter(|check| check.rows > 0 || check.error_max > 0.0).collect();
    Ok(Report { name, which: "device", checks, tolerance: 2.0 * bound + 1e-3 })
}

fn user_on_device(
    encoder: &mut CudaEncoder,
    items: &ItemTable,
    (user, tasks): (&User, usize),
    checks: &mut [Check],
) -> Result<(), GoldenError> {
    let rows = encoder.encode_rows(user.window(), items, user.query_time)?;
    outputs(&mut checks[0], user, &rows, encoder.config().embedding_dim, encoder.config().item_embedding_dim);
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
        checks[1].compare(Place::default(), (encoded[0].query().unwrap_or_default(), wanted), wanted.len());
    }
    if user.candidates.is_empty() {
        return Ok(());
    }
    let job = Score { encoded: &encoded[0], items, candidates: &user.candidates };
    if !user.candidate_rows.is_empty() {
        let rows = encoder.candidate_rows(&job)?;
        checks[2].compare(
            Place::default(),
            (&rows, &user.candidate_rows),
            user.candidate_rows.len() / user.candidates.len(),
        );
    }
    if !user.candidate_probs.is_empty() {
        let scores = encoder.score(&[job])?;
        checks[3].compare(Place::default(), (&scores[0].probs, &user.candidate_probs), tasks);
    }
    Ok(())
}

fn plain(model: &Model, items: &ItemTable, user: &User, checks: &mut [Check]) {
    let (d, dim) = (model.config().embedding_dim, model.config().item_embedding_dim);
    let mut naive = Naive::new(model, &user.window(), items, user.query_time);
    let rows = std::mem::take(&mut naive.rows);
    outputs(&mut checks[0], user, &rows, d, dim);
    if !user.candidate_rows.is_empty() {
        let candidates = user.candidates.iter().map(|&slot| items.row(slot).unwrap_or_default());
        let rows: Vec<f32> = candidates.flat_map(|item| naive.candidate(item)).collect();
        checks[2].compare(Place::default(), (&rows, &user.candidate_rows), d);
    }
}

fn outputs(check: &mut Check, user: &User, rows: &[f32], d: usize, dim: usize) {
    for (position, wanted) in &user.outputs {
        let mut found = rows[position * d..position * d + dim].to_vec();
        l2_normalise(&mut found, 1e-6);
        check.compare(Place::default(), (&found, wanted), dim);
    }
}
