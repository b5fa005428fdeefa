//! Searches beside writers and merges: each sees one state, whole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longbow_index::{Bitmap, Change, IndexOptions, LiveIndex, Query, Retriever};

use crate::world::{DIM, KINDS, Naive, small_options, vector};

const GROUP: u32 = 16;
const ROUNDS: usize = 300;

/// A group of items turns from one direction to the opposite in one call, again and again, while merges run. A search that saw half a
/// turn would find both signs.
#[test]
fn no_search_sees_half_a_change() {
    for kind in KINDS {
        let naive = Naive::seeded(700, DIM, 12);
        let (slots, vectors) = naive.slots_and_vectors();
        let options = IndexOptions { background: true, delta_rows_max: 4_096, ..small_options(kind) };
        let index = LiveIndex::build(options, &slots, &vectors).unwrap();
        let mut axis = [0.0; DIM];
        axis[0] = 1.0;
        let group: Bitmap = (2_000..2_000 + GROUP).collect();
        let turn = |sign: f32| {
            let vector: Vec<f32> = axis.iter().map(|x| x * sign).collect();
            let batch: Vec<Change<'_>> = group.iter().map(|slot| Change::Put { slot, vector: &vector }).collect();
            index.apply(&batch).unwrap();
        };
        turn(1.0);
        let done = AtomicBool::new(false);
        let searches = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) || searches.load(Ordering::Relaxed) < 50 {
                        let k = GROUP as usize + 5;
                        let hits = &index.search(&[Query { vector: &axis, k, eligible: Some(&group) }]).unwrap()[0];
                        assert_eq!(hits.slots, group.iter().collect::<Vec<_>>(), "ties go by slot");
                        assert!(
                            hits.scores.iter().all(|&score| score == hits.scores[0] && score.abs() == 1.0),
                            "{hits:?}"
                        );
                        // The rest of the index under way as well: counts never waver.
                        let all = &index.search(&[Query { vector: &axis, k: 100, eligible: None }]).unwrap()[0];
                        assert_eq!(all.len(), 100);
                        searches.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Churn elsewhere makes merges due.
            scope.spawn(|| {
                for round in 0..ROUNDS as u64 {
                    let slot = 1 + u32::try_from(round % 500).unwrap();
                    index.put(slot, &vector(round, DIM, 12)).unwrap();
                    index.remove(slot + 100).unwrap();
                }
            });
            for round in 0..ROUNDS {
                turn(if round % 2 == 0 { -1.0 } else { 1.0 });
                // Seen by the next search after the call.
                let sign = if round % 2 == 0 { -1.0 } else { 1.0 };
                let hits = &index.search(&[Query { vector: &axis, k: 1, eligible: Some(&group) }]).unwrap()[0];
                assert_eq!(hits.scores, [sign]);
            }
            done.store(true, Ordering::Relaxed);
        });
        index.wait_for_merge();
        let stats = index.stats();
        assert!(stats.merges > 0 && stats.merge_failures == 0, "{kind}: {stats:?}");
    }
}

/// Saving works while the index changes, and what is saved is one state.
#[test]
fn saving_sees_one_state() {
    let directory = tempfile::tempdir().unwrap();
    let naive = Naive::seeded(300, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    let options = small_options(KINDS[0]);
    let index = LiveIndex::build(options.clone(), &slots, &vectors).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200_u32 {
                // One comes, one goes: 300 at every moment a call is over.
                let vector = vector(u64::from(round), DIM, 12);
                let (comes, goes) = (1_000 + round, round + 1);
                index.apply(&[Change::Put { slot: comes, vector: &vector }, Change::Remove { slot: goes }]).unwrap();
            }
        });
        for _ in 0..10 {
            index.save(directory.path()).unwrap();
            let loaded = LiveIndex::load(directory.path(), options.clone()).unwrap();
            assert_eq!(loaded.len(), 300);
        }
    });
}
