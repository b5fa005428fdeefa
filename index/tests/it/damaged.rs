//! Saved files that were damaged, cut, exchanged or made by someone else: an error that names the file, never a crash.

use std::fs;
use std::path::{Path, PathBuf};

use longbow_index::{IndexError, IndexOptions, Kind, LiveIndex, Query, Retriever};
use sha2::{Digest, Sha256};

use crate::world::{DIM, KINDS, Naive, small_options, vector};

fn saved(kind: Kind, directory: &Path) -> LiveIndex {
    let naive = Naive::seeded(700, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    let index = LiveIndex::build(small_options(kind), &slots, &vectors).unwrap();
    for slot in 690..710 {
        index.put(slot, &vector(u64::from(slot) * 3, DIM, 12)).unwrap();
    }
    index.remove(3).unwrap();
    index.save(directory).unwrap();
    index
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn load(kind: Kind, directory: &Path) -> Result<LiveIndex, IndexError> {
    LiveIndex::load(directory, small_options(kind))
}

#[test]
fn what_is_saved_comes_back_and_answers_alike() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let index = saved(kind, directory.path());
        let loaded = load(kind, directory.path()).unwrap();
        assert_eq!(loaded.stats().nlist, index.stats().nlist);
        assert_eq!(loaded.stats().changes, index.stats().changes);
        for seed in 0..20 {
            let query = vector(seed * 7, DIM, 12);
            let asked = [Query { vector: &query, k: 30, eligible: None }];
            assert_eq!(loaded.search(&asked).unwrap(), index.search(&asked).unwrap(), "{kind}");
        }
        // A second save replaces the first and leaves nothing behind.
        index.remove(4).unwrap();
        index.save(directory.path()).unwrap();
        assert!(!load(kind, directory.path()).unwrap().contains(4));
        assert_eq!(files(directory.path()).len(), if kind == Kind::Exact { 6 } else { 7 });
        // The merge after a load trains anew and goes on.
        loaded.merge().unwrap();
        assert_eq!(loaded.len(), index.len() + 1);
    }
}

#[test]
fn every_damaged_file_is_named() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        saved(kind, directory.path());
        for file in files(directory.path()) {
            let whole = fs::read(&file).unwrap();
            let mut variants = vec![whole[..whole.len() / 2].to_vec(), Vec::new(), [&whole[..], b"x"].concat()];
            for at in [0, whole.len() / 3, whole.len() - 2] {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                variants.push(flipped);
            }
            for (number, variant) in variants.iter().enumerate() {
                fs::write(&file, variant).unwrap();
                match load(kind, directory.path()) {
                    Err(IndexError::Damaged { path, .. }) => assert_eq!(path, file),
                    // White space after the manifest's digest is no damage.
                    other => panic!("{} variant {number}: {other:?}", file.display()),
                }
            }
            fs::remove_file(&file).unwrap();
            match load(kind, directory.path()) {
                Err(IndexError::Io { path, .. }) => assert_eq!(path, file),
                other => panic!("{} absent: {other:?}", file.display()),
            }
            fs::write(&file, &whole).unwrap();
        }
        load(kind, directory.path()).unwrap();
    }
}

/// Rewrites the manifest with `edit` applied to its JSON, under a right digest.
fn forge(directory: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = directory.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    edit(&mut value);
    let line = value.to_string();
    fs::write(&path, format!("{line}\n{}\n", hex(line.as_bytes()))).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts `bytes` in the place of a part, under right digests.
fn forge_part(directory: &Path, field: &str, name: &str, bytes: &[u8]) {
    let digest = hex(bytes);
    fs::write(directory.join(format!("{name}-{}.bin", &digest[..16])), bytes).unwrap();
    forge(directory, |value| value[field] = serde_json::json!({ "bytes": bytes.len(), "sha256": digest }));
}

fn fault(kind: Kind, directory: &Path) -> String {
    load(kind, directory).unwrap_err().to_string()
}

#[test]
fn a_forged_manifest_cannot_ask_for_much() {
    let kind = KINDS[1];
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (field, value, word) in [
        ("frozen_rows", serde_json::json!(u64::MAX), "more items"),
        ("frozen_rows", serde_json::json!(4_000), "bytes where"),
        ("delta_items", serde_json::json!(1_u64 << 40), "more items"),
        ("dim", serde_json::json!(1_u64 << 60), "saved with dim"),
        ("kind", serde_json::json!("exact"), "saved with kind"),
        ("format", serde_json::json!(1), "saved with format"),
        ("surprise", serde_json::json!(1), "surprise"),
        ("lists", serde_json::json!({ "bytes": 1_u64 << 50, "sha256": "" }), "at most"),
        ("alive", serde_json::json!({ "bytes": 1_u64 << 50, "sha256": "" }), "part alive"),
        ("slots", serde_json::json!({ "bytes": 2800, "sha256": "../../../../etc/passwd" }), "slots-"),
    ] {
        saved(kind, root);
        forge(root, |manifest| manifest[field] = value);
        let fault = fault(kind, root);
        assert!(fault.contains(word) && fault.contains(root.to_str().unwrap()), "{field}: {fault}");
    }
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let kind = KINDS[1];
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let values = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    saved(kind, root);
    forge_part(root, "vectors", "vectors", &values(&mut (0..700 * DIM).map(|_| f32::NAN)));
    assert!(fault(kind, root).contains("vector 0 is not of length 1"));
    saved(kind, root);
    forge_part(root, "slots", "slots", &[7; 4 * 700]);
    assert!(fault(kind, root).contains("not ascending"));
    saved(kind, root);
    forge_part(root, "alive", "alive", &[255; 96]);
    assert!(fault(kind, root).contains("alive that are not there"));
    saved(kind, root);
    forge_part(root, "delta_slots", "delta-slots", &[1, 0, 0, 0].repeat(20));
    assert!(fault(kind, root).contains("new item slot 1 is out of place"));
    // Sound lists, of another index.
    let other = tempfile::tempdir().unwrap();
    let naive = Naive::seeded(640, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    LiveIndex::build(small_options(kind), &slots, &vectors).unwrap().save(other.path()).unwrap();
    let lists = files(other.path()).into_iter().find(|file| file.to_str().unwrap().contains("lists-")).unwrap();
    saved(kind, root);
    forge_part(root, "lists", "lists", &fs::read(lists).unwrap());
    assert!(fault(kind, root).contains("does not fit the saved vectors"));
}

#[test]
fn what_cannot_be_read_or_written_names_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("nowhere");
    assert!(fault(Kind::Exact, &absent).contains("nowhere/manifest.json"));
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let index = LiveIndex::new(IndexOptions::new(DIM, Kind::Exact)).unwrap();
    assert!(matches!(index.save(&file.join("below")), Err(IndexError::Io { .. })));
    // A leftover of an interrupted save is no hindrance.
    fs::write(directory.path().join("slots.new"), "half").unwrap();
    index.save(directory.path()).unwrap();
    assert!(LiveIndex::load(directory.path(), IndexOptions::new(DIM, Kind::Exact)).unwrap().is_empty());
}
