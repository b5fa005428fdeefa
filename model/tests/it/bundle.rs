//! Bundles: what is written is read, and every kind of damage is refused by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longbow_kernels::{Engine, KvFormat};
use longbow_model::bundle::{self, About, BundleError, Calibration, Features, MANIFEST, MODEL, SELF_CHECK};
use longbow_model::{Bundle, CpuEncoder, ItemTable, LoadError, Model, ReferenceEncoder, Seed, golden, spec};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support;

const TASKS: [&str; 3] = ["click", "conversion", "value"];

fn about(calibration: &[(f64, f64)]) -> About {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    About {
        name: "small".to_owned(),
        made_by: "a test".to_owned(),
        created: "2026-11-24T12:00:00Z".to_owned(),
        features: Features {
            actions: own(&["none", "a", "b", "c", "d", "e", "f", "g"]),
            tasks: own(&TASKS),
            times: "unix_seconds".to_owned(),
        },
        calibration: calibration
            .iter()
            .zip(TASKS)
            .map(|(&(scale, shift), task)| Calibration { task: task.to_owned(), scale, shift })
            .collect(),
        training: serde_json::json!({"events": 5}),
    }
}

fn model() -> Model {
    let seed = Seed { seed: 3, content_dim: Some(10), head_hidden: 20 };
    Model::seeded(support::config(100), &seed).unwrap()
}

/// A bundle in a folder of its own.
fn made(calibration: &[(f64, f64)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("small");
    bundle::write(&dir, &model(), &about(calibration), 1).unwrap();
    (folder, dir)
}

fn encoder(bundle: &Bundle) -> CpuEncoder {
    CpuEncoder::new(Arc::clone(bundle.model()), Arc::new(Engine::new(1, None).unwrap()))
}

/// Opens and replays.
fn whole(dir: &Path) -> Result<Bundle, BundleError> {
    let bundle = Bundle::open(dir)?;
    assert!(bundle.self_check(&mut encoder(&bundle))?.is_some());
    Ok(bundle)
}

/// Writes a changed file, with its hash made right again.
fn replace(dir: &Path, file: &str, bytes: &[u8]) {
    fs::write(dir.join(file), bytes).unwrap();
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    edit(dir, |manifest| manifest["sha256"][file] = hash.into());
}

fn edit(dir: &Path, change: impl FnOnce(&mut Value)) {
    let mut manifest = serde_json::from_slice(&fs::read(dir.join(MANIFEST)).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(dir.join(MANIFEST), manifest.to_string()).unwrap();
}

#[test]
fn a_written_bundle_opens_passes_its_check_and_keeps_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("small");
    let version = bundle::write(&dir, &model(), &about(&[(1.5, -0.25)]), 1).unwrap();
    let bundle = whole(&dir).unwrap();
    assert_eq!((bundle.name(), bundle.model().version()), ("small", version));
    assert!(matches!(bundle::write(&dir, &model(), &about(&[]), 1), Err(BundleError::Exists(_))));
    let report = bundle.self_check(&mut encoder(&bundle)).unwrap().unwrap();
    let found: Vec<_> = report.checks.iter().map(|check| (check.what, check.rows)).collect();
    let rows = 1 + 2 + 50 + 100;
    let wanted = [("output", rows), ("output (slices)", rows), ("candidate_probs", 4 * 8), ("content_rows", 8)];
    assert_eq!(found, wanted);

    // Weights, features and calibration make the version; names and figures do not.
    let other = folder.path().join("other");
    assert_ne!(bundle::write(&other, &model(), &about(&[(1.5, -0.26)]), 1).unwrap(), version);
    let renamed = About { name: "another".to_owned(), ..about(&[(1.5, -0.25)]) };
    assert_eq!(bundle::write(folder.path().join("renamed"), &model(), &renamed, 9).unwrap(), version);
}

#[test]
fn states_in_bf16_have_a_bound_of_their_own_that_a_wrong_probability_breaks() {
    let (_folder, dir) = made(&[(1.5, -0.25)]);
    let bundle = Bundle::open(&dir).unwrap();
    let mut rounded = encoder(&bundle).keeping(KvFormat::Bf16);
    let report = bundle.self_check_bf16(&mut rounded).unwrap().unwrap();
    assert_eq!(report.which, "bf16 states");
    assert!(report.error_max() > golden::TOLERANCE && report.error_max() <= report.tolerance, "{report:?}");
    assert!(matches!(bundle.self_check(&mut rounded), Err(BundleError::Wrong { .. })), "f32's bound is not for bf16");

    let mut bytes = fs::read(dir.join(SELF_CHECK)).unwrap();
    let at = range(&bytes, "golden.candidate_probs").start;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(value + 0.3).to_le_bytes());
    replace(&dir, SELF_CHECK, &bytes);
    let bundle = Bundle::open(&dir).unwrap();
    let error = bundle.self_check_bf16(&mut encoder(&bundle).keeping(KvFormat::Bf16)).unwrap_err().to_string();
    assert!(error.contains("candidate_probs of history 0, row 0"), "{error}");
}

