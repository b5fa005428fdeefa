//! Golden files on a GPU, whose numbers are bf16.

use std::path::Path;
use std::sync::Arc;

use longbow_kernels::cuda::CudaEngine;

use super::file::Histories;
use super::naive::Rounds;
use super::rounded::{REPLAY_EVENTS_MAX, Rounded, compare};
use super::{GoldenError, Report, opened};
use crate::cuda::CudaEncoder;
use crate::encoder::{EncodeError, Encoder, Score};
use crate::items::ItemTable;
use crate::load::Recorded;
use crate::model::Model;
use crate::window::Window;

/// Device memory for the states of a check.
const STATE_BYTES: usize = 512 << 20;

impl Rounded for CudaEncoder {
    fn served(&self) -> &Arc<Model> {
        self.model()
    }
    fn rounds(&self) -> Rounds {
        Rounds::Everything
    }
    fn whole(&mut self, window: Window<'_>, items: &ItemTable, query_time: i64) -> Result<Vec<f32>, EncodeError> {
        self.encode_rows(window, items, query_time)
    }
    fn scored(&mut self, job: &Score<'_>) -> Result<Vec<f32>, EncodeError> {
        self.candidate_rows(job)
    }
}

/// Runs the inputs of a golden file of the serving form through the GPU: each history at once, in slices through a state,
/// and candidates. Files of the other form are not for this path: nothing is reported for them.
///
/// # Errors
/// [`GoldenError`]: the file cannot be used, or the device failed.
pub fn check_device(path: impl AsRef<Path>, engine: &Arc<CudaEngine>) -> Result<Option<Report>, GoldenError> {
    let Some((name, model, histories)) = opened(path.as_ref())? else { return Ok(None) };
    let refused = |error: longbow_kernels::cuda::CudaError| GoldenError::Encode(EncodeError::Kernel(error.to_string()));
    let mut encoder = CudaEncoder::new(Arc::new(model), Arc::clone(engine), STATE_BYTES).map_err(refused)?;
    compare((name, "device"), &mut encoder, &histories, usize::MAX).map(Some)
}

/// Runs recorded inputs through a GPU encoder at hand, as [`check_device`] does; histories of more than 1,024 events are
/// left out.
pub(crate) fn replay_on_device(
    name: &str,
    encoder: &mut CudaEncoder,
    recorded: &Recorded,
) -> Result<Report, GoldenError> {
    let histories = Histories::parse(encoder.config(), recorded)?;
    compare((name.to_owned(), "device"), encoder, &histories, REPLAY_EVENTS_MAX)
}
