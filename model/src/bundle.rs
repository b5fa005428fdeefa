//! A bundle: the directory in which a model is delivered.
//!
//! | file | what |
//! | --- | --- |
//! | `model.safetensors` | the weights, uncalibrated |
//! | `bundle.json` | name, features, calibration, the SHA-256 of every other file ([`Manifest`]) |
//! | `self-check.safetensors` | inputs, and the outputs that the calibrated model must give for them |
//!
//! The hashes show a file that was cut or changed; the self-check shows, on the encoder that will serve, weights that are
//! whole but wrong (two tensors exchanged by a converter, say). A model without a bundle is a bare safetensors file: it
//! has neither, and its probabilities are taken as they are.

mod manifest;
mod place;
mod record;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::cpu::CpuEncoder;
use crate::encoder::EncodeError;
use crate::golden::{self, Check, GoldenError, Report};
use crate::load::{self, LoadError, Recorded};
use crate::model::{Model, Version};
pub use manifest::{Calibration, FORMAT, Features, Manifest};
pub use place::install;
pub use record::{About, write};

/// Name of the file of names and hashes.
pub const MANIFEST: &str = "bundle.json";
/// Name of the file of weights.
pub const MODEL: &str = "model.safetensors";
/// Name of the file of recorded outputs.
pub const SELF_CHECK: &str = "self-check.safetensors";
/// Most bytes of [`MANIFEST`].
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of [`SELF_CHECK`].
pub const SELF_CHECK_BYTES_MAX: u64 = 1 << 26;

/// Why a bundle was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is not there.
    #[error("{}: file `{file}` is missing", dir.display())]
    Missing {
        /// The bundle.
        dir: PathBuf,
        /// The file.
        file: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A file is larger than its limit.
    #[error("`{file}` has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A field of `bundle.json` cannot be used.
    #[error("bundle.json, {field}: {reason}")]
    Manifest {
        /// The field.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file is not the one that `bundle.json` speaks of.
    #[error("`{file}` is not the file that bundle.json describes: its SHA-256 is {found}, not {expected}")]
    Hash {
        /// The file.
        file: &'static str,
        /// By `bundle.json`.
        expected: String,
        /// By its bytes.
        found: String,
    },
    /// A file of tensors was refused.
    #[error("`{file}`: {cause}")]
    Load {
        /// The file.
        file: &'static str,
        /// Why.
        cause: LoadError,
    },
    /// The self-check cannot be run.
    #[error("`self-check.safetensors`: {0}")]
    SelfCheck(GoldenError),
    /// The model does not compute what the self-check says.
    #[error(
        "the self-check failed: {} of history {}, row {}: relative error {:.1e}, allowed {:.1e}",
        check.what, check.worst.history, check.worst.row, check.error_max, tolerance
    )]
    Wrong {
        /// The output of the largest error.
        check: Check,
        /// The largest error that passes.
        tolerance: f64,
    },
    /// The directory is there and holds something else.
    #[error("{}: exists already and holds another bundle", .0.display())]
    Exists(PathBuf),
    /// The reference encoder could not record outputs.
    #[error("record the self-check: {0}")]
    Record(EncodeError),
}

impl From<GoldenError> for BundleError {
    fn from(cause: GoldenError) -> Self {
        Self::SelfCheck(cause)
    }
}

impl From<EncodeError> for BundleError {
    fn from(cause: EncodeError) -> Self {
        Self::Record(cause)
    }
}

impl BundleError {
    fn manifest(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Manifest { field: field.into(), reason: reason.into() }
    }
}

/// A model that was read whole and whose files hold; whether it computes what it should, [`Bundle::self_check`] tells.
#[derive(Debug)]
pub struct Bundle {
    name: String,
    manifest: Option<Manifest>,
    model: Arc<Model>,
    recorded: Option<Recorded>,
}