#[test]
fn calibration_is_folded_into_the_heads() {
    let calibration = [(1.3, 0.7), (0.5, -2.0)];
    let (_folder, dir) = made(&calibration);
    let served = Arc::clone(whole(&dir).unwrap().model());
    let plain = model();
    let items = ItemTable::new(&plain);
    let rows: Vec<f32> = (0..26 * 5).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 25.0).collect();
    let probs =
        |model: &Model| ReferenceEncoder::new(model).unwrap().probabilities(&rows, &items, &[1, 2, 3, 4, 5]).unwrap();
    let logit = |p: f32| (f64::from(p) / (1.0 - f64::from(p))).ln();
    for (at, (found, from)) in probs(&served).into_iter().zip(probs(&plain)).enumerate() {
        let (scale, shift) = calibration.get(at % 3).copied().unwrap_or((1.0, 0.0));
        let wanted = scale * logit(from) + shift;
        assert!((logit(found) - wanted).abs() < 1e-4, "task {}: {found} from {from}", at % 3);
    }
    for name in [spec::ITEM_EMB, spec::HEAD_IN, spec::POS_EMB] {
        assert_eq!(served.tensor(name), plain.tensor(name), "{name} is as it was");
    }
}

#[test]
fn a_damaged_file_is_refused_with_its_name() {
    let (_folder, dir) = made(&[]);
    let good = fs::read(dir.join(MODEL)).unwrap();
    fs::write(dir.join(MODEL), &good[..good.len() - 5]).unwrap();
    let error = whole(&dir).unwrap_err();
    assert!(matches!(error, BundleError::Load { file: MODEL, cause: LoadError::Truncated { .. } }), "{error}");

    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(dir.join(MODEL), &changed).unwrap();
    assert!(matches!(whole(&dir), Err(BundleError::Hash { file: MODEL, .. })));
    fs::write(dir.join(MODEL), &good).unwrap();
    assert!(whole(&dir).is_ok(), "put right again");

    for file in [SELF_CHECK, MODEL] {
        let bytes = fs::read(dir.join(file)).unwrap();
        fs::remove_file(dir.join(file)).unwrap();
        let error = whole(&dir).unwrap_err();
        assert!(error.to_string().contains(&format!("`{file}` is missing")), "{error}");
        fs::write(dir.join(file), bytes).unwrap();
    }
    fs::remove_file(dir.join(MANIFEST)).unwrap();
    assert!(matches!(whole(&dir), Err(BundleError::Missing { file, .. }) if file == MANIFEST));
    fs::write(dir.join(MANIFEST), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(whole(&dir), Err(BundleError::TooLarge { file: MANIFEST, .. })));
}

/// The bytes of two tensors of equal shape change places.
fn exchanged(bytes: &[u8], a: &str, b: &str) -> Vec<u8> {
    let (a, b) = (range(bytes, a), range(bytes, b));
    let mut changed = bytes.to_vec();
    changed[a.clone()].copy_from_slice(&bytes[b.clone()]);
    changed[b].copy_from_slice(&bytes[a]);
    assert_ne!(changed, bytes);
    changed
}

/// The bytes of a tensor in a file.
fn range(file: &[u8], name: &str) -> std::ops::Range<usize> {
    let header = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let json: Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    let at = |i: usize| 8 + header + usize::try_from(json[name]["data_offsets"][i].as_u64().unwrap()).unwrap();
    at(0)..at(1)
}

