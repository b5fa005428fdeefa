//! Damaged model files: each gives an error which says what and where.

use longbow_model::{ConfigError, LoadError, Model, Seed, StuModel, config, load};
use proptest::prelude::*;
use safetensors::tensor::Dtype;

use crate::support::{self, Raw, file, golden, weights};

fn good() -> (String, std::collections::BTreeMap<String, Raw>) {
    golden(support::config(20), 3)
}

/// The error of a file made from the good one by `change`.
fn error_of(change: impl FnOnce(&mut std::collections::BTreeMap<String, Raw>)) -> LoadError {
    let (config, mut tensors) = good();
    change(&mut tensors);
    Model::from_bytes(&file(&config, &tensors)).unwrap_err()
}

const UVQK: &str = "_hstu._attention_layers.1._uvqk";

#[test]
fn a_saved_model_loads_as_it_was_and_keeps_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let model = support::model(support::config(20), 1);
    model.save(&path).unwrap();
    let loaded = Model::load(&path).unwrap();
    assert_eq!(loaded.version(), model.version());
    assert_eq!(loaded.version().to_string().len(), 64);
    assert_eq!(loaded.config(), model.config());
    assert_eq!(weights(&loaded), weights(&model));
    assert_eq!(std::fs::read(&path).unwrap(), loaded.to_bytes().unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    // The public crate reads it too.
    let bytes = std::fs::read(&path).unwrap();
    let public = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(public.tensor(UVQK).unwrap().shape(), [26, 84]);
    assert!(matches!(StuModel::load(&path), Err(LoadError::Form { expected: "stu", found: "rel_bias" })));
}

#[test]
fn equal_seeds_give_equal_models_and_others_do_not() {
    let version = |seed| support::model(support::config(20), seed).version();
    assert_eq!(version(1), version(1));
    assert_ne!(version(1), version(2));
}

