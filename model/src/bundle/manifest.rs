//! `bundle.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BundleError, MODEL, SELF_CHECK, hex};
use crate::model::Model;

/// The form of `bundle.json` that is read and written.
pub const FORMAT: u32 = 1;
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 200;
/// Largest scale and shift of a calibration: beyond them probabilities are 0 or 1.
const SCALE_MAX: f64 = 1e3;

/// What `bundle.json` says of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Name of the model, for people.
    pub name: String,
    /// The command that made it.
    #[serde(default)]
    pub made_by: String,
    /// When, as in `2026-11-24T12:00:00Z`.
    #[serde(default)]
    pub created: String,
    /// What it reads and what it predicts.
    pub features: Features,
    /// From logits to probabilities; a task without an entry is taken as it is.
    #[serde(default)]
    pub calibration: Vec<Calibration>,
    /// SHA-256 of every other file, in hexadecimal, by name.
    pub sha256: BTreeMap<String, String>,
    /// Figures of the training, free in form; never read here.
    #[serde(default)]
    pub training: serde_json::Value,
}

/// What a model was trained on: it must fit what the server feeds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Names of the actions by their numbers, `none` first.
    pub actions: Vec<String>,
    /// Names of the heads' tasks, in order.
    pub tasks: Vec<String>,
    /// Unit of times: `unix_seconds`.
    pub times: String,
}

/// `probability = sigmoid(scale * logit + shift)` of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Name of the task.
    pub task: String,
    /// Factor on the logit, above 0.
    pub scale: f64,
    /// Added to the scaled logit.
    pub shift: f64,
}

impl Manifest {
    /// Reads and checks what can be checked without the other files.
    pub(super) fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|error| BundleError::manifest("the file", error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), BundleError> {
        let wrong = |field: &str, reason: String| Err(BundleError::manifest(field, reason));
        if self.format != FORMAT {
            return wrong("format", format!("{} is unknown: this server reads {FORMAT}", self.format));
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return wrong("name", format!("must have 1 to {NAME_BYTES_MAX} bytes on one line"));
        }
        if self.features.times != "unix_seconds" {
            return wrong("features.times", format!("`{}` must be `unix_seconds`", self.features.times));
        }
        for name in self.sha256.keys() {
            if ![MODEL, SELF_CHECK].contains(&name.as_str()) {
                return wrong("sha256", format!("`{name}` is no file of a bundle"));
            }
        }
        for (at, entry) in self.calibration.iter().enumerate() {
            let Calibration { task, scale, shift } = entry;
            let field = format!("calibration[{at}]");
            if !self.features.tasks.contains(task) {
                return wrong(&field, format!("`{task}` is none of features.tasks"));
            }
            if self.calibration[..at].iter().any(|other| other.task == *task) {
                return wrong(&field, format!("`{task}` is there twice"));
            }
            if !(scale.is_finite() && *scale > 0.0 && *scale <= SCALE_MAX && shift.abs() <= SCALE_MAX) {
                let reason = format!("scale {scale} must be above 0, and scale and shift {shift} at most {SCALE_MAX}");
                return wrong(&field, reason);
            }
        }
        Ok(())
    }

    /// Holds the features to the model's shapes.
    pub(super) fn check_model(&self, model: &Model) -> Result<(), BundleError> {
        let (features, config) = (&self.features, model.config());
        let actions = if config.action_embedding_dim > 0 { config.num_actions } else { features.actions.len() };
        for (field, listed, held) in [
            ("features.actions", features.actions.len(), actions),
            ("features.tasks", features.tasks.len(), config.num_tasks),
        ] {
            if listed != held {
                return Err(BundleError::manifest(field, format!("lists {listed}, but the model has {held}")));
            }
        }
        Ok(())
    }

    /// Scale and shift of each task, in order.
    pub(super) fn scales(&self) -> Vec<(f64, f64)> {
        let of = |task: &String| {
            let entry = self.calibration.iter().find(|entry| entry.task == *task);
            entry.map_or((1.0, 0.0), |entry| (entry.scale, entry.shift))
        };
        self.features.tasks.iter().map(of).collect()
    }

    /// Adds to a version what changes answers beside the weights.
    pub(super) fn write_served(&self, hasher: &mut Sha256) {
        // Plain data always serialises.
        hasher.update(serde_json::to_vec(&self.features).unwrap_or_default());
        hasher.update(serde_json::to_vec(&self.calibration).unwrap_or_default());
    }

    /// Holds a file to its hash.
    pub(super) fn check_hash(&self, file: &'static str, hasher: Sha256) -> Result<(), BundleError> {
        let Some(expected) = self.sha256.get(file) else {
            return Err(BundleError::manifest("sha256", format!("has no entry for `{file}`")));
        };
        let found = hex(hasher);
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(BundleError::Hash { file, expected: expected.clone(), found })
    }
}
