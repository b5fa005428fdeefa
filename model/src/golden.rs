//! Checks an encoder against a golden file: a model, inputs and the outputs that the public reference code gave.

#[cfg(feature = "cuda")]
mod device;
mod file;
mod naive;
mod rounded;
mod run;

#[cfg(feature = "cuda")]
pub use device::check_device;
#[cfg(feature = "cuda")]
pub(crate) use device::replay_on_device;

use std::path::Path;
use std::sync::Arc;

use longbow_kernels::{Engine, KvFormat};

use crate::config::Flavour;
use crate::cpu::CpuEncoder;
use crate::encoder::{EncodeError, Encoder};
use crate::items::ItemTable;
use crate::load::{self, LoadError, Recorded};
use crate::model::{Model, StuModel};
use file::{Content, Histories, StuRows};

/// Largest relative error of a row that passes, `||out - ref|| / ||ref||` in f32.
pub const TOLERANCE: f64 = 1e-4;

/// The encoder to check.
#[derive(Debug, Clone)]
pub enum Which {
    /// [`crate::ReferenceEncoder`].
    Reference,
    /// [`crate::CpuEncoder`], on this engine.
    Fast(Arc<Engine>),
}

/// Why a file could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The model part of the file was refused.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A golden tensor is absent.
    #[error("tensor `golden.{name}` is absent: {needed}")]
    Absent {
        /// Its name without `golden.`.
        name: &'static str,
        /// Its form, and when it is needed.
        needed: String,
    },
    /// A golden tensor has another shape than the others or the config call for.
    #[error("tensor `golden.{name}` has shape {found:?}, but {expected} is needed")]
    Shape {
        /// Its name without `golden.`.
        name: &'static str,
        /// The form it should have.
        expected: String,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A number in a golden tensor cannot be used.
    #[error("tensor `golden.{name}`, element {index}: {reason}")]
    Value {
        /// Its name without `golden.`.
        name: &'static str,
        /// Place of the element, row-major.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The encoder refused the inputs.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Errors of one kind of output.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was compared: `output`, `output (slices)`, `candidate_rows`, `candidate_probs`.
    pub what: &'static str,
    /// Rows compared.
    pub rows: usize,
    /// Largest relative error of a row; infinite where a result is not a number.
    pub error_max: f64,
    /// The row of that error.
    pub worst: Place,
}

/// Where a row stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Its history (the first dimension of the file's tensors).
    pub history: usize,
    /// Its position in the history, or its candidate.
    pub row: usize,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Name of the file.
    pub name: String,
    /// `reference`, `fast`, `bf16 states` or `device`.
    pub which: &'static str,
    /// One entry for each kind of output in the file.
    pub checks: Vec<Check>,
    /// Largest error that passes.
    pub tolerance: f64,
}

impl Report {
    /// Whether something was compared and every error is within the tolerance.
    #[must_use]
    pub fn pass(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.rows > 0 && check.error_max <= self.tolerance)
    }

    /// The output of the largest error.
    #[must_use]
    pub fn worst(&self) -> Option<&Check> {
        self.checks.iter().max_by(|a, b| a.error_max.total_cmp(&b.error_max))
    }

    /// The largest error of all rows.
    #[must_use]
    pub fn error_max(&self) -> f64 {
        self.checks.iter().map(|check| check.error_max).fold(0.0, f64::max)
    }
}

/// Runs the inputs of a golden file through an encoder and compares the outputs.
///
/// The fast path runs twice: on each history at once, and in slices through a [`crate::UserState`], where row
/// i is the last row of the window that ends with it.
///
/// # Errors
/// [`GoldenError`]: the file cannot be used. Wrong outputs are no error, but a report that does not pass.
pub fn check(path: impl AsRef<Path>, which: &Which) -> Result<Report, GoldenError> {
    let path = path.as_ref();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut checked = load::file(path)?;
    let golden = std::mem::take(&mut checked.golden);
    let checks = match &checked.flavour {
        Flavour::RelBias(config) => {
            let histories = Histories::parse(config, &golden)?;
            let model = Arc::new(Model::from_checked(checked)?);
            match which {
                Which::Reference => run::reference(&model, &histories)?,
                Which::Fast(engine) => run::fast(&mut CpuEncoder::new(model, Arc::clone(engine)), &histories)?,
            }
        }
        Flavour::Stu(config) => {
            let rows = StuRows::parse(config, &golden)?;
            let model = Arc::new(StuModel::from_checked(checked)?);
            run::stu(&model, which, &rows)?
        }
    };
    let which = match which {
        Which::Reference => "reference",
        Which::Fast(_) => "fast",
    };
    Ok(Report { name, which, checks, tolerance: TOLERANCE })
}

