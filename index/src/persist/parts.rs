//! One file of a saved index: written with its digest, read only at the right size and with the right digest.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Bitmap, IndexError};

/// Hex digits of the digest in a file's name.
const NAME_DIGITS: usize = 16;

/// Size and digest of a part.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) bytes: u64,
    sha256: String,
}

/// Makes the error for a failed operation on `path`.
pub(super) fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> IndexError + '_ {
    move |cause| IndexError::Io { path: path.to_owned(), cause }
}

pub(super) fn damaged(path: &Path, fault: String) -> IndexError {
    IndexError::Damaged { path: path.to_owned(), fault }
}

pub(super) fn hex_digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
        text
    })
}

/// Where a part lies: its name is made from its digest, never taken from the file.
pub(super) fn path(directory: &Path, name: &str, part: &Part) -> PathBuf {
    directory.join(file_name(name, part))
}

fn file_name(name: &str, part: &Part) -> String {
    let digits: String = part.sha256.chars().filter(char::is_ascii_hexdigit).take(NAME_DIGITS).collect();
    format!("{name}-{digits}.bin")
}

/// Writes a stream of 4-byte values as the part `name`.
pub(super) fn write(
    directory: &Path,
    name: &'static str,
    values: &mut dyn Iterator<Item = [u8; 4]>,
) -> Result<Part, IndexError> {
    const BATCH: usize = 1 << 14;
    let mut batch = Vec::with_capacity(4 * BATCH);
    write_with(directory, name, |sink| {
        for value in values {
            batch.extend_from_slice(&value);
            if batch.len() == 4 * BATCH {
                sink(&batch)?;
                batch.clear();
            }
        }
        sink(&batch)
    })
}

/// Writes bytes as the part `name`.
pub(super) fn write_bytes(directory: &Path, name: &'static str, bytes: &[u8]) -> Result<Part, IndexError> {
    write_with(directory, name, |sink| sink(bytes))
}

type Sink<'a> = dyn FnMut(&[u8]) -> std::io::Result<()> + 'a;

fn write_with(
    directory: &Path,
    name: &'static str,
    fill: impl FnOnce(&mut Sink<'_>) -> std::io::Result<()>,
) -> Result<Part, IndexError> {
    let fresh = directory.join(format!("{name}.new"));
    let mut file = BufWriter::new(File::create(&fresh).map_err(io_error(&fresh))?);
    let mut digest = Sha256::new();
    let mut bytes = 0;
    fill(&mut |batch| {
        digest.update(batch);
        bytes += batch.len() as u64;
        file.write_all(batch)
    })
    .and_then(|()| file.flush())
    .and_then(|()| file.get_ref().sync_all())
    .map_err(io_error(&fresh))?;
    let part = Part { bytes, sha256: hex(&digest.finalize()) };
    let path = path(directory, name, &part);
    fs::rename(&fresh, &path).map_err(io_error(&path))?;
    Ok(part)
}

/// Removes the parts of former saves. What cannot be removed stays: it only takes space.
pub(super) fn remove_others(directory: &Path, current: &[(&'static str, &Part)]) {
    let keep: Vec<String> = current.iter().map(|(name, part)| file_name(name, part)).collect();
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // Only names that this module makes.
        let Some((part, digits)) = name.strip_suffix(".bin").and_then(|stem| stem.rsplit_once('-')) else { continue };
        let ours = ["slots", "vectors", "alive", "delta-slots", "delta-vectors", "lists"].contains(&part)
            && digits.len() == NAME_DIGITS
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if ours && !keep.iter().any(|kept| kept == name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The bytes of a part, whose size in the manifest has been found plausible before.
pub(super) fn read(directory: &Path, name: &'static str, part: &Part) -> Result<Vec<u8>, IndexError> {
    let path = path(directory, name, part);
    let file = File::open(&path).map_err(io_error(&path))?;
    let size = file.metadata().map_err(io_error(&path))?.len();
    if size != part.bytes {
        return Err(damaged(&path, format!("{size} bytes where {} are due", part.bytes)));
    }
    let room = usize::try_from(size).map_err(|_| damaged(&path, "too large for this machine".to_owned()))?;
    let mut bytes = Vec::with_capacity(room);
    file.take(size).read_to_end(&mut bytes).map_err(io_error(&path))?;
    if bytes.len() != room || hex_digest(&bytes) != part.sha256 {
        return Err(damaged(&path, "its digest does not match".to_owned()));
    }
    Ok(bytes)
}

pub(super) fn read_u32(directory: &Path, name: &'static str, part: &Part) -> Result<Vec<u32>, IndexError> {
    Ok(read(directory, name, part)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

pub(super) fn read_f32(directory: &Path, name: &'static str, part: &Part) -> Result<Vec<f32>, IndexError> {
    Ok(read(directory, name, part)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

pub(super) fn read_words(directory: &Path, name: &'static str, part: &Part) -> Result<Bitmap, IndexError> {
    let bytes = read(directory, name, part)?;
    Ok(Bitmap::from_words(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()))
}
