//! Opening redb files so that neither a first start cut off half-way nor a damaged file can pass for an empty one.

use redb::Database;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileFault {
    /// Its bytes are not what redb wrote.
    #[error("is damaged ({0}): restore it from a backup")]
    Damaged(String),
    /// It cannot be read or written.
    #[error("{0}")]
    Storage(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for FileFault {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Self::Damaged(what),
            redb::Error::Io(io) if matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Self::Damaged(io.to_string())
            }
            other => Self::Storage(other),
        }
    }
}

/// Runs the first work on a file: redb trusts a file that was closed in order, and panics on a page that is not what it wrote.
/// `work` owns the database, so that one in which it panics is not written to any more.
pub(crate) fn checked<T>(work: impl FnOnce() -> T) -> Result<T, FileFault> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        FileFault::Damaged(text.unwrap_or("redb panicked").to_owned())
    })
}

/// Opens the file, or makes it: under another name first, synced, then renamed. A file that exists is never made anew.
pub(crate) fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    if !fs::exists(path)? {
        let new = path.with_extension("redb.new");
        if fs::exists(&new)? {
            fs::remove_file(&new)?;
        }
        drop(builder.create(&new)?);
        File::open(&new)?.sync_all()?;
        fs::rename(&new, path)?;
    }
    if let Some(parent) = path.parent() {
        // The name must survive a power cut as well as the bytes, also if the start that made it ended here.
        File::open(parent)?.sync_all()?;
    }
    Ok(builder.open(path)?)
}