/// Runs the inputs of a golden file of the serving form through a [`CpuEncoder`] whose states are in bf16: each history at once,
/// in slices through a state, and candidates. Held to the rule for bf16: twice what the plain computation in bf16 loses on
/// the same inputs (with K and V rounded, and queries and weights where [`longbow_kernels::Isa::multiplies_bf16`]), and 1e-3. Files of the
/// other form have no states: nothing is reported for them.
///
/// The plain computation takes time with the square of the length: half a minute for 10,000 events.
///
/// # Errors
/// [`GoldenError`]: the file cannot be used.
pub fn check_bf16(path: impl AsRef<Path>, engine: &Arc<Engine>) -> Result<Option<Report>, GoldenError> {
    let Some((name, model, histories)) = opened(path.as_ref())? else { return Ok(None) };
    let mut encoder = CpuEncoder::new(Arc::new(model), Arc::clone(engine)).keeping(KvFormat::Bf16);
    rounded::compare((name, BF16), &mut encoder, &histories, usize::MAX).map(Some)
}

const BF16: &str = "bf16 states";

/// Name, model and histories of a golden file of the serving form; nothing for the other.
fn opened(path: &Path) -> Result<Option<(String, Model, Histories)>, GoldenError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut checked = load::file(path)?;
    let golden = std::mem::take(&mut checked.golden);
    let Flavour::RelBias(config) = &checked.flavour else { return Ok(None) };
    let histories = Histories::parse(config, &golden)?;
    Ok(Some((name, Model::from_checked(checked)?, histories)))
}

/// Runs recorded inputs through an encoder at hand whose states are in bf16, as [`check_bf16`] does; histories of more than
/// 1,024 events are left out.
pub(crate) fn replay_bf16(name: &str, encoder: &mut CpuEncoder, recorded: &Recorded) -> Result<Report, GoldenError> {
    let histories = Histories::parse(encoder.config(), recorded)?;
    affordable(&histories)?;
    rounded::compare((name.to_owned(), BF16), encoder, &histories, rounded::REPLAY_EVENTS_MAX)
}

/// Most history rows, and most candidates, that a replay computes: what a self-check may cost at a load.
const REPLAY_ROWS_MAX: usize = 1 << 16;
const REPLAY_CANDIDATES_MAX: usize = 1 << 14;

/// Holds a replay to its limits.
fn affordable(histories: &Histories) -> Result<(), GoldenError> {
    let (rows, candidates) = histories.size();
    for (name, count, most) in
        [("lengths", rows, REPLAY_ROWS_MAX), ("candidate_ids", candidates, REPLAY_CANDIDATES_MAX)]
    {
        if count > most {
            let reason = format!("{count} in all are more than the limit of {most}");
            return Err(GoldenError::Value { name, index: 0, reason });
        }
    }
    Ok(())
}

/// Runs recorded inputs through an encoder at hand, as [`check`] does on its fast path. The outputs that a model serves must
/// all be recorded: `output`, and `candidate_probs` where it has heads; `content` with `content_rows` may be.
pub(crate) fn replay(name: &str, encoder: &mut CpuEncoder, recorded: &Recorded) -> Result<Report, GoldenError> {
    let model = Arc::clone(encoder.model());
    let config = model.config();
    let histories = Histories::parse(config, recorded)?;
    affordable(&histories)?;
    for (name, needed) in [("output", true), ("candidate_probs", config.num_tasks > 0)] {
        if needed && !recorded.contains_key(name) {
            return Err(GoldenError::Absent { name, needed: "a self-check holds what the model serves".to_owned() });
        }
    }
    let mut checks = run::fast(encoder, &histories)?;
    if let Some(content) = Content::parse(&model, recorded)? {
        checks.push(run::content(&ItemTable::new(&model), &content)?);
    }
    Ok(Report { name: name.to_owned(), which: "fast", checks, tolerance: TOLERANCE })
}
