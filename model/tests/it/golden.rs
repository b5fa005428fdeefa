//! Golden files: the public reference code's own outputs, and files of the same form of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longbow_kernels::{Engine, Isa};
use longbow_model::golden::{self, GoldenError, Which};
use longbow_model::{CpuStuEncoder, LoadError, ReferenceStuEncoder, StuConfig, StuModel};

use crate::support;

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

fn fast() -> Which {
    Which::Fast(Arc::new(Engine::new(0, None).unwrap()))
}

fn check_all(which: &Which) {
    for path in files() {
        let report = golden::check(&path, which).unwrap();
        println!("{} {} largest error {:.2e} {:?}", report.name, report.which, report.error_max(), report.checks);
        assert!(report.pass(), "{report:?}");
    }
}

#[test]
fn every_golden_file_passes_on_the_reference() {
    check_all(&Which::Reference);
}

#[test]
fn every_golden_file_passes_on_the_fast_path() {
    check_all(&fast());
}

#[test]
fn every_golden_file_but_the_longest_passes_on_portable_kernels() {
    let which = Which::Fast(Arc::new(Engine::new(0, Some(Isa::Portable)).unwrap()));
    for path in files() {
        if !path.ends_with("hstu-10k.safetensors") {
            let report = golden::check(&path, &which).unwrap();
            assert!(report.pass(), "{report:?}");
        }
    }
}

/// States in bf16 stay within twice what the plain computation in bf16 loses on the same inputs, and are not f32
/// in disguise. The longest file takes half a minute of plain computation: `longbow golden --path bf16` checks it.
#[test]
fn golden_files_pass_with_states_in_bf16_by_the_rule_for_bf16() {
    let engine = Arc::new(Engine::new(0, None).unwrap());
    for path in files() {
        if path.ends_with("hstu-10k.safetensors") {
            continue;
        }
        let Some(report) = golden::check_bf16(&path, &engine).unwrap() else {
            assert!(path.to_string_lossy().contains("stu-"), "{}", path.display());
            continue;
        };
        println!("{} largest error {:.2e} of {:.2e}", report.name, report.error_max(), report.tolerance);
        assert!(report.pass(), "{report:?}");
        assert!(report.error_max() > golden::TOLERANCE, "rounding shows: {report:?}");
        assert!(report.tolerance < 0.05, "{report:?}");
    }
}

/// Our own file: what the reference computes, the fast path computes, at once and in slices.
#[test]
fn a_file_of_our_own_passes_on_both_paths() {
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = support::golden(support::config(300), 5);
    let path = support::written(&folder, &support::file(&config, &tensors));
    for which in [Which::Reference, fast()] {
        let report = golden::check(&path, &which).unwrap();
        println!("{report:?}");
        assert!(report.pass(), "{report:?}");
        let rows: Vec<usize> = report.checks.iter().map(|check| check.rows).collect();
        let history = 1 + 2 + 150 + 300;
        let wanted = match which {
            Which::Reference => vec![history, 12, 12],
            Which::Fast(_) => vec![history, history, 12, 12],
        };
        assert_eq!(rows, wanted, "every row is compared");
    }
}

/// The check must be able to fail: one number of each output, moved by a thousandth of its row.
#[test]
fn a_wrong_output_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (config, good) = support::golden(support::config(40), 6);
    for name in ["golden.output", "golden.candidate_rows", "golden.candidate_probs"] {
        let mut tensors = good.clone();
        let bytes = &mut tensors.get_mut(name).unwrap().2;
        let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
        bytes[..4].copy_from_slice(&(first + 1e-3 * first.abs().max(0.3)).to_le_bytes());
        let path = support::written(&folder, &support::file(&config, &tensors));
        for which in [Which::Reference, fast()] {
            let report = golden::check(&path, &which).unwrap();
            assert!(!report.pass(), "{name}: {report:?}");
        }
    }
}

/// Time tables of another length than the public one.
#[test]
fn other_numbers_of_time_buckets_pass() {
    let folder = tempfile::tempdir().unwrap();
    for buckets in [1, 30, 140] {
        let mut config = support::config(40);
        config.num_time_buckets = buckets;
        let (config, tensors) = support::golden(config, 7);
        let path = support::written(&folder, &support::file(&config, &tensors));
        let report = golden::check(&path, &fast()).unwrap();
        assert!(report.pass(), "{buckets} buckets: {report:?}");
    }
}

