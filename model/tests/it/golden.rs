//! Golden files: the public reference code's own outputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longbow_kernels::Engine;
use longbow_model::golden::{self, Which};

/// The golden files, or nothing (with a line that says so) where the shared folder is absent.
pub(crate) fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: ../shared is absent");
        return Vec::new();
    };
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|x| x == "safetensors")).collect();
    files.sort();
    assert!(!files.is_empty(), "no golden file in {}", folder.display());
    files
}

fn check_all(which: &Which) {
    for path in files() {
        let start = std::time::Instant::now();
        let report = golden::check(&path, which).unwrap();
        println!("{} {} {:?} ({:.1?})", report.name, report.which, report.checks, start.elapsed());
        assert!(report.pass(), "{report:?}");
    }
}

#[test]
fn every_golden_file_passes_on_the_reference() {
    check_all(&Which::Reference);
}

#[test]
fn every_golden_file_passes_on_the_fast_path() {
    check_all(&Which::Fast(Arc::new(Engine::new(0, None).unwrap())));
}
