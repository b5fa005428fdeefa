//! A model: validated shapes, named weights and the version that every cached state carries.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use crate::config::{Config, Flavour, StuConfig};
use crate::load::{self, Checked, LoadError, Tensor};
use crate::spec;

/// A model's version, 32 bytes: [`Model::version`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub [u8; 32]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `rel_bias` model, the form that serves. Every tensor has the shape that the configuration calls for and
/// holds finite numbers only.
#[derive(Debug)]
pub struct Model {
    config: Config,
    version: Version,
    tensors: BTreeMap<String, Tensor>,
}

/// An `stu` model: the ranking-benchmark form.
#[derive(Debug)]
pub struct StuModel {
    config: StuConfig,
    version: Version,
    tensors: BTreeMap<String, Tensor>,
}

impl Model {
    /// Loads a safetensors file.
    ///
    /// # Errors
    /// Names the tensor and both shapes, or the limit, that does not hold; see [`LoadError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::from_checked(load::file(path.as_ref())?)
    }

    /// As [`Model::load`], from memory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::from_checked(load::bytes(bytes)?)
    }

    pub(crate) fn from_checked(checked: Checked) -> Result<Self, LoadError> {
        let version = checked.version();
        let Checked { flavour, weights: tensors, .. } = checked;
        match flavour {
            Flavour::RelBias(config) => Ok(Self { config, version, tensors }),
            Flavour::Stu(_) => Err(LoadError::Form { expected: "rel_bias", found: "stu" }),
        }
    }

    /// A model of tensors made here: they fit `config` by construction.
    pub(crate) fn from_parts(config: Config, tensors: BTreeMap<String, Tensor>) -> Result<Self, LoadError> {
        let bytes = serialize(&config, &tensors)?;
        Ok(Self { config, version: Version(Sha256::digest(&bytes).into()), tensors })
    }

    /// The same model as version `version`, with calibrated probabilities: task t gives `sigmoid(scale * logit + shift)` for its
    /// pair in `tasks`, folded into the last layer of the heads, so that it costs nothing to serve.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    pub(crate) fn calibrated(&self, tasks: &[(f64, f64)], version: Version) -> Self {
        let mut tensors = self.tensors.clone();
        let hidden = self.head_hidden().max(1);
        let fold = |tensors: &mut BTreeMap<String, Tensor>, name: &str, of: &dyn Fn(usize, f64) -> f64| {
            if let Some(tensor) = tensors.get_mut(name) {
                tensor.data = tensor.data.iter().enumerate().map(|(at, &w)| of(at, f64::from(w)) as f32).collect();
            }
        };
        let of_task = |task: usize| tasks.get(task).copied().unwrap_or((1.0, 0.0));
        fold(&mut tensors, spec::HEAD_OUT, &|at, w| of_task(at / hidden).0 * w);
        fold(&mut tensors, spec::HEAD_OUT_BIAS, &|task, b| of_task(task).0 * b + of_task(task).1);
        Self { config: self.config.clone(), version, tensors }
    }

    /// The shapes.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The version: SHA-256 of the file, or for a bundle's model of file, features and calibration.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// A tensor by its public name ([`crate::spec`]).
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// A tensor that every validated model has.
    pub(crate) fn weight(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// Width of the heads' hidden layer; 0 without heads.
    #[must_use]
    pub fn head_hidden(&self) -> usize {
        self.tensor(spec::HEAD_IN).map_or(0, |t| t.shape[0])
    }

    /// Width of a new item's content vector: of the projection where there is one, else of an embedding.
    #[must_use]
    pub fn content_dim(&self) -> usize {
        self.tensor(spec::CONTENT_PROJ).map_or(self.config.item_embedding_dim, |t| t.shape[1])
    }

    /// The file that [`Model::save`] writes; its SHA-256 is the version of the model loaded from it.
    ///
    /// # Errors
    /// [`LoadError::Header`] when the file format cannot hold it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LoadError> {
        serialize(&self.config, &self.tensors)
    }

    /// Writes the model as a safetensors file: to a new file beside `path` which then takes its place, so that
    /// `path` never holds half a model.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), LoadError> {
        let path = path.as_ref();
        let io = |cause| LoadError::Io { path: path.to_owned(), cause };
        let bytes = self.to_bytes()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = fs::File::create(&beside).map_err(io)?;
        std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&beside, path).map_err(io)
    }
}

impl StuModel {
    /// Loads a safetensors file.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::from_checked(load::file(path.as_ref())?)
    }

    pub(crate) fn from_checked(checked: Checked) -> Result<Self, LoadError> {
        let version = checked.version();
        let Checked { flavour, weights: tensors, .. } = checked;
        match flavour {
            Flavour::Stu(config) => Ok(Self { config, version, tensors }),
            Flavour::RelBias(_) => Err(LoadError::Form { expected: "stu", found: "rel_bias" }),
        }
    }

    /// The shapes.
    #[must_use]
    pub fn config(&self) -> &StuConfig {
        &self.config
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// A tensor that every validated model has.
    pub(crate) fn weight(&self, layer: usize, part: &str) -> &Tensor {
        &self.tensors[&spec::stu_layer(layer, part)]
    }
}

/// The safetensors bytes of a model.
fn serialize(config: &Config, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, LoadError> {
    let header = |e: &dyn fmt::Display| LoadError::Header { reason: e.to_string() };
    let json = serde_json::to_string(config).map_err(|e| header(&e))?;
    let raw: Vec<(&String, &Tensor, Vec<u8>)> =
        tensors.iter().map(|(name, t)| (name, t, t.data.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let mut views = Vec::with_capacity(raw.len());
    for (name, tensor, bytes) in &raw {
        views.push((*name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(|e| header(&e))?));
    }
    let metadata = std::collections::HashMap::from([("config".to_owned(), json)]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| header(&e))
}
