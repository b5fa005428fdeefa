//! The catalogue's snapshots and changes.

use crate::catalog_kit::{banner, banner_slot, handle, id, item, plan};
use longbow::auction::NoBidReason;
use longbow::auction::slot::Terms;
use longbow::catalog::{Bitmap, Change, ChangeError, Decided, EligibilityCache, PlanSet};
use longbow::ids::ItemKey;
use longbow::plans::FieldError;
use std::sync::Arc;

fn fault(error: &ChangeError) -> (&str, &str) {
    match error {
        ChangeError::Invalid(FieldError { field, fault }) => (field, fault),
        other => panic!("{other}"),
    }
}

fn everyone(plans: usize) -> PlanSet {
    PlanSet { version: 1, plans: Bitmap::full(plans), spent: Bitmap::new(), known: u32::try_from(plans).unwrap() }
}

#[test]
fn a_large_catalogue_is_built_and_linked() {
    let handle = handle();
    let mut changes: Vec<Change> =
        (0..20_000).map(|n| Change::Item(item(&n.to_string(), &[&format!("IAB{}", n % 23)]))).collect();
    let names: Vec<Vec<String>> = (0..400).map(|p| (0..50).map(|k| (p * 50 + k).to_string()).collect()).collect();
    for (p, items) in names.iter().enumerate() {
        changes.push(Change::Plan(plan(&format!("p{p}"), &items.iter().map(String::as_str).collect::<Vec<_>>())));
        for c in 0..5 {
            changes.push(Change::Creative(banner(&format!("c{p}-{c}"), &format!("p{p}"), None)));
        }
    }
    let applied = handle.apply(changes).unwrap();
    let catalog = handle.snapshot();
    assert_eq!((applied.version, applied.created, applied.replaced), (1, 22_400, 0));
    assert_eq!(catalog.counts(), (20_000, 400, 2_000));
    assert_eq!(catalog.item_slots(), 20_001);
    for (slot, entry) in catalog.items() {
        assert_eq!(catalog.item_slot(&entry.record.id), Some(slot));
        assert_eq!(catalog.key_of(slot), Some(entry.key));
        assert_eq!(entry.plans.len(), 1);
        assert!(catalog.plan(entry.plans[0]).unwrap().items.contains(&slot));
    }
    let answer = catalog.eligible(&Terms::default(), &banner_slot(), &everyone(400));
    assert_eq!(answer.item_count, 20_000);
    let terms = Terms { blocked_categories: vec!["IAB0".into()], ..Terms::default() };
    assert_eq!(catalog.eligible(&terms, &banner_slot(), &everyone(400)).item_count, 20_000 - 870);
}

#[test]
fn items_keep_their_slots_and_slots_are_not_given_twice() {
    let handle = handle();
    handle.apply(vec![Change::ItemAt(item("7", &[]), 3), Change::Item(item("new", &[]))]).unwrap();
    let catalog = handle.snapshot();
    assert_eq!(catalog.item_slot(&id("7")), Some(3));
    assert_eq!(catalog.item_slot(&id("new")), Some(4));
    assert_eq!(catalog.slot_of(ItemKey(8)), None);

    handle.apply(vec![Change::DeleteItem(id("new")), Change::Item(item("newer", &[]))]).unwrap();
    let catalog = handle.snapshot();
    assert_eq!(catalog.item_slot(&id("newer")), Some(5), "the deleted item's slot is not given again");
    assert_eq!(catalog.slot_of(ItemKey::parse("new").unwrap()), Some(4), "histories can still name it");
    assert!(!catalog.rankable(&Terms::default()).get(4));
    handle.apply(vec![Change::Item(item("new", &[]))]).unwrap();
    assert_eq!(handle.snapshot().item_slot(&id("new")), Some(4));

    for (change, slot) in [
        (Change::ItemAt(item("other", &[]), 0), 0),
        (Change::ItemAt(item("other", &[]), 4), 4),
        (Change::ItemAt(item("7", &[]), 12), 12),
    ] {
        let error = handle.apply(vec![change]).unwrap_err();
        assert!(matches!(error.error, ChangeError::BadSlot { slot: refused, .. } if refused == slot), "{error}");
    }
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    let handle = handle();
    handle.apply(vec![Change::Item(item("a", &["IAB1"]))]).unwrap();
    let before = handle.snapshot();
    let error = handle
        .apply(vec![Change::Item(item("b", &[])), Change::DeleteItem(id("a")), Change::Plan(plan("p", &["b", "gone"]))])
        .unwrap_err();
    assert_eq!(error.index, 2);
    assert_eq!(fault(&error.error).0, "items[1]");
    assert!(Arc::ptr_eq(&before, &handle.snapshot()));
}

