//! Opening redb files so that neither a first start cut off half-way nor a damaged file can pass for an empty one.

use redb::Database;
use std::fs::{self, File};
use std::path::Path;

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
