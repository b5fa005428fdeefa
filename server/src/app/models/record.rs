//! Which model a data directory serves: what a restart goes by.

use crate::config::Config;
use anyhow::{Context, bail};
use longbow_model::bundle;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The form of the record.
const FORMAT: u32 = 1;
/// Bundles looked at in the model directory.
pub(super) const LISTED_MAX: usize = 100;

/// A model that served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Served {
    /// Where it was loaded from. In the file relative to the data directory if it lies in there, so that a directory can be moved
    /// and a copy serves its own.
    pub(crate) path: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
}

/// `<data.dir>/models/current`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u32,
    /// `model.path` when this was written: once that is set to something else, this record is void.
    configured: String,
    pub(crate) current: Served,
    pub(crate) previous: Option<Served>,
}

/// Where bundles may be loaded from while serving.
pub(crate) fn models_dir(config: &Config) -> PathBuf {
    match config.model.dir.as_str() {
        "" => config.data.dir.join("models"),
        dir => PathBuf::from(dir),
    }
}

fn place(config: &Config) -> PathBuf {
    config.data.dir.join("models").join("current")
}

/// A path as the file has it.
fn kept(config: &Config, served: &Served) -> Served {
    let full = served.path.canonicalize().unwrap_or_else(|_| served.path.clone());
    let root = config.data.dir.canonicalize();
    let path = root.ok().and_then(|root| full.strip_prefix(root).ok().map(Path::to_owned)).unwrap_or(full);
    Served { path, ..served.clone() }
}

/// Why a start has no model to serve, apart from a disk that cannot be read, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{fault}: {fix}")]
pub(crate) struct NoModel {
    pub(crate) fault: String,
    pub(crate) fix: String,
}

/// A path of the file as this process reaches it: one that is absolute stays.
fn found(config: &Config, served: Served) -> Served {
    let path = config.data.dir.join(&served.path);
    // Servers before this form wrote paths as seen from where they ran.
    if !path.exists() && served.path.exists() { served } else { Served { path, ..served } }
}

/// True if a server has been ready on this data directory: its first start writes the record.
pub(crate) fn served_before(config: &Config) -> bool {
    place(config).exists()
}

/// Looks for the model that a start would serve and changes nothing.
///
/// # Errors
/// The data directory is none, or there is no model.
pub(crate) fn find_model(config: &Config) -> anyhow::Result<()> {
    let dir = &config.data.dir;
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => bail!("data.dir {}: is not a directory", dir.display()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("data.dir {}", dir.display()));
        }
        _ => {}
    }
    chosen_model(config).map(drop)
}

/// The record, unless there is none or the settings have overruled it.
fn read(config: &Config) -> anyhow::Result<Option<Record>> {
    let path = place(config);
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let record: Record =
        serde_json::from_slice(&json).ok().filter(|record: &Record| record.format == FORMAT).ok_or_else(|| {
            NoModel { fault: format!("{} is damaged", path.display()), fix: "remove it and set model.path".to_owned() }
        })?;
    if record.configured != config.model.path {
        tracing::info!(
            recorded = %record.current.path.display(), configured = config.model.path,
            "model.path was changed since the last switch: it decides"
        );
        return Ok(None);
    }
    let (current, previous) = (found(config, record.current), record.previous.map(|served| found(config, served)));
    Ok(Some(Record { current, previous, ..record }))
}

/// Writes it in one step: a crash leaves the old record or the new one.
pub(crate) fn write(config: &Config, current: &Served, previous: Option<&Served>) -> anyhow::Result<()> {
    let path = place(config);
    let record = Record {
        format: FORMAT,
        configured: config.model.path.clone(),
        current: kept(config, current),
        previous: previous.map(|served| kept(config, served)),
    };
    let draft = path.with_extension("new");
    let written = || -> anyhow::Result<()> {
        fs::create_dir_all(config.data.dir.join("models"))?;
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&record)?)?;
        file.sync_all()?;
        Ok(fs::rename(&draft, &path)?)
    };
    written().with_context(|| format!("write {}", path.display()))
}

/// The model that a start serves, and the record of the last switch where that names it.
pub(crate) fn chosen_model(config: &Config) -> anyhow::Result<(PathBuf, Option<Record>)> {
    let record = read(config)?;
    let path = match &record {
        Some(record) => record.current.path.clone(),
        None => first(config)?,
    };
    Ok((path, record))
}

/// Where the model is that a start without a record serves: `model.path`, else the only bundle of the model directory, else
/// a bare file `model.safetensors` in the data directory.
fn first(config: &Config) -> anyhow::Result<PathBuf> {
    if !config.model.path.is_empty() {
        let path = PathBuf::from(&config.model.path);
        if !path.exists() {
            let fix = "set it to a bundle directory or a safetensors file".to_owned();
            bail!(NoModel { fault: format!("model.path {} does not exist", path.display()), fix });
        }
        return Ok(path);
    }
    let dir = models_dir(config);
    let bare = config.data.dir.join(bundle::MODEL);
    match &list(&dir)[..] {
        [only] => Ok(dir.join(only)),
        [] if bare.exists() => Ok(bare),
        [] => bail!(NoModel {
            fault: format!("no model: there is no bundle in {} and no {}", dir.display(), bare.display()),
            fix: "set model.path to a bundle directory or a safetensors file, or run `longbow demo` to make a world with \
                  a model"
                .to_owned(),
        }),
        several => bail!(NoModel {
            fault: format!("{} holds several models ({})", dir.display(), several.join(", ")),
            fix: "set model.path to one".to_owned(),
        }),
    }
}

