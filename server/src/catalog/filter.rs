//! Which items and plans may answer a slot.
//!
//! Everything is set algebra over precomputed sets, so the cost does not depend on how long the request's lists are in
//! relation to the catalogue: a block list of 500 domains is 500 look-ups, not 500 x 2,000 comparisons.

use super::fit::fits;
use super::{Bitmap, Catalog, category, covers, domain, with_ancestors};
use crate::auction::slot::{DealOffer, Slot, Terms};
use crate::ids::{CreativeSlot, ItemSlot, PlanSlot};
use crate::plans::Plan;
use std::sync::Arc;

/// Plans that can pay and are in schedule, as the last control tick decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanSet {
    /// Changes with the content and only with it.
    pub version: u64,
    /// One bit for each plan.
    pub plans: Bitmap,
    /// Plans that are in schedule and would be among them if they had money left.
    pub spent: Bitmap,
    /// Plans with a slot at or above this were created after the tick.
    pub known: PlanSlot,
}

/// Who may answer a slot; holds for the catalogue version it was made from.
#[derive(Clone, Debug)]
pub struct Eligible {
    /// Version of the catalogue.
    pub catalog_version: u64,
    /// Version of the plan set.
    pub live_version: u64,
    /// Items that at least one plan may show; the filter of the retrieval.
    pub items: Arc<Bitmap>,
    /// Number of items in `items`.
    pub item_count: usize,
    /// True if nothing is in `items` only because the plans that may answer have spent their money.
    pub exhausted: bool,
    /// Plans that passed every rule of theirs.
    pub plans: Bitmap,
    /// Plans with a fitting creative for any of their items; `None` if no creative is asked for (a feed).
    generic: Option<Bitmap>,
    /// Shapes that fit.
    shapes: Bitmap,
}

impl Eligible {
    /// Plans that may show `item`, ascending. `catalog` must be the snapshot this was made from.
    pub fn plans_of<'a>(&'a self, catalog: &'a Catalog, item: ItemSlot) -> impl Iterator<Item = PlanSlot> + 'a {
        let plans = if self.items.get(item) { catalog.item(item).map_or(&[][..], |entry| &entry.plans) } else { &[] };
        plans.iter().copied().filter(move |&plan| self.plans.get(plan) && self.has_creative(catalog, plan, item))
    }

    /// Creatives of `plan` that may show `item` in the slot, ascending; none for a feed.
    pub fn creatives<'a>(
        &'a self,
        catalog: &'a Catalog,
        plan: PlanSlot,
        item: ItemSlot,
    ) -> impl Iterator<Item = CreativeSlot> + 'a {
        let list = catalog.plan(plan).map_or(&[][..], |entry| &entry.creatives);
        list.iter().copied().filter(move |&slot| {
            catalog.creative(slot).is_some_and(|creative| {
                self.shapes.get(creative.shape) && creative.item.is_none_or(|only| only == item)
            })
        })
    }

    fn has_creative(&self, catalog: &Catalog, plan: PlanSlot, item: ItemSlot) -> bool {
        self.generic.as_ref().is_none_or(|generic| generic.get(plan))
            || self.creatives(catalog, plan, item).next().is_some()
    }
}

/// Whether a plan may buy through a deal.
pub(crate) fn deal_admits(deal: &DealOffer, plan: &Plan) -> bool {
    let seat = || plan.seat.as_ref().is_some_and(|own| deal.seats.contains(own));
    plan.deals.contains(&deal.id)
        && (deal.seats.is_empty() || seat())
        && (deal.domains.is_empty() || deal.domains.iter().any(|allowed| covers(allowed, &plan.domain)))
}

impl Catalog {
    /// Items and plans that may answer `slot` under `terms`, of the plans in `live`. A slot without an imp id is a
    /// feed's: no creative is needed. An exchange's slot that offers nothing we can fill gives an empty answer.
    ///
    /// Exact, uncached; use [`super::EligibilityCache::get`] on the request path.
    #[must_use]
    pub fn eligible(&self, terms: &Terms, slot: &Slot, live: &PlanSet) -> Eligible {
        let mut found = self.eligible_of(terms, slot, (&live.plans, live.version));
        if found.item_count == 0 && !live.spent.is_empty() {
            found.exhausted = self.eligible_of(terms, slot, (&live.spent, live.version)).item_count > 0;
        }
        found
    }