#[test]
fn references_are_held() {
    let handle = handle();
    handle
        .apply(vec![
            Change::Item(item("a", &[])),
            Change::Item(item("b", &[])),
            Change::Plan(plan("p", &["a", "b"])),
            Change::Creative(banner("c", "p", Some("b"))),
        ])
        .unwrap();
    let refused = |change: Change| handle.apply(vec![change]).unwrap_err().error;
    assert_eq!(fault(&refused(Change::Creative(banner("d", "q", None)))).0, "plan");
    assert_eq!(fault(&refused(Change::Creative(banner("d", "p", Some("z"))))).0, "item");
    assert_eq!(fault(&refused(Change::DeleteItem(id("a")))).0, "id");
    assert_eq!(fault(&refused(Change::Plan(plan("p", &["a"])))).0, "items", "its creative is for item b");
    let mut other = plan("p", &["a", "b"]);
    other.currency = longbow::money::Currency::parse("EUR").unwrap();
    assert_eq!(fault(&refused(Change::Plan(other))).0, "currency");
    handle.apply(vec![Change::Plan(plan("q", &["a"]))]).unwrap();
    assert_eq!(fault(&refused(Change::Creative(banner("c", "q", None)))).0, "plan");
    for (change, kind) in [
        (Change::DeleteItem(id("z")), "item"),
        (Change::DeletePlan(id("z")), "plan"),
        (Change::DeleteCreative(id("z")), "creative"),
    ] {
        assert_eq!(refused(change), ChangeError::NotFound { kind, id: id("z") });
    }
    let applied = handle.apply(vec![Change::DeletePlan(id("p")), Change::DeleteItem(id("b"))]).unwrap();
    assert_eq!((applied.plans_removed.len(), applied.creatives_removed.len(), applied.items_removed.len()), (1, 1, 1));
    assert_eq!(handle.snapshot().counts(), (1, 1, 0));
    assert_eq!(handle.snapshot().item(1).unwrap().plans.len(), 1);
}

#[test]
fn old_snapshots_do_not_change() {
    let handle = handle();
    handle
        .apply(vec![
            Change::Item(item("a", &["IAB1"])),
            Change::Plan(plan("p", &["a"])),
            Change::Creative(banner("c", "p", None)),
        ])
        .unwrap();
    let old = handle.snapshot();
    let answer = old.eligible(&Terms::default(), &banner_slot(), &everyone(1));
    handle.apply(vec![Change::DeletePlan(id("p")), Change::DeleteItem(id("a"))]).unwrap();
    let now = handle.snapshot();
    assert_eq!(answer.plans_of(&old, 1).collect::<Vec<_>>(), [0]);
    assert_eq!(answer.creatives(&old, 0, 1).collect::<Vec<_>>(), [0]);
    let bid = Decided { plan: 0, item: 1, creative: Some(0), deal: None };
    assert_eq!(old.final_check(&Terms::default(), &banner_slot(), bid, 5), Ok(()));
    assert_eq!(now.final_check(&Terms::default(), &banner_slot(), bid, 5), Err(NoBidReason::NotFound));
    assert_eq!(now.eligible(&Terms::default(), &banner_slot(), &everyone(1)).item_count, 0);
}

#[test]
fn cache_answers_by_version_and_stays_within_its_bound() {
    let handle = handle();
    handle
        .apply(vec![
            Change::Item(item("a", &["IAB1"])),
            Change::Plan(plan("p", &["a"])),
            Change::Creative(banner("c", "p", None)),
        ])
        .unwrap();
    let cache = EligibilityCache::new(4);
    let (slot, live) = (banner_slot(), everyone(1));
    let blocking = |text: &str| Terms { blocked_categories: vec![text.into()], ..Terms::default() };
    let snapshot = handle.snapshot();
    let first = cache.get(&snapshot, &live, &blocking("IAB2"), &slot);
    assert!(Arc::ptr_eq(&first, &cache.get(&snapshot, &live, &blocking("IAB2"), &slot)));
    assert_eq!(cache.get(&snapshot, &live, &blocking("IAB1"), &slot).item_count, 0);
    assert_eq!(cache.hits_and_misses(), (1, 2));
    for n in 3..30 {
        let _ = cache.get(&snapshot, &live, &blocking(&format!("IAB{n}")), &slot);
        assert!(Arc::ptr_eq(&first, &cache.get(&snapshot, &live, &blocking("IAB2"), &slot)), "it is used: it stays");
    }
    assert_eq!(cache.hits_and_misses(), (1 + 27, 2 + 27));
    assert!(cache.len() <= 4);
    let _ = cache.get(&snapshot, &live, &blocking("IAB3"), &slot);
    assert_eq!(cache.hits_and_misses().1, 30, "long out");

    handle.apply(vec![Change::Item(item("a", &["IAB2"]))]).unwrap();
    assert_eq!(cache.get(&handle.snapshot(), &live, &blocking("IAB2"), &slot).item_count, 0);
    let nobody = PlanSet { version: 2, plans: Bitmap::new(), spent: Bitmap::new(), known: 1 };
    assert_eq!(cache.get(&handle.snapshot(), &nobody, &blocking("IAB1"), &slot).item_count, 0);
    assert_eq!(
        cache.get(&snapshot, &live, &blocking("IAB2"), &slot).item_count,
        1,
        "an old snapshot is still answered"
    );
}
