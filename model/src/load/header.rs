//! The header of a safetensors file, read strictly: every rule of the format is held before a single number
//! is looked at.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{HEADER_BYTES_MAX, LoadError, TENSORS_MAX};

/// Element types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
    I32,
    I64,
}

impl Dtype {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "I32" => Self::I32,
            "I64" => Self::I64,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// One tensor of the file; `begin..end` counts from the start of the data.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// A header that holds: names are unique and the tensors tile the data without holes.
#[derive(Debug)]
pub(crate) struct Header {
    /// Text of the metadata key `config`, where there is one.
    pub(crate) config: Option<String>,
    pub(crate) entries: Vec<Entry>,
    /// Offset of the data in the file.
    pub(crate) data_start: usize,
    /// Bytes of data that the entries call for.
    pub(crate) data_len: usize,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// A JSON object as its pairs in order: a map type would silently keep one of two equal keys.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

fn damaged(reason: impl fmt::Display) -> LoadError {
    LoadError::Header { reason: reason.to_string() }
}

/// Bytes of the header, from the first 8 bytes of a file of `file_len` bytes.
pub(crate) fn header_len(first: [u8; 8], file_len: usize) -> Result<usize, LoadError> {
    let len = u64::from_le_bytes(first);
    if len > HEADER_BYTES_MAX as u64 {
        return Err(LoadError::HeaderTooLarge { bytes: len, limit: HEADER_BYTES_MAX });
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > file_len.saturating_sub(8) {
        return Err(LoadError::Truncated { expected: len + 8, found: file_len });
    }
    Ok(len)
}

/// Reads the JSON text of a header.
pub(crate) fn parse(json: &[u8]) -> Result<Header, LoadError> {
    let pairs: Pairs<Box<RawValue>> = serde_json::from_slice(json).map_err(damaged)?;
    if pairs.0.len() > TENSORS_MAX {
        return Err(LoadError::TooManyTensors { found: pairs.0.len(), limit: TENSORS_MAX });
    }
    let (mut seen, mut config, mut entries) = (HashSet::new(), None, Vec::new());
    for (name, raw) in pairs.0 {
        if !seen.insert(name.clone()) {
            return Err(LoadError::Duplicate { name });
        }
        if name == "__metadata__" {
            let metadata: Pairs<String> = serde_json::from_str(raw.get()).map_err(damaged)?;
            for (key, value) in metadata.0 {
                if key == "config" && config.replace(value).is_some() {
                    return Err(LoadError::Duplicate { name: "__metadata__.config".to_owned() });
                }
            }
        } else {
            entries.push(entry(name, raw.get())?);
        }
    }
    let data_len = check_layout(&mut entries)?;
    Ok(Header { config, entries, data_start: json.len() + 8, data_len })
}

fn entry(name: String, json: &str) -> Result<Entry, LoadError> {
    let raw: RawEntry = match serde_json::from_str(json) {
        Ok(raw) => raw,
        Err(e) => return Err(LoadError::Layout { name, reason: e.to_string() }),
    };
    let Some(dtype) = Dtype::parse(&raw.dtype) else {
        return Err(LoadError::Dtype { name, found: raw.dtype });
    };
    let (begin, end) = raw.data_offsets;
    let size = raw.shape.iter().try_fold(dtype.bytes(), |product, &dim| product.checked_mul(dim));
    if size.is_none() || end.checked_sub(begin) != size {
        let reason = format!("offsets {begin}..{end} do not fit shape {:?} of {}", raw.shape, raw.dtype);
        return Err(LoadError::Layout { name, reason });
    }
    Ok(Entry { name, dtype, shape: raw.shape, begin, end })
}

/// Holds the tensors to tile the data from 0 on without holes or overlaps; gives its length.
fn check_layout(entries: &mut [Entry]) -> Result<usize, LoadError> {
    entries.sort_by_key(|e| (e.begin, e.end));
    let mut at = 0;
    for entry in entries {
        if entry.begin != at {
            let reason = format!("data begins at byte {}, but the tensor before it ends at {at}", entry.begin);
            return Err(LoadError::Layout { name: entry.name.clone(), reason });
        }
        at = entry.end;
    }
    Ok(at)
}
