//! Random sequences of everything one can do to a live index, beside the naive model.

use longbow_index::{Applied, Bitmap, Change, Kind, LiveIndex, Query, Retriever};
use proptest::prelude::*;

use crate::world::{DIM, Naive, filter, small_options, vector};

#[derive(Clone, Debug)]
enum Step {
    /// Slot and seed of the vector.
    Put(u32, u64),
    Remove(u32),
    /// Put (with a seed) or remove, in one call.
    Batch(Vec<(u32, Option<u64>)>),
    /// Seed, k, one slot in how many is eligible (0: no filter).
    Search(u64, usize, u32),
    Merge,
    Rebuild,
    SaveAndLoad,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = || 0_u32..900;
    let seed = || 0_u64..400;
    let step = prop_oneof![
        6 => (slot(), seed()).prop_map(|(slot, seed)| Step::Put(slot, seed)),
        4 => slot().prop_map(Step::Remove),
        2 => prop::collection::vec((slot(), prop::option::of(seed())), 0..60).prop_map(Step::Batch),
        8 => (seed(), 0_usize..60, prop_oneof![Just(0_u32), 2_u32..300]).prop_map(|(seed, k, every)| Step::Search(seed, k, every)),
        1 => Just(Step::Merge),
        1 => Just(Step::Rebuild),
        1 => Just(Step::SaveAndLoad),
    ];
    prop::collection::vec(step, 1..40)
}

struct Pair {
    index: LiveIndex,
    naive: Naive,
    directory: tempfile::TempDir,
}

impl Pair {
    fn new(kind: Kind, background: bool) -> Self {
        let naive = Naive::seeded(700, DIM, 12);
        let (slots, vectors) = naive.slots_and_vectors();
        let options = longbow_index::IndexOptions { background, ..small_options(kind) };
        let index = LiveIndex::build(options, &slots, &vectors).unwrap();
        Self { index, naive, directory: tempfile::tempdir().unwrap() }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Put(slot, seed) => {
                let vector = vector(*seed, DIM, 12);
                let was_there = self.naive.items.insert(*slot, vector.clone()).is_some();
                assert_eq!(self.index.put(*slot, &vector).unwrap(), !was_there);
            }
            Step::Remove(slot) => {
                let was_there = self.naive.items.remove(slot).is_some();
                assert_eq!(self.index.remove(*slot).unwrap(), was_there);
            }
            Step::Batch(changes) => self.batch(changes),
            Step::Search(seed, k, every) => self.search(*seed, *k, *every),
            Step::Merge => {
                self.index.merge().unwrap();
                assert_eq!((self.index.stats().delta_items, self.index.stats().tombstones), (0, 0));
            }
            Step::Rebuild => self.index.rebuild().unwrap(),
            Step::SaveAndLoad => {
                self.index.save(self.directory.path()).unwrap();
                self.index = LiveIndex::load(self.directory.path(), self.index.options().clone()).unwrap();
            }
        }
        assert_eq!(self.index.len(), self.naive.items.len());
    }

    fn batch(&mut self, changes: &[(u32, Option<u64>)]) {
        let vectors: Vec<Option<Vec<f32>>> =
            changes.iter().map(|(_, seed)| seed.map(|seed| vector(seed, DIM, 12))).collect();
        let batch: Vec<Change<'_>> = changes
            .iter()
            .zip(&vectors)
            .map(|(&(slot, _), vector)| match vector {
                Some(vector) => Change::Put { slot, vector },
                None => Change::Remove { slot },
            })
            .collect();
        let mut due = Applied::default();
        for ((slot, _), vector) in changes.iter().zip(&vectors) {
            let before = match vector {
                Some(vector) => self.naive.items.insert(*slot, vector.clone()),
                None => self.naive.items.remove(slot),
            };
            match (vector, before) {
                (Some(_), None) => due.added += 1,
                (Some(_), Some(_)) => due.replaced += 1,
                (None, Some(_)) => due.removed += 1,
                (None, None) => due.absent += 1,
            }
        }
        assert_eq!(self.index.apply(&batch).unwrap(), due);
    }

    fn search(&self, seed: u64, k: usize, every: u32) {
        let query = vector(seed.wrapping_mul(31), DIM, 12);
        let set = (every > 0).then(|| filter(seed, 900, every));
        let eligible: Option<&Bitmap> = set.as_ref();
        let asked = [Query { vector: &query, k, eligible }];
        let hits = &self.index.search(&asked).unwrap()[0];
        self.naive.check_sound(hits, &query, k, eligible);
        let exact = &self.index.search_exact(&asked).unwrap()[0];
        self.naive.check_exact(exact, &query, k, eligible);
        // The plain index over the same items agrees bit for bit.
        assert_eq!(exact, &self.naive.exact(DIM).search(&asked).unwrap()[0]);
        if self.index.kind() == Kind::Exact {
            assert_eq!(hits, exact);
        }
        let recall = self.index.recall_of(&asked[0]).unwrap();
        assert!((hits.recall_against(exact) - recall).abs() < 1e-6 || self.index.options().background);
    }
}

fn run(kind: Kind, background: bool, steps: &[Step]) {
    let mut pair = Pair::new(kind, background);
    for step in steps {
        pair.take(step);
    }
    pair.search(7, 25, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn exact_is_the_naive_model(steps in steps(), background: bool) {
        run(Kind::Exact, background, &steps);
    }

    #[test]
    fn inverted_lists_keep_their_promises(steps in steps(), background: bool) {
        run(Kind::IvfFlat { nlist: 16 }, background, &steps);
    }

    #[test]
    fn compressed_lists_keep_their_promises(steps in steps(), background: bool) {
        run(Kind::IvfPq { nlist: 16, m: 4 }, background, &steps);
    }
}
