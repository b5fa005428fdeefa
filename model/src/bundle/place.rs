//! Puts the files of a bundle into a directory, whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::{BundleError, MANIFEST, MODEL, SELF_CHECK};

/// Writes a bundle that is in memory (embedded in a program, say) to `dir`, which must not hold another one. False where it
/// was there already.
///
/// # Errors
/// [`BundleError::Exists`], [`BundleError::Io`]. Nothing is checked here: [`super::Bundle::open`] does that.
pub fn install(
    dir: impl AsRef<Path>,
    manifest: &[u8],
    model: &[u8],
    self_check: Option<&[u8]>,
) -> Result<bool, BundleError> {
    let dir = dir.as_ref();
    if dir.exists() {
        // The manifest holds the hashes of the rest.
        return match fs::read(dir.join(MANIFEST)) {
            Ok(there) if there == manifest => Ok(false),
            _ => Err(BundleError::Exists(dir.to_owned())),
        };
    }
    let mut files = vec![(MANIFEST, manifest), (MODEL, model)];
    files.extend(self_check.map(|bytes| (SELF_CHECK, bytes)));
    place(dir, &files)?;
    Ok(true)
}

/// Writes the files to a directory beside `dir` that then takes its name: `dir` never holds half a bundle.
pub(super) fn place(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), BundleError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |cause| BundleError::Io { path: path.clone(), cause }
    };
    let mut beside = dir.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    if beside.exists() {
        // Left by a process that was killed here.
        fs::remove_dir_all(beside).map_err(io(beside))?;
    }
    fs::create_dir_all(beside).map_err(io(beside))?;
    for (name, bytes) in files {
        let path = beside.join(name);
        let mut file = File::create(&path).map_err(io(&path))?;
        file.write_all(bytes).map_err(io(&path))?;
        file.sync_all().map_err(io(&path))?;
    }
    fs::rename(beside, dir).map_err(io(dir))
}
