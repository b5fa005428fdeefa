//! Changes: validated against the records and each other, applied to a private copy that becomes the next snapshot.

use super::{
    CREATIVES_MAX, Catalog, CreativeEntry, ITEM_CATEGORIES_MAX, ITEMS_MAX, ItemEntry, PLANS_MAX, PlanEntry, category,
    domain, with_ancestors, with_parents,
};
use crate::auction::choose::Tree;
use crate::ids::{CreativeSlot, ID_BYTES_MAX, Id, ItemKey, ItemSlot, PlanSlot};
use crate::plans::{Creative, FieldError, Item, Plan, PlanState};
use std::sync::Arc;

/// One change of the catalogue. An upsert replaces the record of the same id as a whole.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates or replaces an item. It keeps the slot that its key had before, else it gets the next free one. Whether a model can
    /// serve it is not looked at here.
    Item(Item),
    /// The same with a slot chosen by the caller; refused if another item owns it or the item already has another.
    ItemAt(Item, ItemSlot),
    /// Removes an item; refused while a plan lists it. Its key keeps its slot.
    DeleteItem(Id),
    /// Creates or replaces a plan. Its items must exist.
    Plan(Plan),
    /// Removes a plan and its creatives.
    DeletePlan(Id),
    /// Creates or replaces a creative. Its plan must exist and list its item, if it names one.
    Creative(Creative),
    /// Removes a creative.
    DeleteCreative(Id),
}

impl Change {
    /// The record that it is about, for a log.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Item(item) | Self::ItemAt(item, _) => format!("item {}", item.id),
            Self::Plan(plan) => format!("plan {}", plan.id),
            Self::Creative(creative) => format!("creative {}", creative.id),
            Self::DeleteItem(id) => format!("item {id}"),
            Self::DeletePlan(id) => format!("plan {id}"),
            Self::DeleteCreative(id) => format!("creative {id}"),
        }
    }
}

/// Why one change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A field breaks a rule or refers to a record that does not exist.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The record to delete does not exist.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// `item`, `plan` or `creative`.
        kind: &'static str,
        /// Its id.
        id: Id,
    },
    /// The catalogue is full.
    #[error(
        "the catalogue is full: at most {max} {kind} slots for the life of a process; restart to compact deleted ones"
    )]
    Full {
        /// `item`, `plan` or `creative`.
        kind: &'static str,
        /// The limit.
        max: u32,
    },
    /// An item slot that cannot be given.
    #[error("item slot {slot}: {fault}")]
    BadSlot {
        /// The slot.
        slot: ItemSlot,
        /// What is wrong.
        fault: &'static str,
    },
}

/// The first refused change of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change {index}: {error}")]
pub struct ApplyError {
    /// Its position in the batch, from 0.
    pub index: usize,
    /// What is wrong.
    pub error: ChangeError,
}

/// What a batch did, for the rooms that keep something by slot. A slot may occur in both lists of its kind if the
/// batch wrote and removed it; the snapshot of `version` is the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Version of the catalogue after the batch.
    pub version: u64,
    /// Items written.
    pub items: Vec<ItemSlot>,
    /// Items removed.
    pub items_removed: Vec<ItemSlot>,
    /// Plans written.
    pub plans: Vec<PlanSlot>,
    /// Plans removed.
    pub plans_removed: Vec<PlanSlot>,
    /// Creatives written.
    pub creatives: Vec<CreativeSlot>,
    /// Creatives removed, those of removed plans included.
    pub creatives_removed: Vec<CreativeSlot>,
    /// Records that did not exist before.
    pub created: usize,
    /// Records replaced.
    pub replaced: usize,
}

/// The next snapshot while it is being made.
pub(super) struct Draft {
    catalog: Catalog,
    applied: Applied,
}

fn check_id(field: &str, id: &Id) -> Result<(), FieldError> {
    if (1..=ID_BYTES_MAX).contains(&id.as_str().len()) {
        Ok(())
    } else {
        Err(FieldError::new(field, format!("must have 1 to {ID_BYTES_MAX} bytes")))
    }
}

/// `list` with `slot` added or taken away, still ascending.
fn edited(list: &[u32], slot: u32, member: bool) -> Arc<[u32]> {
    match (list.binary_search(&slot), member) {
        (Err(place), true) => list[..place].iter().chain([&slot]).chain(&list[place..]).copied().collect(),
        (Ok(place), false) => list[..place].iter().chain(&list[place + 1..]).copied().collect(),
        _ => list.into(),
    }
}

