//! Filters: k results whenever k are eligible, whatever the selectivity; and refusals.

use longbow_index::{
    Bitmap, ExactRetriever, Hits, IndexError, IndexOptions, K_MAX, Kind, LiveIndex, NamedFilter, Query, Retriever,
    cpu_supported, recall_report,
};

use crate::world::{DIM, KINDS, Naive, filter, small_options, vector};

fn built(kind: Kind, count: u32) -> (LiveIndex, Naive) {
    let naive = Naive::seeded(count, DIM, 40);
    let (slots, vectors) = naive.slots_and_vectors();
    (LiveIndex::build(small_options(kind), &slots, &vectors).unwrap(), naive)
}

#[test]
fn k_come_back_under_every_selectivity() {
    assert_eq!(cpu_supported(), Ok(()));
    for kind in KINDS {
        let naive = Naive::seeded(12_000, DIM, 40);
        let (slots, vectors) = naive.slots_and_vectors();
        // One list: what more would cost, a scan of so few items costs less.
        let options = IndexOptions { slots_max: 16_383, nprobe: 1, ..small_options(kind) };
        let index = LiveIndex::build(options, &slots, &vectors).unwrap();
        for every in [1, 2, 10, 100, 1_000] {
            for seed in 0..8 {
                let set = filter(seed, 12_100, every);
                let query = vector(seed * 77, DIM, 40);
                for k in [1, 20, 200] {
                    let hits = &index.search(&[Query { vector: &query, k, eligible: Some(&set) }]).unwrap()[0];
                    naive.check_sound(hits, &query, k, Some(&set));
                }
            }
        }
        let stats = index.stats();
        assert_eq!(stats.searches_lists > 20, kind != Kind::Exact, "{kind}: {stats:?}");
        assert!(stats.searches_exact > 20, "{kind}: {stats:?}");
    }
}

#[test]
fn when_the_lists_hold_too_few_the_scan_answers() {
    for kind in [Kind::IvfFlat { nlist: 64 }, Kind::IvfPq { nlist: 64, m: 4 }] {
        let naive = Naive::seeded(4_000, DIM, 40);
        let (slots, vectors) = naive.slots_and_vectors();
        let options = IndexOptions { nprobe: 2, overfetch: 1, ..small_options(kind) };
        let index = LiveIndex::build(options, &slots, &vectors).unwrap();
        // Only items of other clusters than the query's: the lists nearest to it hold none of them.
        let query = vector(5, DIM, 40);
        let mut far: Vec<u32> = slots.clone();
        far.sort_by(|&a, &b| naive.score(a, &query).total_cmp(&naive.score(b, &query)));
        let set: Bitmap = far[..1_500].iter().copied().collect();
        let hits = &index.search(&[Query { vector: &query, k: 10, eligible: Some(&set) }]).unwrap()[0];
        naive.check_exact(hits, &query, 10, Some(&set));
        assert_eq!(index.stats().fallbacks, 1, "{kind}");
    }
}

#[test]
fn a_result_does_not_depend_on_its_neighbours_in_the_call() {
    for kind in KINDS {
        let (index, _) = built(kind, 3_000);
        let sets = [filter(1, 3_100, 2), filter(2, 3_100, 30), filter(1, 3_100, 2)];
        let vectors: Vec<Vec<f32>> = (0..30).map(|seed| vector(seed * 13, DIM, 40)).collect();
        let asked: Vec<Query<'_>> = vectors
            .iter()
            .enumerate()
            .map(|(i, vector)| Query { vector, k: 5 + i, eligible: [None, Some(&sets[0]), Some(&sets[1])][i % 3] })
            .collect();
        let together = index.search(&asked).unwrap();
        let alone: Vec<Hits> = asked.iter().map(|query| index.search(&[*query]).unwrap().remove(0)).collect();
        assert_eq!(together, alone, "{kind}");
        // An equal filter in another place of memory gives an equal answer.
        let other = Query { eligible: Some(&sets[2]), ..asked[1] };
        assert_eq!(index.search(&[other]).unwrap()[0], together[1], "{kind}");
    }
}