    fn eligible_of(&self, terms: &Terms, slot: &Slot, (of, live_version): (&Bitmap, u64)) -> Eligible {
        let mut plans = self.active.clone();
        plans.and(of);
        self.keep_seats_and_domains(&mut plans, terms);
        if slot.private_auction {
            self.keep_deals(&mut plans, slot);
        }
        let mut shapes = Bitmap::with_slots(self.shapes.len());
        let mut generic = None;
        if !slot.imp_id.is_empty() {
            let mut any = Bitmap::with_slots(self.plan_slots() as usize);
            let mut one = Bitmap::with_slots(self.plan_slots() as usize);
            for (number, shape) in self.shapes.iter() {
                if fits(&shape.example, slot, terms).is_ok() {
                    shapes.set(number);
                    shape.generic.add_to(&mut any);
                    shape.specific.add_to(&mut one);
                }
            }
            one.or(&any);
            plans.and(&one);
            generic = Some(any);
        }
        // The longest loop of all: one bit for each item of each plan, so it writes to plain words.
        let mut words = vec![0; (self.item_slots() as usize).div_ceil(64)];
        for plan in plans.iter() {
            self.add_items(plan, generic.as_ref(), &shapes, &mut words);
        }
        let mut items = Bitmap::from_words(words);
        self.keep_categories(&mut items, terms);
        Eligible {
            catalog_version: self.version(),
            live_version,
            item_count: items.count(),
            items: Arc::new(items),
            exhausted: false,
            plans,
            generic,
            shapes,
        }
    }

    /// Items present that the categories of `terms` allow, with or without a plan: what a feed may rank.
    #[must_use]
    pub fn rankable(&self, terms: &Terms) -> Bitmap {
        let mut items = Bitmap::with_slots(self.item_slots() as usize);
        items.or(&self.present);
        self.keep_categories(&mut items, terms);
        items
    }

    fn keep_seats_and_domains(&self, plans: &mut Bitmap, terms: &Terms) {
        if !terms.seats_allowed.is_empty() {
            let mut allowed = Bitmap::with_slots(self.plan_slots() as usize);
            for seat in terms.seats_allowed.iter().filter_map(|seat| self.seats.get(seat)) {
                seat.add_to(&mut allowed);
            }
            plans.and(&allowed);
        }
        for seat in terms.seats_blocked.iter().filter_map(|seat| self.seats.get(seat)) {
            seat.take_from(plans);
        }
        for blocked in &terms.blocked_domains {
            if let Some(members) = self.domains.get(&domain(blocked)) {
                members.take_from(plans);
            }
        }
    }

    fn keep_deals(&self, plans: &mut Bitmap, slot: &Slot) {
        let mut admitted = Bitmap::with_slots(self.plan_slots() as usize);
        for deal in &slot.deals {
            let Some(members) = self.deals.get(&deal.id) else { continue };
            members.for_each(|plan| {
                if self.plan(plan).is_some_and(|entry| deal_admits(deal, &entry.record)) {
                    admitted.set(plan);
                }
            });
        }
        plans.and(&admitted);
    }

    fn add_items(&self, plan: PlanSlot, generic: Option<&Bitmap>, shapes: &Bitmap, words: &mut [u64]) {
        let Some(entry) = self.plan(plan) else { return };
        let mut add = |item: ItemSlot| {
            if let Some(word) = words.get_mut(item as usize / 64) {
                *word |= 1 << (item % 64);
            }
        };
        if generic.is_none_or(|generic| generic.get(plan)) {
            entry.items.iter().for_each(|&item| add(item));
            return;
        }
        for creative in entry.creatives.iter().filter_map(|&slot| self.creative(slot)) {
            if let Some(item) = creative.item
                && shapes.get(creative.shape)
            {
                add(item);
            }
        }
    }

    fn keep_categories(&self, items: &mut Bitmap, terms: &Terms) {
        for blocked in &terms.blocked_categories {
            if let Some(members) = self.category_within.get(&category(blocked)) {
                members.take_from(items);
            }
        }
        if terms.allowed_categories.is_empty() {
            return;
        }
        let allowed: Vec<String> = terms.allowed_categories.iter().map(|text| category(text)).collect();
        let mut within = Bitmap::with_slots(items.capacity());
        for members in allowed.iter().filter_map(|key| self.category_within.get(key)) {
            members.add_to(&mut within);
        }
        items.and(&within);
        // An item with one allowed and one other category is not allowed.
        for (name, members) in self.category_exact.iter() {
            if !with_ancestors(name).any(|part| allowed.iter().any(|key| key == part)) {
                members.take_from(items);
            }
        }
    }
}
