//! Bundles made for tests, whole and damaged, and a world that serves one.

use crate::world::{ITEMS, World, model_config};
use longbow::actions;
use longbow_model::bundle::{self, About, Calibration, Features, MANIFEST, MODEL, SELF_CHECK};
use longbow_model::{Model, Seed, spec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// Width of content vectors.
pub(crate) const CONTENT: usize = 6;

/// Writes bundle `name` below the model directory of `data`; its version.
pub(crate) fn write(data: &Path, name: &str, (seed, items): (u64, u32), change: impl FnOnce(&mut About)) -> String {
    let seed = Seed { seed, content_dim: Some(CONTENT), head_hidden: 16 };
    let model = Model::seeded(model_config(items), &seed).unwrap();
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut about = About {
        name: name.to_owned(),
        made_by: "a test".to_owned(),
        created: "2026-11-24T12:00:00Z".to_owned(),
        features: Features {
            actions: own(&actions::NAMES),
            tasks: own(&["click", "conversion", "value"]),
            times: "unix_seconds".to_owned(),
        },
        calibration: vec![Calibration { task: "click".to_owned(), scale: 1.1, shift: 0.2 }],
        training: Value::Null,
    };
    change(&mut about);
    bundle::write(dir(data, name), &model, &about, 1).unwrap().to_string()
}

/// Where bundle `name` is.
pub(crate) fn dir(data: &Path, name: &str) -> PathBuf {
    data.join("models").join(name)
}

/// A data directory with the bundles `a` and `b`: another seed, more items; and their versions.
pub(crate) fn two() -> (PathBuf, String, String) {
    let data = tempfile::tempdir().unwrap().keep();
    let a = write(&data, "a", (7, ITEMS), |_| {});
    let b = write(&data, "b", (8, ITEMS + 100), |_| {});
    (data, a, b)
}

/// A world over `data` that begins with bundle `a`.
pub(crate) fn world(data: &Path) -> World {
    let path = dir(data, "a").to_string_lossy().into_owned();
    World::start(data.to_owned(), move |config| config.model.path = path)
}

/// Loads a bundle and waits; status and body.
pub(crate) fn load(world: &World, name: &str) -> (u16, Value) {
    let answer = world.admin("POST", "/v1/models?wait=true", json!({ "path": name }));
    (answer.status, answer.json())
}

/// Name of the model that serves.
pub(crate) fn serving(world: &World) -> String {
    world.admin("GET", "/v1/models", "").json()["current"]["name"].as_str().unwrap().to_owned()
}

/// Changes the manifest of a bundle.
pub(crate) fn edit(bundle: &Path, change: impl FnOnce(&mut Value)) {
    let mut manifest = serde_json::from_slice(&fs::read(bundle.join(MANIFEST)).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(bundle.join(MANIFEST), manifest.to_string()).unwrap();
}

/// Writes a changed file and makes its hash right again.
fn replace(bundle: &Path, file: &str, bytes: &[u8]) {
    fs::write(bundle.join(file), bytes).unwrap();
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    edit(bundle, |manifest| manifest["sha256"][file] = hash.into());
}

/// The bytes of a tensor in a file.
fn range(file: &[u8], name: &str) -> std::ops::Range<usize> {
    let header = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let json: Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    let at = |i: usize| 8 + header + usize::try_from(json[name]["data_offsets"][i].as_u64().unwrap()).unwrap();
    at(0)..at(1)
}

/// Two layers' weights change places; hashes are made right.
pub(crate) fn exchange_tensors(bundle: &Path) {
    let good = fs::read(bundle.join(MODEL)).unwrap();
    let (a, b) = (range(&good, &spec::layer(0, "_uvqk")), range(&good, &spec::layer(1, "_uvqk")));
    let mut bad = good.clone();
    bad[a.clone()].copy_from_slice(&good[b.clone()]);
    bad[b].copy_from_slice(&good[a]);
    assert_ne!(bad, good);
    replace(bundle, MODEL, &bad);
}

/// One expected probability is another; hashes are made right.
pub(crate) fn change_expectation(bundle: &Path) {
    let mut recorded = fs::read(bundle.join(SELF_CHECK)).unwrap();
    let at = range(&recorded, "golden.candidate_probs").start;
    let value = f32::from_le_bytes(recorded[at..at + 4].try_into().unwrap());
    recorded[at..at + 4].copy_from_slice(&(value + 0.01).to_le_bytes());
    replace(bundle, SELF_CHECK, &recorded);
}

/// The last bytes of the weights are gone.
pub(crate) fn truncate(bundle: &Path) {
    let bytes = fs::read(bundle.join(MODEL)).unwrap();
    fs::write(bundle.join(MODEL), &bytes[..bytes.len() - 100]).unwrap();
}

/// The self-check is gone, and nothing speaks of it.
pub(crate) fn drop_self_check(bundle: &Path) {
    fs::remove_file(bundle.join(SELF_CHECK)).unwrap();
    edit(bundle, |manifest| drop(manifest["sha256"].as_object_mut().unwrap().remove(SELF_CHECK)));
}
