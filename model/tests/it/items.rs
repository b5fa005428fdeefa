//! The item table.

use longbow_model::{ItemError, ItemTable, spec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support;

#[test]
fn appended_rows_follow_the_models_and_snapshots_stay() {
    let model = support::model(support::config(20), 1);
    let mut table = ItemTable::new(&model);
    assert_eq!((table.rows(), table.dim(), table.content_dim()), (61, 18, 10));
    let base = model.tensor(spec::ITEM_EMB).unwrap();
    assert_eq!(table.row(60).unwrap(), &base.data[60 * 18..]);
    assert_eq!(table.row(61), None);

    let projection = model.tensor(spec::CONTENT_PROJ).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let mut wanted = Vec::new();
    let mut snapshots = Vec::new();
    for at in 0..2500_u32 {
        let content: Vec<f32> = (0..10).map(|_| rng.random_range(-1.0..1.0)).collect();
        assert_eq!(table.append(&content).unwrap(), 61 + at);
        let row: Vec<f64> = (0..18)
            .map(|o| (0..10).map(|c| f64::from(projection.data[o * 10 + c]) * f64::from(content[c])).sum())
            .collect();
        wanted.push(row);
        if at % 500 == 17 {
            snapshots.push(table.clone());
        }
    }
    snapshots.push(table);
    for snapshot in snapshots {
        let appended = snapshot.rows() - 61;
        for (at, row) in wanted.iter().enumerate() {
            let found = snapshot.row(u32::try_from(61 + at).unwrap());
            assert_eq!(found.is_some(), at < appended);
            for (f, w) in found.unwrap_or_default().iter().zip(row) {
                assert!((f64::from(*f) - w).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn without_a_projection_the_content_is_the_embedding() {
    let seed = longbow_model::Seed { seed: 1, content_dim: None, head_hidden: 8 };
    let model = longbow_model::Model::seeded(support::config(20), &seed).unwrap();
    let mut table = ItemTable::new(&model);
    let content: Vec<f32> = (0..18_u8).map(f32::from).collect();
    let slot = table.append(&content).unwrap();
    assert_eq!(table.row(slot).unwrap(), content);
}

#[test]
fn bad_content_is_refused_and_changes_nothing() {
    let mut table = ItemTable::new(&support::model(support::config(20), 1));
    assert_eq!(table.append(&[0.0; 9]), Err(ItemError::Width { expected: 10, found: 9 }));
    assert!(matches!(table.append(&[f32::NAN; 10]), Err(ItemError::NotFinite { .. })));
    assert!(matches!(table.append(&[f32::MAX; 10]), Err(ItemError::NotFinite { .. })));
    assert_eq!(table.rows(), 61);
}

#[test]
fn normalised_rows_have_length_one() {
    let model = support::model(support::config(20), 1);
    let mut table = ItemTable::new(&model);
    let new = table.append(&[0.3; 10]).unwrap();
    let zero = table.append(&[0.0; 10]).unwrap();
    let mut out = vec![7.0; 18];
    for slot in [1, 60, new] {
        assert!(table.normalised(slot, &mut out));
        let cosine: f32 = out.iter().zip(table.row(slot).unwrap()).map(|(a, b)| a * b).sum();
        let length = out.iter().map(|x| x * x).sum::<f32>().sqrt();
        let norm = table.row(slot).unwrap().iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-6 && (cosine - norm).abs() < 1e-6);
    }
    assert!(table.normalised(zero, &mut out) && out.iter().all(|x| *x == 0.0), "no direction, no NaN");
    assert!(!table.normalised(zero + 1, &mut out));
    assert!(!table.normalised(1, &mut out[1..]));
}