#[test]
fn whole_but_wrong_weights_fail_the_self_check_by_row_and_error() {
    let (_folder, dir) = made(&[(1.2, 0.1)]);
    let good = fs::read(dir.join(MODEL)).unwrap();
    for (a, b) in [
        (spec::layer(0, "_uvqk"), spec::layer(1, "_uvqk")),
        (spec::layer(0, "_rel_attn_bias._ts_w"), spec::layer(1, "_rel_attn_bias._ts_w")),
        (spec::HEAD_NORM.to_owned(), spec::HEAD_NORM_BIAS.to_owned()),
    ] {
        replace(&dir, MODEL, &exchanged(&good, &a, &b));
        let bundle = Bundle::open(&dir).unwrap();
        let error = bundle.self_check(&mut encoder(&bundle)).unwrap_err();
        assert!(matches!(error, BundleError::Wrong { .. }), "{a} and {b}: {error}");
        for word in ["history", "row", "relative error"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    replace(&dir, MODEL, &good);
    assert!(whole(&dir).is_ok());

    // One expected number of the outputs, by a thousandth.
    let recorded = fs::read(dir.join(SELF_CHECK)).unwrap();
    for name in ["golden.output", "golden.candidate_probs", "golden.content_rows"] {
        let at = range(&recorded, name).start;
        let mut changed = recorded.clone();
        let value = f32::from_le_bytes(changed[at..at + 4].try_into().unwrap());
        changed[at..at + 4].copy_from_slice(&(value + 1e-3_f32.max(value.abs() * 1e-2)).to_le_bytes());
        replace(&dir, SELF_CHECK, &changed);
        assert!(matches!(whole(&dir), Err(BundleError::Wrong { .. })), "{name}");
    }
}

#[test]
fn a_self_check_that_leaves_out_what_is_served_is_refused() {
    let (_folder, dir) = made(&[]);
    let (_, mut tensors) = support::golden(support::config(100), 3);
    tensors.retain(|name, _| name.starts_with("golden."));
    for left_out in ["golden.candidate_probs", "golden.output"] {
        let mut tensors = tensors.clone();
        tensors.remove(left_out);
        replace(&dir, SELF_CHECK, &support::file("", &tensors));
        let error = whole(&dir).unwrap_err().to_string();
        assert!(error.contains(left_out), "{error}");
    }
    tensors.insert("weight".to_owned(), support::f32s(&[1], &[1.0]));
    replace(&dir, SELF_CHECK, &support::file("", &tensors));
    assert!(matches!(whole(&dir), Err(BundleError::Load { file: SELF_CHECK, .. })));
}

#[test]
fn a_manifest_is_held_to_its_form_and_to_the_model() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 10] = [
        ("format", |m| m["format"] = 2.into()),
        ("name", |m| m["name"] = "".into()),
        ("unknown field", |m| m["surprise"] = 1.into()),
        ("features.times", |m| m["features"]["times"] = "days".into()),
        ("features.actions", |m| m["features"]["actions"] = serde_json::json!(["none"])),
        ("features.tasks", |m| m["features"]["tasks"] = serde_json::json!(["click", "conversion"])),
        ("none of features.tasks", |m| m["calibration"][0]["task"] = "like".into()),
        ("there twice", |m| m["calibration"][1]["task"] = "click".into()),
        ("scale", |m| m["calibration"][0]["scale"] = (-1.0).into()),
        ("no file of a bundle", |m| m["sha256"]["../secret"] = "00".into()),
    ];
    for (word, change) in cases {
        let (_folder, dir) = made(&[(1.0, 0.0), (1.0, 0.0)]);
        edit(&dir, change);
        let error = whole(&dir).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("bundle.json"), "{word}: {error}");
    }
}

#[test]
fn a_bare_file_has_no_check_and_a_bundle_in_memory_is_installed_once() {
    let (folder, dir) = made(&[]);
    let bare = Bundle::open(dir.join(MODEL)).unwrap();
    assert!(!bare.has_self_check() && bare.manifest().is_none());
    assert_eq!(bare.name(), "model");
    assert!(bare.self_check(&mut encoder(&bare)).unwrap().is_none());

    let bytes = |file: &str| fs::read(dir.join(file)).unwrap();
    let (manifest, model, check) = (bytes(MANIFEST), bytes(MODEL), bytes(SELF_CHECK));
    let to = folder.path().join("models/installed");
    assert!(bundle::install(&to, &manifest, &model, Some(&check)).unwrap());
    assert!(!bundle::install(&to, &manifest, &model, Some(&check)).unwrap());
    assert!(matches!(bundle::install(&to, b"{}", &model, None), Err(BundleError::Exists(_))));
    assert!(whole(&to).is_ok());
}