impl Draft {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self { catalog, applied: Applied::default() }
    }

    pub(super) fn finish(mut self) -> (Catalog, Applied) {
        self.catalog.version += 1;
        self.applied.version = self.catalog.version;
        (self.catalog, self.applied)
    }

    pub(super) fn change(&mut self, change: Change) -> Result<(), ChangeError> {
        match change {
            Change::Item(item) => self.put_item(item, None),
            Change::ItemAt(item, slot) => self.put_item(item, Some(slot)),
            Change::DeleteItem(id) => self.delete_item(id),
            Change::Plan(plan) => self.put_plan(plan),
            Change::DeletePlan(id) => self.delete_plan(id),
            Change::Creative(creative) => self.put_creative(creative),
            Change::DeleteCreative(id) => self.delete_creative(id),
        }
    }

    fn put_item(&mut self, item: Item, asked: Option<ItemSlot>) -> Result<(), ChangeError> {
        check_id("id", &item.id)?;
        item.validate(item.vector.len())?;
        if item.categories.len() > ITEM_CATEGORIES_MAX {
            return Err(FieldError::new("categories", format!("must be at most {ITEM_CATEGORIES_MAX}")).into());
        }
        if item.categories.iter().any(|text| text.trim().is_empty() || text.len() > ID_BYTES_MAX) {
            return Err(FieldError::new("categories", format!("each must have 1 to {ID_BYTES_MAX} bytes")).into());
        }
        let key = ItemKey::parse(item.id.as_str()).ok_or_else(|| FieldError::new("id", "must not be empty"))?;
        let slot = self.item_slot_for(key, asked)?;
        let catalog = &mut self.catalog;
        let mut plans: Arc<[PlanSlot]> = Arc::default();
        if let Some(old) = catalog.items.get(slot).cloned() {
            if old.record.id != item.id {
                let fault = format!("has the same 64-bit key as `{}`: choose another identifier", old.record.id);
                return Err(FieldError::new("id", fault).into());
            }
            plans = Arc::clone(&old.plans);
            self.index_categories(slot, &old.record, false);
            self.applied.replaced += 1;
        } else {
            self.applied.created += 1;
        }
        let catalog = &mut self.catalog;
        catalog.keys.put(slot, key);
        catalog.slots.insert(key, slot);
        catalog.next_item = catalog.next_item.max(slot + 1);
        let record = Arc::new(item);
        catalog.items.put(slot, ItemEntry { record: Arc::clone(&record), key, plans });
        catalog.present.set(slot);
        self.index_categories(slot, &record, true);
        self.applied.items.push(slot);
        Ok(())
    }

    /// The slot of a key: the one it has, the one asked for, or the next free one.
    fn item_slot_for(&self, key: ItemKey, asked: Option<ItemSlot>) -> Result<ItemSlot, ChangeError> {
        let catalog = &self.catalog;
        let slot = match (catalog.slots.get(&key), asked) {
            (Some(own), Some(slot)) if own != slot => {
                return Err(ChangeError::BadSlot { slot, fault: "the item already has another slot" });
            }
            (Some(own), _) => return Ok(own),
            (None, Some(slot)) => slot,
            (None, None) => catalog.item_slots(),
        };
        if slot == 0 {
            return Err(ChangeError::BadSlot { slot, fault: "slot 0 is never an item" });
        }
        if slot >= ITEMS_MAX {
            return Err(ChangeError::Full { kind: "item", max: ITEMS_MAX });
        }
        if catalog.keys.get(slot).is_some() {
            return Err(ChangeError::BadSlot { slot, fault: "another item owns this slot" });
        }
        Ok(slot)
    }

    fn index_categories(&mut self, slot: ItemSlot, item: &Item, member: bool) {
        let catalog = &mut self.catalog;
        let room = catalog.items.capacity();
        for text in &item.categories {
            let exact = category(text);
            if member {
                catalog.category_exact.insert(&exact, slot, room);
                with_ancestors(&exact).for_each(|part| catalog.category_within.insert(part, slot, room));
            } else {
                catalog.category_exact.remove(&exact, slot);
                with_ancestors(&exact).for_each(|part| catalog.category_within.remove(part, slot));
            }
        }
    }

    fn delete_item(&mut self, id: Id) -> Result<(), ChangeError> {
        let Some(slot) = self.catalog.item_slot(&id) else { return Err(ChangeError::NotFound { kind: "item", id }) };
        let Some(entry) = self.catalog.items.get(slot).cloned() else {
            return Err(ChangeError::NotFound { kind: "item", id });
        };
        if let Some(plan) = entry.plans.first().and_then(|&plan| self.catalog.plan(plan)) {
            let fault = format!("plan `{}` sells item `{id}`: take it off the plan first", plan.record.id);
            return Err(FieldError::new("id", fault).into());
        }
        self.index_categories(slot, &entry.record, false);
        self.catalog.items.remove(slot);
        self.catalog.present.clear(slot);
        self.applied.items_removed.push(slot);
        Ok(())
    }

    fn put_plan(&mut self, plan: Plan) -> Result<(), ChangeError> {
        check_id("id", &plan.id)?;
        check_id("advertiser", &plan.advertiser)?;
        plan.validate()?;
        let mut items = Vec::with_capacity(plan.items.len());
        for (position, id) in plan.items.iter().enumerate() {
            items.push(self.catalog.item_slot(id).ok_or_else(|| {
                FieldError::new(format!("items[{position}]"), format!("there is no item `{id}`: create it first"))
            })?);
        }
        items.sort_unstable();
        items.dedup();
        let old = self.catalog.plan_slot(&plan.id).and_then(|slot| Some((slot, self.catalog.plan(slot)?.clone())));
        let (slot, creatives) = if let Some((slot, old)) = &old {
            self.check_replacement(old, &plan, &items)?;
            self.index_plan(*slot, &old.record, false);
            self.applied.replaced += 1;
            (*slot, Arc::clone(&old.creatives))
        } else {
            if self.catalog.next_plan >= PLANS_MAX {
                return Err(ChangeError::Full { kind: "plan", max: PLANS_MAX });
            }
            self.catalog.next_plan += 1;
            self.applied.created += 1;
            (self.catalog.next_plan - 1, Arc::default())
        };
        self.relist(slot, old.as_ref().map_or(&[], |(_, old)| &old.items), &items);
        let catalog = &mut self.catalog;
        catalog.plan_ids.insert(plan.id.clone(), slot);
        let record = Arc::new(plan);
        catalog.plans.put(slot, PlanEntry { record: Arc::clone(&record), items: items.into(), creatives });
        self.index_plan(slot, &record, true);
        self.applied.plans.push(slot);
        Ok(())
    }

    fn check_replacement(&self, old: &PlanEntry, new: &Plan, items: &[ItemSlot]) -> Result<(), FieldError> {
        if old.record.currency != new.currency {
            let fault = format!("is {} and cannot change: money already spent is counted in it", old.record.currency);
            return Err(FieldError::new("currency", fault));
        }
        for creative in old.creatives.iter().filter_map(|&slot| self.catalog.creative(slot)) {
            if creative.item.is_some_and(|item| items.binary_search(&item).is_err()) {
                let fault =
                    format!("creative `{}` is for an item that is left out: delete it first", creative.record.id);
                return Err(FieldError::new("items", fault));
            }
        }
        Ok(())
    }

    /// Moves a plan from the items of `before` to those of `after`; both ascending.
    fn relist(&mut self, plan: PlanSlot, before: &[ItemSlot], after: &[ItemSlot]) {
        let lost = before.iter().filter(|item| after.binary_search(item).is_err()).map(|&item| (item, false));
        let gained = after.iter().filter(|item| before.binary_search(item).is_err()).map(|&item| (item, true));
        for (item, member) in lost.chain(gained) {
            if let Some(entry) = self.catalog.items.get_mut(item) {
                entry.plans = edited(&entry.plans, plan, member);
            }
        }
    }

    fn index_plan(&mut self, slot: PlanSlot, plan: &Plan, member: bool) {
        let catalog = &mut self.catalog;
        let room = catalog.plans.capacity().max(slot as usize + 1);
        let own = domain(&plan.domain);
        for key in with_parents(&own) {
            if member { catalog.domains.insert(key, slot, room) } else { catalog.domains.remove(key, slot) }
        }
        if let Some(key) = &plan.seat {
            if member { catalog.seats.insert(key, slot, room) } else { catalog.seats.remove(key, slot) }
        }
        for key in &plan.deals {
            if member { catalog.deals.insert(key, slot, room) } else { catalog.deals.remove(key, slot) }
        }
        if member && plan.state == PlanState::Active {
            catalog.active.set(slot)
        } else {
            catalog.active.clear(slot)
        };
    }

    fn delete_plan(&mut self, id: Id) -> Result<(), ChangeError> {
        let found = self.catalog.plan_slot(&id).and_then(|slot| Some((slot, self.catalog.plan(slot)?.clone())));
        let Some((slot, entry)) = found else { return Err(ChangeError::NotFound { kind: "plan", id }) };
        for &creative in &*entry.creatives {
            self.remove_creative(creative);
        }
        self.relist(slot, &entry.items, &[]);
        self.index_plan(slot, &entry.record, false);
        self.catalog.plans.remove(slot);
        self.catalog.plan_ids.remove(&id);
        self.applied.plans_removed.push(slot);
        Ok(())
    }

    fn put_creative(&mut self, creative: Creative) -> Result<(), ChangeError> {
        check_id("id", &creative.id)?;
        creative.validate()?;
        let missing = |field: &str, kind: &str, id: &Id| {
            FieldError::new(field, format!("there is no {kind} `{id}`: create it first"))
        };
        let plan = self.catalog.plan_slot(&creative.plan).ok_or_else(|| missing("plan", "plan", &creative.plan))?;
        let item = match &creative.item {
            None => None,
            Some(id) => Some(self.catalog.item_slot(id).ok_or_else(|| missing("item", "item", id))?),
        };
        let sold =
            |item: ItemSlot| self.catalog.plan(plan).is_some_and(|entry| entry.items.binary_search(&item).is_ok());
        if item.is_some_and(|item| !sold(item)) {
            return Err(
                FieldError::new("item", format!("is not one of plan `{}`: add it there first", creative.plan)).into()
            );
        }
        let slot = if let Some(slot) = self.catalog.creative_slot(&creative.id) {
            if self.catalog.creative(slot).is_some_and(|old| old.plan != plan) {
                return Err(FieldError::new("plan", "cannot change: create another creative for the other plan").into());
            }
            self.remove_creative(slot);
            self.applied.creatives_removed.pop();
            self.applied.replaced += 1;
            slot
        } else {
            if self.catalog.next_creative >= CREATIVES_MAX {
                return Err(ChangeError::Full { kind: "creative", max: CREATIVES_MAX });
            }
            self.catalog.next_creative += 1;
            self.applied.created += 1;
            self.catalog.next_creative - 1
        };
        let record = Arc::new(creative);
        let tree = Tree::compile(&record)?.map(Arc::new);
        let shape = self.catalog.shapes.enter(&record);
        self.catalog.creative_ids.insert(record.id.clone(), slot);
        self.catalog.creatives.put(slot, CreativeEntry { record, plan, item, tree, shape });
        self.relink(plan, slot, shape, true);
        self.applied.creatives.push(slot);
        Ok(())
    }

    fn delete_creative(&mut self, id: Id) -> Result<(), ChangeError> {
        let Some(slot) = self.catalog.creative_slot(&id) else {
            return Err(ChangeError::NotFound { kind: "creative", id });
        };
        self.remove_creative(slot);
        Ok(())
    }

    fn remove_creative(&mut self, slot: CreativeSlot) {
        let Some(entry) = self.catalog.creatives.remove(slot) else { return };
        self.catalog.creative_ids.remove(&entry.record.id);
        self.relink(entry.plan, slot, entry.shape, false);
        self.catalog.shapes.leave(entry.shape);
        self.applied.creatives_removed.push(slot);
    }

    /// Adds a creative to its plan's list or takes it off, and states anew what the plan has of the creative's shape.
    fn relink(&mut self, plan: PlanSlot, creative: CreativeSlot, shape: u32, member: bool) {
        let catalog = &mut self.catalog;
        let Some(entry) = catalog.plans.get_mut(plan) else { return };
        entry.creatives = edited(&entry.creatives, creative, member);
        let list = Arc::clone(&entry.creatives);
        let same = || list.iter().filter_map(|&slot| catalog.creatives.get(slot)).filter(|other| other.shape == shape);
        let generic = same().any(|other| other.item.is_none());
        let specific = same().any(|other| other.item.is_some());
        catalog.shapes.mark(shape, plan, generic, specific);
    }
}
