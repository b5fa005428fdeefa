//! The search of items on a GPU, on a real one or on the stand-in driver (`scripts/gpu-host --driver`); skipped where there
//! is neither. The oracle scores every row on the host.

#![expect(clippy::cast_possible_truncation, reason = "an oracle in f64 for scores in f32")]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longbow_kernels::cuda::{Ask, CudaEngine, CudaError, ItemSearch, K_MAX, Precision, RowScore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The stand-in driver runs one launch at a time.
static DEVICE: Mutex<()> = Mutex::new(());

/// The device to oneself, or nothing where there is none.
fn device() -> Option<(MutexGuard<'static, ()>, CudaEngine)> {
    let guard = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    match CudaEngine::new(0) {
        Ok(engine) => Some((guard, engine)),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Vectors and queries whose products and sums are exact in f32, bf16 and int8: small whole numbers, the largest of each
/// vector 127 so that the int8 scale is 1.
fn whole(rng: &mut StdRng, dim: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..dim).map(|_| f32::from(rng.random_range(-8_i8..=8))).collect();
    vector[rng.random_range(0..dim)] = 127.0;
    vector
}

/// A query whose numbers are multiples of its largest over 254, so that int8 searches round nothing of it.
fn whole_query(rng: &mut StdRng, dim: usize) -> Vec<f32> {
    let mut query: Vec<f32> = (0..dim).map(|_| f32::from(rng.random_range(-4_i8..=4))).collect();
    query[rng.random_range(0..dim)] = 127.0;
    query
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Every eligible item scored, best first, ties by the smaller row.
fn oracle(items: &BTreeMap<u32, Vec<f32>>, ask: &Ask<'_>) -> Vec<(u32, f64)> {
    let may = |row: u32| {
        ask.eligible.is_none_or(|words| words.get(row as usize / 64).is_some_and(|w| w >> (row % 64) & 1 == 1))
    };
    let mut all: Vec<(u32, f64)> =
        items.iter().filter(|(row, _)| may(**row)).map(|(row, vector)| (*row, dot(vector, ask.vector))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(ask.k);
    all
}

fn filter(rng: &mut StdRng, words: usize) -> Option<Vec<u64>> {
    match rng.random_range(0..4) {
        0 => None,
        1 => Some((0..words).map(|_| rng.random::<u64>() & rng.random::<u64>() & rng.random::<u64>()).collect()),
        // Shorter than the rows: what lies past it may not be found.
        2 => Some(vec![u64::MAX; words / 2]),
        _ => Some((0..words).map(|_| rng.random()).collect()),
    }
}

#[test]
fn a_search_follows_items_that_come_and_go_exactly() {
    let Some((_guard, engine)) = device() else { return };
    let mut rng = StdRng::seed_from_u64(21);
    for (precision, dim) in
        [(Precision::Bf16, 20), (Precision::Int8, 20), (Precision::Bf16, 300), (Precision::Int8, 528)]
    {
        let mut search = ItemSearch::new(&engine, precision, dim, 10).unwrap();
        let mut items: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
        assert_eq!(
            search.find(&[Ask { vector: &whole_query(&mut rng, dim), k: 5, eligible: None }]).unwrap(),
            [vec![]]
        );
        for round in 0..3 {
            // The last round needs more memory than there was.
            let most = if round < 2 { 700 } else { 1500 };
            let mut rows: Vec<u32> = (0..150).map(|_| rng.random_range(0..most)).collect();
            rows.push(rows[3]);
            let vectors: Vec<Vec<f32>> = rows.iter().map(|_| whole(&mut rng, dim)).collect();
            search.put(&rows, &vectors.concat()).unwrap();
            items.extend(rows.iter().copied().zip(vectors));
            for _ in 0..20 {
                let row = rng.random_range(0..most);
                search.remove(row);
                items.remove(&row);
            }
            let asks: Vec<_> = (0..9)
                .map(|_| (whole_query(&mut rng, dim), rng.random_range(0..=K_MAX), filter(&mut rng, 24)))
                .collect();
            let asks: Vec<Ask<'_>> =
                asks.iter().map(|(vector, k, bits)| Ask { vector, k: *k, eligible: bits.as_deref() }).collect();
            for (ask, found) in asks.iter().zip(search.find(&asks).unwrap()) {
                let want: Vec<RowScore> =
                    oracle(&items, ask).into_iter().map(|(row, score)| (row, score as f32)).collect();
                assert_eq!(found, want, "{precision:?}, {dim} numbers, round {round}, k = {}", ask.k);
            }
        }
    }
}

/// With real numbers the result is that of the rounded vectors, to the rounding of f32 sums, and int8 errs as documented.
#[test]
fn scores_are_those_of_the_vectors_as_they_are_kept() {
    let Some((_guard, engine)) = device() else { return };
    let mut rng = StdRng::seed_from_u64(22);
    let (dim, count, k) = (48, 600_u32, 40);
    let unit = |rng: &mut StdRng| {
        let vector: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
        let length = dot(&vector, &vector).sqrt() as f32;
        vector.into_iter().map(|x| x / length).collect::<Vec<f32>>()
    };
    for precision in [Precision::Bf16, Precision::Int8] {
        let mut search = ItemSearch::new(&engine, precision, dim, count as usize).unwrap();
        let vectors: Vec<Vec<f32>> = (0..count).map(|_| unit(&mut rng)).collect();
        search.put(&(0..count).collect::<Vec<_>>(), &vectors.concat()).unwrap();
        let kept: BTreeMap<u32, Vec<f32>> = (0..).zip(vectors.iter().map(|vector| precision.rounded(vector))).collect();
        let (mut lost, mut worst) = (0, 0.0_f64);
        for _ in 0..8 {
            let query = unit(&mut rng);
            let ask = Ask { vector: &query, k, eligible: None };
            let found = search.find(&[ask]).unwrap().remove(0);
            let want = oracle(&kept, &ask);
            assert_eq!(found.len(), k);
            for ((row, score), (_, best)) in found.iter().zip(&want) {
                assert!((f64::from(*score) - best).abs() < 1e-4, "{precision:?}: {score} in the place of {best}");
                assert!((f64::from(*score) - dot(&kept[row], &query)).abs() < 1e-4, "{precision:?}: row {row}");
                worst = worst.max((f64::from(*score) - dot(&vectors[*row as usize], &query)).abs());
            }
            let whole = (0..).zip(vectors.iter().cloned()).collect();
            let truth = oracle(&whole, &ask);
            lost += truth.iter().filter(|(row, _)| !found.iter().any(|(found, _)| found == row)).count();
        }
        eprintln!("{precision:?}: {lost} of {} of the truth lost, scores up to {worst:.1e} off", 8 * k);
        assert!(worst < if precision == Precision::Bf16 { 3e-3 } else { 1e-2 }, "{precision:?}: {worst}");
        assert!(lost <= 8 * k / 20, "{precision:?}: {lost}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let Some((_guard, engine)) = device() else { return };
    let wide = ItemSearch::new(&engine, Precision::Bf16, 1025, 10).unwrap_err();
    assert!(matches!(wide, CudaError::Shape { what: "width of vectors", found: 1025, .. }), "{wide}");
    let mut search = ItemSearch::new(&engine, Precision::Int8, 4, 10).unwrap();
    assert!(search.put(&[1, 2], &[0.0; 7]).unwrap_err().to_string().starts_with("vectors: 7"));
    search.put(&[3], &[1.0, 0.0, 0.0, 0.0]).unwrap();
    let ask = Ask { vector: &[1.0; 4], k: K_MAX + 1, eligible: None };
    assert!(search.find(&[ask]).unwrap_err().to_string().starts_with("k: 1025"));
    let narrow = Ask { vector: &[1.0; 3], k: 1, eligible: None };
    assert!(search.find(&[narrow]).unwrap_err().to_string().starts_with("width of a query: 3"));
    // More rows than there is memory for: what is there stays.
    assert!(matches!(search.put(&[1 << 30], &[1.0; 4]), Err(CudaError::OutOfMemory { .. })));
    assert_eq!(search.find(&[Ask { vector: &[1.0; 4], k: 9, eligible: None }]).unwrap(), [vec![(3, 1.0)]]);
}
