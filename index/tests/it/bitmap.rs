use std::collections::BTreeSet;

use longbow_index::Bitmap;
use proptest::prelude::*;

fn both(slots: &[u32]) -> (Bitmap, BTreeSet<u32>) {
    (slots.iter().copied().collect(), slots.iter().copied().collect())
}

fn listed(bitmap: &Bitmap) -> BTreeSet<u32> {
    bitmap.iter().collect()
}

proptest! {
    #[test]
    fn set_algebra_is_that_of_a_set(
        a in prop::collection::vec(0_u32..700, 0..80),
        b in prop::collection::vec(0_u32..300, 0..80),
        out in prop::collection::vec(0_u32..900, 0..20),
    ) {
        let ((mut bits_a, mut set_a), (bits_b, set_b)) = (both(&a), both(&b));
        for slot in &out {
            prop_assert_eq!(bits_a.clear(*slot), set_a.remove(slot));
            prop_assert!(!bits_a.get(*slot));
        }
        prop_assert_eq!(listed(&bits_a), set_a.clone());
        prop_assert_eq!(bits_a.count(), set_a.len());
        prop_assert_eq!(bits_a.is_empty(), set_a.is_empty());
        let common: BTreeSet<u32> = set_a.intersection(&set_b).copied().collect();
        prop_assert_eq!(bits_a.intersection_count(&bits_b), common.len());
        for (x, y) in [(&bits_a, &bits_b), (&bits_b, &bits_a)] {
            let mut and = x.clone();
            and.and(y);
            prop_assert_eq!(listed(&and), common.clone());
            let mut or = x.clone();
            or.or(y);
            prop_assert_eq!(listed(&or), set_a.union(&set_b).copied().collect::<BTreeSet<_>>());
            let mut not = x.clone();
            not.and_not(y);
            prop_assert_eq!(listed(&not), listed(x).difference(&listed(y)).copied().collect::<BTreeSet<_>>());
        }
    }
}

#[test]
fn full_covers_exactly_its_slots() {
    for slots in [0, 1, 63, 64, 65, 200] {
        let full = Bitmap::full(slots);
        assert_eq!(full.count(), slots);
        assert!(!full.get(u32::try_from(slots).unwrap()));
    }
}

#[test]
fn equality_is_that_of_sets() {
    let mut long = Bitmap::with_slots(1000);
    assert!(long.set(3) && !long.set(3));
    let short: Bitmap = [3].into_iter().collect();
    assert_eq!(long, short);
    assert_eq!(short, long);
    long.set(999);
    assert_ne!(long, short);
    assert!(long.clear(3) && long.clear(999));
    assert_eq!(long, Bitmap::new());
    assert_eq!(long.capacity(), 1024);
}
