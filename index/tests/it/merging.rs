//! Merges: when they start, what they keep, and that writers wait for them where they must.

use std::time::{Duration, Instant};

use longbow_index::{Change, IndexOptions, Kind, LiveIndex, Query, Retriever};

use crate::world::{DIM, Naive, small_options, vector};

#[test]
fn an_empty_index_grows_through_merges_into_lists() {
    let index = LiveIndex::new(small_options(Kind::IvfFlat { nlist: 8 })).unwrap();
    let query = vector(3, DIM, 12);
    assert!(index.is_empty() && index.search(&[Query { vector: &query, k: 5, eligible: None }]).unwrap()[0].is_empty());
    let mut naive = Naive::default();
    for slot in 0..600_u32 {
        let vector = vector(u64::from(slot), DIM, 12);
        assert!(index.put(slot, &vector).unwrap());
        naive.items.insert(slot, vector);
        if slot % 50 == 0 {
            let hits = &index.search(&[Query { vector: &query, k: 7, eligible: None }]).unwrap()[0];
            naive.check_sound(hits, &query, 7, None);
        }
    }
    let stats = index.stats();
    // A delta of 48 at most: the writer merged on its own thread as it filled up.
    assert!(stats.merges >= 11 && stats.delta_items <= 48 && stats.nlist >= 7, "{stats:?}");
    assert_eq!((stats.items, stats.changes, stats.merge_failures), (600, 600, 0));
}

#[test]
fn the_background_merge_starts_by_itself_and_loses_nothing() {
    let options = IndexOptions { background: true, ..small_options(Kind::IvfPq { nlist: 8, m: 4 }) };
    let mut naive = Naive::seeded(800, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    let index = LiveIndex::build(options, &slots, &vectors).unwrap();
    for slot in 300..420_u32 {
        let vector = vector(u64::from(slot) + 5_000, DIM, 12);
        index.put(slot, &vector).unwrap();
        naive.items.insert(slot, vector);
        index.remove(slot - 200).unwrap();
        naive.items.remove(&(slot - 200));
    }
    index.wait_for_merge();
    let stats = index.stats();
    assert!(stats.merges >= 1 && stats.merge_error.is_none(), "{stats:?}");
    assert!(stats.delta_items < 120, "{stats:?}");
    let query = vector(9, DIM, 12);
    for k in [5, 100, 800] {
        let asked = [Query { vector: &query, k, eligible: None }];
        naive.check_sound(&index.search(&asked).unwrap()[0], &query, k, None);
        naive.check_exact(&index.search_exact(&asked).unwrap()[0], &query, k, None);
    }
}

#[test]
fn staleness_is_visible_and_ends_with_the_merge() {
    let naive = Naive::seeded(200, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    let index = LiveIndex::build(small_options(Kind::Exact), &slots, &vectors).unwrap();
    assert_eq!(index.stats().unmerged_age(Instant::now() + Duration::from_secs(9)), Duration::ZERO);
    index.put(1, &vector(1_000, DIM, 12)).unwrap();
    index.remove(2).unwrap();
    let stats = index.stats();
    assert_eq!((stats.items, stats.frozen_rows, stats.tombstones, stats.delta_items), (199, 200, 2, 1));
    let since = stats.unmerged_since.unwrap();
    assert_eq!(stats.unmerged_age(since + Duration::from_secs(9)), Duration::from_secs(9));
    let before = stats.generation;
    index.merge().unwrap();
    let stats = index.stats();
    assert_eq!((stats.items, stats.frozen_rows, stats.tombstones, stats.delta_items), (199, 199, 0, 0));
    assert_eq!((stats.generation, stats.unmerged_since), (before + 1, None));
    assert!(!stats.merging);
}

#[test]
fn removing_everything_leaves_a_working_index() {
    let naive = Naive::seeded(150, DIM, 12);
    let (slots, vectors) = naive.slots_and_vectors();
    let index = LiveIndex::build(small_options(Kind::IvfFlat { nlist: 3 }), &slots, &vectors).unwrap();
    let all: Vec<Change<'_>> = slots.iter().map(|&slot| Change::Remove { slot }).collect();
    assert_eq!(index.apply(&all).unwrap().removed, 150);
    let query = vector(9, DIM, 12);
    for _ in 0..2 {
        assert!(index.search(&[Query { vector: &query, k: 5, eligible: None }]).unwrap()[0].is_empty());
        index.merge().unwrap();
    }
    index.put(4_095, &query).unwrap();
    assert_eq!(index.search(&[Query { vector: &query, k: 5, eligible: None }]).unwrap()[0].slots, [4_095]);
}