/// Names of the bundles in a directory, in order.
pub(super) fn list(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let bundles = entries.filter_map(Result::ok).filter(|entry| entry.path().join(bundle::MANIFEST).is_file());
    let mut names: Vec<String> =
        bundles.filter_map(|entry| entry.file_name().into_string().ok()).take(LISTED_MAX).collect();
    names.sort_unstable();
    names
}

/// A bundle of the model directory by its name or path. Files that links lead to must be in there too, so that the admin port
/// cannot be made to read the disk at large.
pub(super) fn within(dir: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let root = dir.canonicalize().with_context(|| format!("the model directory {}", dir.display()))?;
    let outside = || format!("must be a bundle directory below {}", dir.display());
    let path = root.join(text).canonicalize().with_context(outside)?;
    if path == root || !path.starts_with(&root) || !path.is_dir() {
        bail!(outside());
    }
    for file in [bundle::MANIFEST, bundle::MODEL, bundle::SELF_CHECK] {
        if path.join(file).canonicalize().is_ok_and(|file| !file.starts_with(&root)) {
            bail!("`{file}` is a link that leads out of {}", dir.display());
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.data.dir = folder.path().join("data");
        fs::create_dir_all(config.data.dir.join("models")).unwrap();
        (folder, config)
    }

    fn add(config: &Config, name: &str) {
        let dir = config.data.dir.join("models").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(bundle::MANIFEST), "{}").unwrap();
    }

    #[test]
    fn a_start_serves_what_is_set_else_the_only_bundle_else_the_bare_file() {
        let (_folder, mut config) = config();
        assert!(first(&config).unwrap_err().to_string().contains("longbow demo"));
        fs::write(config.data.dir.join("model.safetensors"), "").unwrap();
        assert!(first(&config).unwrap().ends_with("data/model.safetensors"));
        add(&config, "one");
        assert!(first(&config).unwrap().ends_with("models/one"));
        add(&config, "two");
        assert!(first(&config).unwrap_err().to_string().contains("one, two"));
        config.model.path = config.data.dir.join("models/two").to_string_lossy().into_owned();
        assert!(first(&config).unwrap().ends_with("models/two"));
        config.model.path.push('x');
        assert!(first(&config).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn a_record_is_read_back_and_void_once_the_settings_say_otherwise() {
        let (_folder, mut config) = config();
        assert_eq!(read(&config).unwrap(), None);
        let served = |name: &str| Served {
            path: config.data.dir.join("models").join(name),
            name: name.into(),
            version: "00".into(),
        };
        write(&config, &served("b"), Some(&served("a"))).unwrap();
        let record = read(&config).unwrap().unwrap();
        assert_eq!((record.current, record.previous), (served("b"), Some(served("a"))));
        assert!(list(&models_dir(&config)).is_empty(), "the record is no bundle");
        config.model.path = "elsewhere".to_owned();
        assert_eq!(read(&config).unwrap(), None);
        config.model.path.clear();
        fs::write(place(&config), "{").unwrap();
        assert!(read(&config).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_directory_can_be_moved_and_a_copy_serves_its_own_models() {
        let (folder, mut config) = config();
        add(&config, "one");
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let served = |path: PathBuf| Served { path, name: "one".into(), version: "00".into() };
        let before = (served(config.data.dir.join("models/one")), served(elsewhere));
        write(&config, &before.0, Some(&before.1)).unwrap();
        let moved = folder.path().join("moved");
        fs::rename(&config.data.dir, &moved).unwrap();
        config.data.dir = moved.clone();
        let record = read(&config).unwrap().unwrap();
        assert_eq!((record.current.path, record.previous), (moved.join("models/one"), Some(before.1)));
    }

    #[test]
    fn only_bundles_below_the_model_directory_can_be_named() {
        let (folder, config) = config();
        add(&config, "one");
        let dir = models_dir(&config);
        assert!(within(&dir, "one").unwrap().ends_with("models/one"));
        assert!(within(&dir, &dir.join("one").to_string_lossy()).is_ok());
        fs::create_dir(folder.path().join("outside")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), dir.join("link")).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        add(&config, "leaky");
        std::os::unix::fs::symlink(folder.path().join("secret"), dir.join("leaky/model.safetensors")).unwrap();
        for wrong in ["", ".", "..", "../../outside", "/etc", "link", "nosuch", "one/bundle.json", "leaky"] {
            let error = within(&dir, wrong).unwrap_err().to_string();
            assert!(error.contains("models"), "{wrong}: {error}");
        }
    }
}