impl Bundle {
    /// Reads a bundle directory, or a bare safetensors file.
    ///
    /// # Errors
    /// [`BundleError`] with the file at fault.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BundleError> {
        let path = path.as_ref();
        if path.is_dir() { Self::read(path) } else { Self::bare(path) }
    }

    /// A safetensors file as it is: no self-check, identity calibration, features unknown.
    fn bare(path: &Path) -> Result<Self, BundleError> {
        let model = Model::load(path).map_err(|cause| BundleError::Load { file: MODEL, cause })?;
        let name = path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
        Ok(Self { name, manifest: None, model: Arc::new(model), recorded: None })
    }

    fn read(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::parse(&small(dir, MANIFEST, MANIFEST_BYTES_MAX)?)?;
        for file in manifest.sha256.keys() {
            if !dir.join(file).is_file() {
                return Err(BundleError::Missing { dir: dir.to_owned(), file: file.clone() });
            }
        }
        let path = dir.join(MODEL);
        let checked = load::file(&path).map_err(|cause| BundleError::Load { file: MODEL, cause })?;
        manifest.check_hash(MODEL, checked.hasher.clone())?;
        let mut hasher = checked.hasher.clone();
        let model = Model::from_checked(checked).map_err(|cause| BundleError::Load { file: MODEL, cause })?;
        manifest.check_model(&model)?;
        manifest.write_served(&mut hasher);
        let model = model.calibrated(&manifest.scales(), Version(hasher.finalize().into()));
        let recorded = if dir.join(SELF_CHECK).exists() {
            let bytes = small(dir, SELF_CHECK, SELF_CHECK_BYTES_MAX)?;
            manifest.check_hash(SELF_CHECK, Sha256::new().chain_update(&bytes))?;
            Some(load::recorded(&bytes).map_err(|cause| BundleError::Load { file: SELF_CHECK, cause })?)
        } else {
            None
        };
        Ok(Self { name: manifest.name.clone(), manifest: Some(manifest), model: Arc::new(model), recorded })
    }

    /// Its name: of `bundle.json`, or of a bare file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model, calibrated.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What `bundle.json` says; nothing for a bare file.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Whether it brings a self-check.
    #[must_use]
    pub fn has_self_check(&self) -> bool {
        self.recorded.is_some()
    }

    /// Replays the self-check on an encoder of [`Bundle::model`]: each row within [`golden::TOLERANCE`]. Nothing without one.
    ///
    /// # Errors
    /// [`BundleError::Wrong`] names the row and its error; [`BundleError::SelfCheck`] where the file cannot be used.
    pub fn self_check(&self, encoder: &mut CpuEncoder) -> Result<Option<Report>, BundleError> {
        let Some(recorded) = &self.recorded else { return Ok(None) };
        judged(golden::replay(&self.name, encoder, recorded)?).map(Some)
    }

    /// Replays the self-check on an encoder that keeps states in bf16: each row within twice what the plain computation in
    /// bf16 loses on the same inputs, and 1e-3. Nothing without a self-check. [`Bundle::self_check`], on an encoder that keeps f32,
    /// is the one that holds the bundle to its promise; this one holds the rounding to its bound.
    ///
    /// # Errors
    /// As [`Bundle::self_check`].
    pub fn self_check_bf16(&self, encoder: &mut CpuEncoder) -> Result<Option<Report>, BundleError> {
        let Some(recorded) = &self.recorded else { return Ok(None) };
        judged(golden::replay_bf16(&self.name, encoder, recorded)?).map(Some)
    }

    /// Replays the self-check on a GPU: each row within twice what plain bf16 loses on the same inputs. Nothing without a
    /// self-check. [`Bundle::self_check`] is the one that holds the bundle to its promise; this one holds the device to it.
    ///
    /// # Errors
    /// As [`Bundle::self_check`].
    #[cfg(feature = "cuda")]
    pub fn self_check_on_device(&self, encoder: &mut crate::cuda::CudaEncoder) -> Result<Option<Report>, BundleError> {
        let Some(recorded) = &self.recorded else { return Ok(None) };
        judged(golden::replay_on_device(&self.name, encoder, recorded)?).map(Some)
    }
}

/// A report that passes.
fn judged(report: Report) -> Result<Report, BundleError> {
    match report.worst() {
        Some(check) if !report.pass() => Err(BundleError::Wrong { check: check.clone(), tolerance: report.tolerance }),
        _ => Ok(report),
    }
}

/// Reads a whole file of at most `limit` bytes.
fn small(dir: &Path, file: &'static str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let path = dir.join(file);
    let io = |cause: std::io::Error| match cause.kind() {
        std::io::ErrorKind::NotFound => BundleError::Missing { dir: dir.to_owned(), file: file.to_owned() },
        _ => BundleError::Io { path: path.clone(), cause },
    };
    let opened = File::open(&path).map_err(io)?;
    let mut bytes = Vec::new();
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        let bytes = fs::metadata(&path).map_or(limit + 1, |meta| meta.len());
        return Err(BundleError::TooLarge { file, bytes, limit });
    }
    Ok(bytes)
}

/// SHA-256 as text.
fn hex(hasher: Sha256) -> String {
    Version(hasher.finalize().into()).to_string()
}

/// The hash of each file by its name.
fn hashes(files: &[(&str, &[u8])]) -> BTreeMap<String, String> {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), hex(Sha256::new().chain_update(bytes)))).collect()
}