#[test]
fn golden_tensors_are_let_by_and_strangers_are_not() {
    let (config, mut tensors) = good();
    Model::from_bytes(&file(&config, &tensors)).unwrap();
    tensors.insert("stranger".to_owned(), support::f32s(&[2], &[0.0; 2]));
    match Model::from_bytes(&file(&config, &tensors)) {
        Err(LoadError::Unexpected { name, found }) => assert_eq!((name.as_str(), found), ("stranger", vec![2])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_shape_names_the_tensor_and_both_shapes() {
    let error = error_of(|t| {
        let raw = t.get_mut(UVQK).unwrap();
        raw.1.reverse();
    });
    let text = error.to_string();
    assert!(text.contains(UVQK) && text.contains("[84, 26]") && text.contains("[26, 84]"), "{text}");
    assert!(matches!(error, LoadError::Shape { expected, found, .. } if expected == [26, 84] && found == [84, 26]));
    // One dimension more, and the heads' width where the config does not tell it.
    let error = error_of(|t| t.get_mut(UVQK).unwrap().1.push(1));
    assert!(matches!(error, LoadError::Shape { found, .. } if found == [26, 84, 1]));
    let error = error_of(|t| {
        t.insert("_multitask_module._prediction_module.1.bias".to_owned(), support::f32s(&[7], &[0.0; 7]));
    });
    assert!(matches!(error, LoadError::Shape { expected, found, .. } if expected == [20] && found == [7]));
}

#[test]
fn every_absent_tensor_is_named_with_its_shape() {
    let (_, tensors) = good();
    for name in tensors.keys().filter(|name| !name.starts_with("golden.") && *name != "_item_content_proj.weight") {
        match error_of(|t| assert!(t.remove(name).is_some())) {
            LoadError::Absent { name: found, expected } => {
                assert_eq!(&found, name);
                // Without the first layer of the heads their width is not known, so it is taken as D.
                assert!(expected == tensors[name].1 || name.contains("module.0.weight"));
            }
            // The head's weight is where the heads' width stands.
            other => panic!("{name}: {other:?}"),
        }
    }
    // The projection of content vectors is optional.
    let (config, mut tensors) = good();
    tensors.remove("_item_content_proj.weight");
    assert_eq!(Model::from_bytes(&file(&config, &tensors)).unwrap().content_dim(), 18);
}

#[test]
fn numbers_that_are_not_finite_are_named_with_their_place() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = error_of(|t| t.get_mut(UVQK).unwrap().2[40..44].copy_from_slice(&value.to_le_bytes()));
        match error {
            LoadError::NotFinite { name, index, value: found } => {
                assert_eq!((name.as_str(), index, found.to_bits()), (UVQK, 10, value.to_bits()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn half_precision_is_read_and_integers_are_not() {
    let (config, mut tensors) = good();
    let bias = "_hstu._attention_layers.0._o.bias";
    let values = [1.0_f32, -2.5, 0.125];
    let f32_bytes: Vec<u8> = values.iter().cycle().take(26).flat_map(|x| x.to_le_bytes()).collect();
    let bf16: Vec<u8> = f32_bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
    let f16: Vec<u8> =
        [0x3c00_u16, 0xc100, 0x3000].iter().cycle().take(26).flat_map(|bits| bits.to_le_bytes()).collect();
    for (dtype, bytes) in [(Dtype::BF16, bf16), (Dtype::F16, f16)] {
        tensors.insert(bias.to_owned(), (dtype, vec![26], bytes));
        let model = Model::from_bytes(&file(&config, &tensors)).unwrap();
        assert_eq!(model.tensor(bias).unwrap().data[..3], values, "{dtype:?}");
    }
    for dtype in [Dtype::I32, Dtype::F64] {
        let size = if dtype == Dtype::F64 { 8 } else { 4 };
        let error = error_of(|t| {
            t.insert(bias.to_owned(), (dtype, vec![26], vec![0; 26 * size]));
        });
        assert!(matches!(error, LoadError::Dtype { name, .. } if name == bias), "{dtype:?}");
    }
}

/// A file with a header of our own text.
fn with_header(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn damaged_headers_are_refused() {
    let from = |json: &str, data: usize| Model::from_bytes(&with_header(json, data)).unwrap_err();
    assert!(matches!(from("{", 0), LoadError::Header { .. }));
    assert!(matches!(from("[]", 0), LoadError::Header { .. }));
    assert!(matches!(from("\u{0}", 0), LoadError::Header { .. }));
    assert!(matches!(from("{}", 0), LoadError::ConfigAbsent));
    assert!(matches!(from(r#"{"__metadata__":{"config":3}}"#, 0), LoadError::Header { .. }));
    assert!(matches!(from(r#"{"__metadata__":{"config":"x"}}"#, 0), LoadError::Config(_)));
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    assert!(matches!(from(&format!("{{{a},{a}}}"), 4), LoadError::Duplicate { name } if name == "a"));
    let twice = r#"{"__metadata__":{"config":"1","config":"2"}}"#;
    assert!(matches!(from(twice, 0), LoadError::Duplicate { .. }));
    for (shape, offsets) in [
        ("[2]", "[0,4]"),
        ("[1]", "[4,8]"),
        ("[1]", "[4,0]"),
        ("[18446744073709551615,2]", "[0,4]"),
        ("[1]", "[18446744073709551612,18446744073709551615]"),
        ("[-1]", "[0,4]"),
        ("[1.5]", "[0,4]"),
        ("[1]", "[0]"),
    ] {
        let json = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        assert!(matches!(from(&json, 4), LoadError::Layout { name, .. } if name == "a"), "{json}");
    }
    let two = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
    assert!(matches!(from(two, 6), LoadError::Layout { name, .. } if name == "b"), "overlap");
    assert!(matches!(
        from(r#"{"a":{"dtype":"Q3","shape":[1],"data_offsets":[0,4]}}"#, 4),
        LoadError::Dtype { name, found } if name == "a" && found == "Q3"
    ));
    let many: Vec<String> = (0..=load::TENSORS_MAX)
        .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    assert!(matches!(from(&format!("{{{}}}", many.join(",")), 0), LoadError::TooManyTensors { .. }));
}

#[test]
fn huge_headers_and_wrong_lengths_are_refused_before_anything_is_read() {
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    assert!(matches!(Model::from_bytes(&huge), Err(LoadError::HeaderTooLarge { bytes: u64::MAX, .. })));
    huge[..8].copy_from_slice(&((load::HEADER_BYTES_MAX + 1) as u64).to_le_bytes());
    assert!(matches!(Model::from_bytes(&huge), Err(LoadError::HeaderTooLarge { .. })));
    huge[..8].copy_from_slice(&1000_u64.to_le_bytes());
    assert!(matches!(Model::from_bytes(&huge), Err(LoadError::Truncated { expected: 1008, found: 10 })));

    let (config, tensors) = good();
    let whole = file(&config, &tensors);
    let folder = tempfile::tempdir().unwrap();
    for cut in [0, 3, 8, 100, whole.len() / 2, whole.len() - 1] {
        let path = support::written(&folder, &whole[..cut]);
        for error in [Model::load(&path).unwrap_err(), Model::from_bytes(&whole[..cut]).unwrap_err()] {
            assert!(matches!(error, LoadError::Truncated { found, .. } if found == cut), "{cut}: {error}");
        }
    }
    let mut longer = whole;
    longer.push(0);
    let path = support::written(&folder, &longer);
    for error in [Model::load(&path).unwrap_err(), Model::from_bytes(&longer).unwrap_err()] {
        assert!(matches!(error, LoadError::Trailing { expected, found } if found == expected + 1), "{error}");
    }
    let error = Model::load(folder.path().join("absent")).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}

#[test]
fn configs_outside_the_limits_name_the_field() {
    let change = |field: &str, value: serde_json::Value| {
        let (config, tensors) = good();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config[field] = value;
        Model::from_bytes(&file(&config.to_string(), &tensors)).unwrap_err()
    };
    let cases = [
        ("max_sequence_len", serde_json::json!(0)),
        ("max_sequence_len", serde_json::json!(config::LENGTH_MAX)),
        ("max_output_len", serde_json::json!(0)),
        ("embedding_dim", serde_json::json!(27)),
        ("num_blocks", serde_json::json!(0)),
        ("num_heads", serde_json::json!(65)),
        ("attention_dim", serde_json::json!(257)),
        ("linear_dim", serde_json::json!(0)),
        ("num_items", serde_json::json!(1_u64 << 40)),
        ("num_actions", serde_json::json!(0)),
        ("num_tasks", serde_json::json!(65)),
        ("num_time_buckets", serde_json::json!(0)),
        ("epsilon", serde_json::json!(-1.0)),
        ("normalization", serde_json::json!("softmax")),
        ("linear_activation", serde_json::json!("none")),
        ("concat_ua", serde_json::json!(true)),
    ];
    for (field, value) in cases {
        match change(field, value.clone()) {
            LoadError::Config(ConfigError { field: found, .. }) => assert_eq!(found, field, "{value}"),
            other => panic!("{field} = {value}: {other:?}"),
        }
    }
    let error = change("window_kind", serde_json::json!(1)).to_string();
    assert!(error.contains("window_kind"), "{error}");
    let error = change("num_heads", serde_json::json!("two")).to_string();
    assert!(error.contains("string \"two\""), "{error}");
    let mut bad = support::config(20);
    bad.num_heads = 0;
    let seed = Seed { seed: 1, content_dim: None, head_hidden: 8 };
    assert!(matches!(Model::seeded(bad, &seed), Err(LoadError::Config(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever bytes change, a file loads or is refused: no panic, no overflow.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0_usize..6000, any::<u8>()), 1..6), cut in 0_usize..8000) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let (config, tensors) = good();
            file(&config, &tensors)
        });
        let mut bytes = WHOLE.clone();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if cut < 4000 {
            bytes.truncate(cut);
        }
        let _ = Model::from_bytes(&bytes);
    }
}
