//! Holds docs/architecture.md against the code: which crate may use which, which room may not know which, where `unsafe`
//! may stand, and how long a file may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest source file that passes.
const FILE_LINES_MAX: usize = 450;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no source under {}", folder.display());
    found
}

/// Trimmed lines without whole-line comments.
fn code_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::trim).filter(|line| !line.starts_with("//")).map(str::to_owned).collect()
}

#[test]
fn crates_depend_one_way() {
    let metadata =
        cargo_metadata::MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let ours: BTreeSet<String> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        let normal = package.dependencies.iter().filter(|d| d.kind == cargo_metadata::DependencyKind::Normal);
        all.insert(package.name.to_string(), normal.map(|d| d.name.clone()).collect());
    }
    let uses = |name: &str| all[name].intersection(&ours).cloned().collect::<BTreeSet<_>>();
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(uses("longbow-kernels"), set(&[]));
    assert_eq!(uses("longbow-index"), set(&[]));
    assert_eq!(uses("longbow-model"), set(&["longbow-kernels"]));
    assert!(uses("longbow").is_subset(&set(&["longbow-kernels", "longbow-model", "longbow-index"])));
    for quiet in ["longbow-kernels", "longbow-model"] {
        for loud in ["tokio", "hyper"] {
            assert!(!all[quiet].contains(loud), "{quiet} must not depend on {loud}");
        }
    }
}

#[test]
fn the_auction_knows_no_io() {
    let mut files = sources(&root().join("server/src/auction"), &[".rs"]);
    files.push(root().join("server/src/auction.rs"));
    let banned = [
        "crate::http",
        "crate::store",
        "crate::events",
        "crate::ledger",
        "crate::admin",
        "tokio::",
        "hyper::",
        "async fn",
        "SystemTime::now",
        "Instant::now",
        "rand::rng()",
        "std::fs",
        "std::net",
    ];
    for file in files {
        for line in code_lines(&file) {
            for word in banned {
                assert!(!line.contains(word), "{}: `{word}` in `{line}`", file.display());
            }
        }
    }
}

#[test]
fn unsafe_stands_in_ffi_files_only() {
    let allowed = [
        "kernels/src/ffi.rs",
        "kernels/src/cuda/ffi.rs",
        "kernels/src/cuda/ffi/memory.rs",
        "kernels/src/cuda/ffi/order.rs",
        "kernels/src/cuda/ffi/peers.rs",
        "index/src/ffi.rs",
        "index/src/ffi/simd.rs",
    ]
    .map(|file| root().join(file));
    for folder in ["server/src", "kernels/src", "model/src", "index/src", "bench/src"] {
        for file in sources(&root().join(folder), &[".rs"]) {
            let marks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            let found = code_lines(&file).iter().any(|line| marks.iter().any(|mark| line.contains(mark)));
            assert!(!found || allowed.contains(&file), "{} holds unsafe code", file.display());
        }
    }
}

#[test]
fn files_stay_short_and_modules_have_names() {
    for folder in ["server", "kernels", "model", "index", "bench"] {
        for file in sources(&root().join(folder), &[".rs", ".cpp", ".h", ".hpp", ".cu", ".cuh"]) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines, at most {FILE_LINES_MAX}", file.display());
            assert_ne!(file.file_name().unwrap(), "mod.rs", "{}: use foo.rs + foo/", file.display());
        }
    }
}

#[test]
fn the_path_neither_blocks_nor_hoards() {
    for file in sources(&root().join("server/src"), &[".rs"]) {
        for line in code_lines(&file) {
            for word in ["spawn_blocking", "unbounded_channel", "unbounded()", "todo!(", "unimplemented!(", "#[ignore"]
            {
                assert!(!line.contains(word), "{}: `{word}` in `{line}`", file.display());
            }
        }
    }
}

/// Commands print an error with the chain of its causes: one whose own text has the cause in it must not hand it on as well.
#[test]
fn an_error_tells_its_cause_once() {
    for folder in ["server/src", "kernels/src", "model/src", "index/src", "bench/src"] {
        for file in sources(&root().join(folder), &[".rs"]) {
            let lines = code_lines(&file);
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("#[error(\"")) {
                let handed_on =
                    lines[at + 1..].iter().take(2).any(|next| next.contains("#[from]") || next.contains("#[source]"));
                let told = line.contains("{source") || handed_on && line.contains("{0");
                assert!(!told, "{}: `{line}` tells its cause twice: name the field `cause`", file.display());
            }
        }
    }
}
