//! Reads a safetensors file without trusting it: limits first, then names and shapes against the
//! configuration, then the numbers.

pub(crate) mod header;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, Flavour};
use crate::model::Version;
use crate::spec::{self, Expected};
use header::{Dtype, Entry, Header};

/// Most bytes of a file's header.
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// Most tensors of a file.
pub const TENSORS_MAX: usize = 4096;
/// Most bytes of a file.
pub const FILE_BYTES_MAX: u64 = 1 << 35;
/// Most width of a content vector and of the heads' hidden layer.
const SIDE_WIDTH_MAX: usize = 8192;
/// Names that begin with this are not weights: a golden file's rows.
const GOLDEN: &str = "golden.";

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The file ends early.
    #[error("the file is truncated: {found} bytes of {expected}")]
    Truncated {
        /// Bytes that the header calls for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The file goes on after its last tensor.
    #[error("the file has bytes after its last tensor: {found} bytes, {expected} expected")]
    Trailing {
        /// Bytes that the header calls for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("the file has {bytes} bytes, more than the limit of {limit}")]
    FileTooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The header is larger than [`HEADER_BYTES_MAX`]: not a model file, or a hostile one.
    #[error("the header claims {bytes} bytes, more than the limit of {limit}: not a model in safetensors form")]
    HeaderTooLarge {
        /// Bytes the file claims.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The header is not the JSON object it should be.
    #[error("the header is damaged: {reason}")]
    Header {
        /// What the parser met.
        reason: String,
    },
    /// More tensors than [`TENSORS_MAX`].
    #[error("{found} tensors, more than the limit of {limit}")]
    TooManyTensors {
        /// Tensors of the file.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Two tensors have one name.
    #[error("tensor `{name}` is there twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An element type that is not read, or not here.
    #[error("tensor `{name}` has element type {found}: weights must be F32, F16 or BF16 (golden rows also I32, I64)")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor's place in the file does not fit its shape or its neighbours.
    #[error("tensor `{name}`: {reason}")]
    Layout {
        /// The tensor.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// There is no metadata key `config`.
    #[error("metadata key `config` is absent: write the model's shapes there as JSON")]
    ConfigAbsent,
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file holds a model of the other form.
    #[error("the model is of form `{found}`, but `{expected}` is needed here")]
    Form {
        /// The form that can be used.
        expected: &'static str,
        /// The form of the file.
        found: &'static str,
    },
    /// A tensor that the configuration calls for is absent.
    #[error("tensor `{name}` is absent: shape {expected:?} expected")]
    Absent {
        /// The tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, but the config calls for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A tensor that no such model has.
    #[error("tensor `{name}` of shape {found:?} is no part of such a model")]
    Unexpected {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("tensor `{name}`, element {index} is {value}: weights must be finite")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Place of the element, row-major.
        index: usize,
        /// What stands there.
        value: f32,
    },
}

/// A named array of numbers, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The numbers; shared, never changed.
    pub data: Arc<[f32]>,
}

/// A file whose header, names and shapes hold.
pub(crate) struct Checked {
    pub(crate) flavour: Flavour,
    /// SHA-256 over the file's bytes, still open: a bundle's version goes on from here.
    pub(crate) hasher: Sha256,
    pub(crate) weights: BTreeMap<String, Tensor>,
    pub(crate) golden: Recorded,
}

/// Tensors `golden.*` by name without the prefix.
pub(crate) type Recorded = BTreeMap<String, (Entry, Vec<u8>)>;

impl Checked {
    /// SHA-256 of the file.
    pub(crate) fn version(&self) -> Version {
        Version(self.hasher.clone().finalize().into())
    }
}

/// Reads a file: nothing but the header is read until names and shapes hold.
pub(crate) fn file(path: &Path) -> Result<Checked, LoadError> {
    let io = |cause| LoadError::Io { path: path.to_owned(), cause };
    let mut file = File::open(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    if file_len > FILE_BYTES_MAX {
        return Err(LoadError::FileTooLarge { bytes: file_len, limit: FILE_BYTES_MAX });
    }
    let file_len = usize::try_from(file_len).unwrap_or(usize::MAX);
    if file_len < 8 {
        return Err(LoadError::Truncated { expected: 8, found: file_len });
    }
    let mut first = [0; 8];
    file.read_exact(&mut first).map_err(io)?;
    let mut bytes = vec![0; 8 + header::header_len(first, file_len)?];
    bytes[..8].copy_from_slice(&first);
    file.read_exact(&mut bytes[8..]).map_err(io)?;
    let (header, flavour) = head(&bytes[8..], file_len)?;
    file.take((file_len - bytes.len()) as u64).read_to_end(&mut bytes).map_err(io)?;
    body(&header, flavour, &bytes)
}

/// Reads a file which is in memory already.
pub(crate) fn bytes(bytes: &[u8]) -> Result<Checked, LoadError> {
    let Some((first, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(LoadError::Truncated { expected: 8, found: bytes.len() });
    };
    let len = header::header_len(*first, bytes.len())?;
    let (header, flavour) = head(&rest[..len], bytes.len())?;
    body(&header, flavour, bytes)
}

/// The tensors of a file that holds nothing but `golden.*`: a bundle's self-check.
pub(crate) fn recorded(bytes: &[u8]) -> Result<Recorded, LoadError> {
    let Some((first, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(LoadError::Truncated { expected: 8, found: bytes.len() });
    };
    let header = header::parse(&rest[..header::header_len(*first, bytes.len())?])?;
    check_length(&header, bytes.len())?;
    let mut tensors = Recorded::new();
    for entry in header.entries {
        let Some(name) = entry.name.strip_prefix(GOLDEN) else {
            return Err(LoadError::Unexpected { name: entry.name, found: entry.shape });
        };
        let raw = bytes[header.data_start + entry.begin..header.data_start + entry.end].to_vec();
        tensors.insert(name.to_owned(), (entry, raw));
    }
    Ok(tensors)
}

/// Everything that can be known from the header and the length of the file.
fn head(json: &[u8], file_len: usize) -> Result<(Header, Flavour), LoadError> {
    let header = header::parse(json)?;
    let flavour = Flavour::parse(header.config.as_deref().ok_or(LoadError::ConfigAbsent)?)?;
    check_names(&header, &flavour)?;
    check_length(&header, file_len)?;
    Ok((header, flavour))
}

fn check_length(header: &Header, found: usize) -> Result<(), LoadError> {
    let expected = header.data_start.saturating_add(header.data_len);
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(LoadError::Truncated { expected, found }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(LoadError::Trailing { expected, found }),
    }
}

/// The second to last dimension that the configuration does not tell, from the file itself.
fn side_width(header: &Header, name: &str, axis: usize) -> Option<usize> {
    let entry = header.entries.iter().find(|e| e.name == name)?;
    entry.shape.get(axis).copied().filter(|width| (1..=SIDE_WIDTH_MAX).contains(width))
}

fn check_names(header: &Header, flavour: &Flavour) -> Result<(), LoadError> {
    let expected = match flavour {
        Flavour::RelBias(config) => {
            let hidden = side_width(header, spec::HEAD_IN, 0).unwrap_or(config.embedding_dim);
            spec::rel_bias(config, hidden, side_width(header, spec::CONTENT_PROJ, 1))
        }
        Flavour::Stu(config) => spec::stu(config),
    };
    for Expected { name, shape } in &expected {
        let Some(entry) = header.entries.iter().find(|e| e.name == *name) else {
            return Err(LoadError::Absent { name: name.clone(), expected: shape.clone() });
        };
        if entry.shape != *shape {
            return Err(LoadError::Shape { name: name.clone(), expected: shape.clone(), found: entry.shape.clone() });
        }
        if !entry.dtype.is_float() {
            return Err(LoadError::Dtype { name: name.clone(), found: format!("{:?}", entry.dtype) });
        }
    }
    let stranger =
        header.entries.iter().find(|e| !e.name.starts_with(GOLDEN) && expected.iter().all(|x| x.name != e.name));
    match stranger {
        Some(entry) => Err(LoadError::Unexpected { name: entry.name.clone(), found: entry.shape.clone() }),
        None => Ok(()),
    }
}

fn body(header: &Header, flavour: Flavour, bytes: &[u8]) -> Result<Checked, LoadError> {
    // A file that shrank since its length was taken.
    check_length(header, bytes.len())?;
    let (mut weights, mut golden) = (BTreeMap::new(), BTreeMap::new());
    for entry in &header.entries {
        let raw = &bytes[header.data_start + entry.begin..header.data_start + entry.end];
        if entry.name.starts_with(GOLDEN) {
            golden.insert(entry.name[GOLDEN.len()..].to_owned(), (entry.clone(), raw.to_vec()));
        } else {
            let data = floats(entry, raw)?;
            weights.insert(entry.name.clone(), Tensor { shape: entry.shape.clone(), data: data.into() });
        }
    }
    Ok(Checked { flavour, hasher: Sha256::new().chain_update(bytes), weights, golden })
}

/// The finite numbers of a float tensor, as f32.
pub(crate) fn floats(entry: &Entry, raw: &[u8]) -> Result<Vec<f32>, LoadError> {
    let layout = |e: candle_core::Error| LoadError::Layout { name: entry.name.clone(), reason: e.to_string() };
    let data = match entry.dtype {
        Dtype::F32 => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 | Dtype::Bf16 => {
            let dtype = if entry.dtype == Dtype::F16 { DType::F16 } else { DType::BF16 };
            candle_core::Tensor::from_raw_buffer(raw, dtype, &[raw.len() / 2], &Device::Cpu)
                .and_then(|t| t.to_dtype(DType::F32)?.to_vec1::<f32>())
                .map_err(layout)?
        }
        Dtype::I32 | Dtype::I64 => {
            return Err(LoadError::Dtype { name: entry.name.clone(), found: format!("{:?}", entry.dtype) });
        }
    };
    match data.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(LoadError::NotFinite { name: entry.name.clone(), index, value: data[index] }),
        None => Ok(data),
    }
}