#[test]
fn stu_with_contextual_rows_agrees_on_both_paths() {
    let folder = tempfile::tempdir().unwrap();
    for (contextual_len, history_len, num_candidates) in [(0, 300, 7), (3, 40, 5), (4, 4, 2), (0, 0, 3), (2, 20, 0)] {
        let config = StuConfig {
            normalization: "stu".to_owned(),
            embedding_dim: 20,
            num_heads: 2,
            attention_dim: 9,
            linear_dim: 12,
            num_blocks: 3,
            contextual_len,
            history_len,
            num_candidates,
            scaling_seqlen: 50,
            alpha: 0.4,
            epsilon: 1e-6,
        };
        let (json, tensors) = support::stu(&config, 8);
        let model = Arc::new(StuModel::load(support::written(&folder, &support::file(&json, &tensors))).unwrap());
        let rows: Vec<f32> =
            tensors["golden.input_rows"].2.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let wanted = ReferenceStuEncoder::new(&model).unwrap().encode(&rows).unwrap();
        let engine = Arc::new(Engine::new(2, None).unwrap());
        let found = CpuStuEncoder::new(model, engine).encode(&rows).unwrap();
        let error = support::row_error(&found, &wanted, 20);
        assert!(error < 1e-5, "{config:?}: {error}");
    }
}

/// Hostile golden tensors: a typed error that names the tensor, never a panic.
#[test]
fn hostile_golden_tensors_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (config, good) = support::golden(support::config(20), 9);
    let n = 22;
    let long = |len: usize| support::i32s(&[4], [1, 2, 3, i32::try_from(len).unwrap()]);
    let bad: Vec<(&str, support::Raw)> = vec![
        ("lengths", long(21)),
        ("lengths", support::i32s(&[4], [1, 2, -3, 4])),
        ("lengths", support::i32s(&[3], [1, 2, 3])),
        ("item_ids", support::i32s(&[4, n], vec![61; 4 * n])),
        ("item_ids", support::i32s(&[4, n], vec![0; 4 * n])),
        ("item_ids", support::i32s(&[n], vec![1; n])),
        ("actions", support::i32s(&[4, n], vec![-1; 4 * n])),
        ("actions", support::i32s(&[4, n], vec![8; 4 * n])),
        ("timestamps", support::i64s(&[4, n], &vec![i64::MAX; 4 * n])),
        ("timestamps", support::f32s(&[4, n], &vec![0.0; 4 * n])),
        ("query_time", support::i64s(&[4], &[i64::MIN; 4])),
        ("candidate_ids", support::i32s(&[4, 3], vec![0; 12])),
        ("candidate_ids", support::i32s(&[4, 2], vec![1; 8])),
        ("candidate_rows", support::f32s(&[4, 3, 25], &[0.0; 300])),
        ("candidate_probs", support::f32s(&[4, 3, 3], &[f32::NAN; 36])),
        ("output", support::f32s(&[4, n, 17], &vec![0.0; 4 * n * 17])),
        ("positions", support::i32s(&[2], [0, -1])),
        ("positions", support::i32s(&[1], [0])),
    ];
    for (name, raw) in bad {
        let mut tensors = good.clone();
        tensors.insert(format!("golden.{name}"), raw);
        let path = support::written(&folder, &support::file(&config, &tensors));
        for which in [Which::Reference, fast()] {
            let error = golden::check(&path, &which).unwrap_err();
            println!("{name}: {error}");
            if !matches!(error, GoldenError::Encode(_)) {
                assert!(error.to_string().contains("golden."), "{name}: {error}");
            }
        }
    }
    for name in ["item_ids", "timestamps", "lengths", "query_time", "actions", "candidate_ids"] {
        let mut tensors = good.clone();
        tensors.remove(&format!("golden.{name}"));
        let path = support::written(&folder, &support::file(&config, &tensors));
        match golden::check(&path, &Which::Reference) {
            Err(GoldenError::Absent { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut tensors = good;
    tensors.retain(|name, _| !name.contains("output") && !name.contains("candidate_"));
    let path = support::written(&folder, &support::file(&config, &tensors));
    assert!(matches!(golden::check(&path, &fast()), Err(GoldenError::Absent { name: "output", .. })));
    assert!(matches!(golden::check(folder.path().join("none"), &fast()), Err(GoldenError::Load(LoadError::Io { .. }))));
}