#[test]
fn recall_on_clustered_items_is_high_and_reported() {
    let naive = Naive::seeded(20_000, 32, 300);
    let (slots, vectors) = naive.slots_and_vectors();
    let queries: Vec<Vec<f32>> = (0..40).map(|seed| vector(seed * 101 + 7, 32, 300)).collect();
    let asked: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    let half = filter(3, 20_001, 2);
    let few = filter(4, 20_001, 500);
    let filters = [
        NamedFilter { name: "all", eligible: None },
        NamedFilter { name: "half", eligible: Some(&half) },
        NamedFilter { name: "few", eligible: Some(&few) },
    ];
    for kind in [Kind::IvfFlat { nlist: 256 }, Kind::IvfPq { nlist: 256, m: 16 }] {
        let options = IndexOptions { lists_rows_min: 100, ..IndexOptions::new(32, kind) };
        let index = LiveIndex::build(options, &slots, &vectors).unwrap();
        let report = recall_report(&index, &asked, 20, &filters).unwrap();
        assert!(index.stats().searches_lists >= 80, "{kind}: {:?}", index.stats());
        assert!(report.lines.iter().all(|line| line.recall_mean > 0.9 && line.short == 0), "{report}");
        assert!(
            (report.lines[2].recall_mean - 1.0).abs() < f32::EPSILON,
            "few eligible items are scored exactly: {report}"
        );
        assert_eq!(report.lines[0].eligible, 20_000);
        let modest = IndexOptions { recall_min: 0.6, ..index.options().clone() };
        let modest = LiveIndex::build(modest, &slots, &vectors).unwrap().stats().probes;
        let tuned = index.stats().probes;
        // Codes that rank coarsely are made good by fetching more, before all is scanned.
        let high = IndexOptions { recall_min: 0.96, overfetch: 1, ..index.options().clone() };
        let high = LiveIndex::build(high, &slots, &vectors).unwrap();
        let fetched = recall_report(&high, &asked, 20, &filters[..1]).unwrap();
        assert!(
            high.stats().searches_lists == 40 && fetched.lines[0].recall_mean > 0.93,
            "{fetched} {:?}",
            high.stats()
        );
        assert!(0 < modest && modest < tuned && tuned < 256, "more recall takes more lists: {modest}, {tuned}");
        assert!(report.to_string().contains("half"));
    }
    let exact = recall_report(&naive.exact(32), &asked, 20, &filters).unwrap();
    assert!(exact.lines.iter().all(|line| (line.recall_min - 1.0).abs() < f32::EPSILON));
}

#[test]
fn bad_queries_are_refused_by_name() {
    for kind in KINDS {
        let (index, _) = built(kind, 1_000);
        let ask = |vector: &[f32], k| index.search(&[Query { vector, k, eligible: None }]).unwrap_err().to_string();
        assert_eq!(ask(&[1.0; 7], 1), "query 0: the vector has 7 entries, the index holds 8");
        assert_eq!(ask(&[f32::NAN; DIM], 1), "query 0: an entry is not finite");
        assert!(ask(&[1.0; DIM], K_MAX + 1).starts_with("k = 16385"));
        let good = Query { vector: &[1.0; DIM], k: 0, eligible: None };
        assert!(index.search(&[good]).unwrap()[0].is_empty());
        assert!(index.search(&[]).unwrap().is_empty());
    }
}

#[test]
fn bad_items_and_options_are_refused_and_change_nothing() {
    let (index, naive) = built(Kind::Exact, 100);
    let put = |slot, vector: &[f32]| index.put(slot, vector).unwrap_err().to_string();
    assert_eq!(put(5, &[0.0; DIM]), "item slot 5: all entries are zero");
    assert_eq!(put(5, &[f32::INFINITY; DIM]), "item slot 5: an entry is not finite");
    assert_eq!(put(5, &[1.0; 3]), "item slot 5: the vector has 3 entries, the index holds 8");
    assert!(put(4_096, &[1.0; DIM]).contains("slots_max"));
    let batch =
        [longbow_index::Change::Remove { slot: 1 }, longbow_index::Change::Put { slot: 2, vector: &[0.0; DIM] }];
    assert!(matches!(index.apply(&batch), Err(IndexError::Vector { .. })));
    assert!(index.contains(1) && index.len() == naive.items.len() && index.stats().changes == 0);
    // Huge but finite entries are a direction like any other.
    index.put(5, &[1e38; DIM]).unwrap();
    let hit =
        &index.search(&[Query { vector: &[1.0; DIM], k: 1, eligible: Some(&[5].into_iter().collect()) }]).unwrap()[0];
    assert!((hit.scores[0] - 8.0_f32.sqrt()).abs() < 1e-5);

    assert!(matches!(ExactRetriever::new(2, &[1, 1], &[1.0; 4]), Err(IndexError::DuplicateSlot { slot: 1 })));
    assert!(matches!(ExactRetriever::new(2, &[1], &[1.0; 4]), Err(IndexError::Dimension { .. })));
    let field = |options| match LiveIndex::new(options) {
        Err(IndexError::Options { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let good = IndexOptions::new(8, Kind::Exact);
    assert_eq!(field(IndexOptions::new(0, Kind::Exact)), "dim");
    assert_eq!(field(IndexOptions::new(8, Kind::IvfPq { nlist: 0, m: 3 })), "kind.m");
    assert_eq!(field(IndexOptions::new(8, Kind::IvfFlat { nlist: 1 << 20 })), "kind.nlist");
    assert_eq!(field(IndexOptions { overfetch: 0, ..good.clone() }), "overfetch");
    assert_eq!(field(IndexOptions { recall_min: f32::NAN, ..good.clone() }), "recall_min");
    assert_eq!(field(IndexOptions { merge_rows: 0, ..good.clone() }), "merge_rows");
    assert_eq!(field(IndexOptions { build_threads: 0, ..good.clone() }), "build_threads");
    assert_eq!(field(IndexOptions { slots_max: u32::MAX, ..good }), "slots_max");
}

/// Users' queries lie nowhere near an item: lists tuned on items are too few for them. Samples of their recall mend that, and are
/// forgotten again when queries are as expected.
#[test]
fn sampled_recall_widens_the_search_until_it_is_reached() {
    let naive = Naive::seeded(30_000, 32, 60);
    let (slots, vectors) = naive.slots_and_vectors();
    let options = IndexOptions { recall_min: 0.97, ..IndexOptions::new(32, Kind::IvfFlat { nlist: 256 }) };
    let index = LiveIndex::build(options, &slots, &vectors).unwrap();
    // Each the middle of a cluster of its own, where no item is.
    let far: Vec<Vec<f32>> = (0..120).map(|seed| vector(seed * 997 + 5, 32, 1_000_003)).collect();
    let asked: Vec<&[f32]> = far.iter().map(Vec::as_slice).collect();
    let mean = |index: &LiveIndex| {
        let all = [NamedFilter { name: "all", eligible: None }];
        recall_report(index, &asked, 100, &all).unwrap().lines[0].recall_mean
    };
    let before = mean(&index);
    assert!(before < 0.94, "the queries are hard: {before} {:?}", index.stats());
    let searches = index.stats().searches_lists;
    for vector in far.iter().cycle().take(1_000) {
        index.recall_of(&Query { vector, k: 100, eligible: None }).unwrap();
    }
    assert_eq!(index.stats().searches_lists, searches, "samples are not counted as searches");
    let after = mean(&index);
    assert!(
        after > 0.95 && after - before > 0.02 && index.stats().widened > 1.1,
        "{before} {after} {:?}",
        index.stats()
    );
    let near: Vec<Vec<f32>> = (0..2_000).map(|seed| vector(seed, 32, 60)).collect();
    for vector in &near {
        index.recall_of(&Query { vector, k: 5, eligible: None }).unwrap();
    }
    assert!(index.stats().widened < 1.05, "{:?}", index.stats());
}
