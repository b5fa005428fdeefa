//! The catalogue: plans, items and creatives as one immutable, indexed snapshot.
//!
//! Requests read a [`Catalog`] and never wait: a change makes a new snapshot that shares all unchanged chunks with the
//! old one ([`CatalogHandle::apply`]). Callers' identifiers become dense numbers here ([`ItemSlot`], [`PlanSlot`],
//! [`CreativeSlot`]): positions of records and bits of bitmaps. No model is known here: which row of a model's item table
//! stands for a slot is the business of the generation that serves ([`crate::app::Generation`]).
//!
//! - [`Catalog::eligible`] says which items and plans may answer a slot ([`EligibilityCache`] remembers answers);
//! - [`Catalog::explain`] says, by plan, why not;
//! - [`Catalog::final_check`] checks one decided bid again, from the records alone.

mod cache;
mod change;
mod chunked;
mod explain;
mod filter;
mod fit;
mod handle;
mod postings;
mod shapes;

pub use longbow_index::Bitmap;

pub use cache::EligibilityCache;
pub use change::{Applied, ApplyError, Change, ChangeError};
pub use explain::{Decided, Filtered};
pub(crate) use filter::deal_admits;
pub use filter::{Eligible, PlanSet};
pub use handle::{CatalogHandle, Checked};

use crate::auction::choose::Tree;
use crate::ids::{CreativeSlot, Id, ItemKey, ItemSlot, PlanSlot};
use crate::plans::{Creative, Item, Plan};
use chunked::{Chunked, Sharded};
use postings::Inverted;
use shapes::Shapes;
use std::sync::Arc;

/// Most item slots, present and deleted together.
pub const ITEMS_MAX: u32 = 16_000_000;
/// Most plan slots over the life of the process.
pub const PLANS_MAX: u32 = 1_000_000;
/// Most creative slots over the life of the process.
pub const CREATIVES_MAX: u32 = 8_000_000;
/// Most categories of one item.
pub const ITEM_CATEGORIES_MAX: usize = 64;

/// An item and where it is sold.
#[derive(Clone, Debug)]
pub struct ItemEntry {
    /// The record.
    pub record: Arc<Item>,
    /// Its key in histories.
    pub key: ItemKey,
    /// Plans that sell it, ascending.
    pub plans: Arc<[PlanSlot]>,
}

/// A plan and what belongs to it.
#[derive(Clone, Debug)]
pub struct PlanEntry {
    /// The record.
    pub record: Arc<Plan>,
    /// Its items, ascending, each once.
    pub items: Arc<[ItemSlot]>,
    /// Its creatives, ascending.
    pub creatives: Arc<[CreativeSlot]>,
}

/// A creative and what it belongs to.
#[derive(Clone, Debug)]
pub struct CreativeEntry {
    /// The record.
    pub record: Arc<Creative>,
    /// Its plan.
    pub plan: PlanSlot,
    /// The only item it may show, if it names one.
    pub item: Option<ItemSlot>,
    /// Its elements, if it is composed for each impression.
    pub tree: Option<Arc<Tree>>,
    /// Number of its shape: all creatives of one shape fit the same slots.
    pub(crate) shape: u32,
}

/// An immutable snapshot of the whole catalogue.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    version: u64,
    items: Chunked<ItemEntry>,
    /// Key of every item slot ever given: deleted items keep theirs, so that histories stay readable.
    keys: Chunked<ItemKey>,
    slots: Sharded<ItemKey>,
    next_item: ItemSlot,
    plans: Chunked<PlanEntry>,
    plan_ids: Sharded<Id>,
    next_plan: PlanSlot,
    creatives: Chunked<CreativeEntry>,
    creative_ids: Sharded<Id>,
    next_creative: CreativeSlot,
    /// Items present.
    present: Bitmap,
    /// Plans in state active.
    active: Bitmap,
    /// Items by category as written (normalised), and by category including everything below it.
    category_exact: Inverted,
    category_within: Inverted,
    /// Plans by every domain suffix, by seat and by deal.
    domains: Inverted,
    seats: Inverted,
    deals: Inverted,
    shapes: Shapes,
}

impl Catalog {
    /// Grows by one with every applied batch.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The item in a slot.
    #[must_use]
    pub fn item(&self, slot: ItemSlot) -> Option<&ItemEntry> {
        self.items.get(slot)
    }

    /// Slot of an item that is present.
    #[must_use]
    pub fn item_slot(&self, id: &Id) -> Option<ItemSlot> {
        let slot = self.slots.get(&ItemKey::parse(id.as_str())?)?;
        (self.items.get(slot)?.record.id == *id).then_some(slot)
    }

    /// Slot of a key, also after the item was deleted.
    #[must_use]
    pub fn slot_of(&self, key: ItemKey) -> Option<ItemSlot> {
        self.slots.get(&key)
    }

    /// Key of a slot, also after the item was deleted.
    #[must_use]
    pub fn key_of(&self, slot: ItemSlot) -> Option<ItemKey> {
        self.keys.get(slot).copied()
    }

    /// The plan in a slot.
    #[must_use]
    pub fn plan(&self, slot: PlanSlot) -> Option<&PlanEntry> {
        self.plans.get(slot)
    }

    /// Slot of a plan.
    #[must_use]
    pub fn plan_slot(&self, id: &Id) -> Option<PlanSlot> {
        self.plan_ids.get(id)
    }

    /// The creative in a slot.
    #[must_use]
    pub fn creative(&self, slot: CreativeSlot) -> Option<&CreativeEntry> {
        self.creatives.get(slot)
    }

    /// Slot of a creative.
    #[must_use]
    pub fn creative_slot(&self, id: &Id) -> Option<CreativeSlot> {
        self.creative_ids.get(id)
    }

    /// Items present, in slot order.
    pub fn items(&self) -> impl Iterator<Item = (ItemSlot, &ItemEntry)> {
        self.items.iter()
    }

    /// Plans present, in slot order.
    pub fn plans(&self) -> impl Iterator<Item = (PlanSlot, &PlanEntry)> {
        self.plans.iter()
    }

    /// Creatives present, in slot order.
    pub fn creatives(&self) -> impl Iterator<Item = (CreativeSlot, &CreativeEntry)> {
        self.creatives.iter()
    }

    /// Number of items, plans and creatives present.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.items.present(), self.plans.present(), self.creatives.present())
    }

    /// One above the highest item slot given so far, at least 1: the length every item bitmap must have.
    #[must_use]
    pub fn item_slots(&self) -> ItemSlot {
        self.next_item.max(1)
    }

    /// One above the highest plan slot given so far.
    #[must_use]
    pub fn plan_slots(&self) -> PlanSlot {
        self.next_plan
    }
}

/// A content category in the form in which the indexes hold it: trimmed, upper case.
fn category(text: &str) -> String {
    text.trim().to_ascii_uppercase()
}

/// A domain in the form in which the indexes hold it: trimmed, lower case, without a final dot and a leading `www.`
/// (who blocks `www.a.com` means `a.com`).
fn domain(text: &str) -> String {
    bare_domain(text).to_ascii_lowercase()
}

fn bare_domain(text: &str) -> &str {
    let text = text.trim().trim_end_matches('.');
    match text.get(..4) {
        Some(start) if start.eq_ignore_ascii_case("www.") => &text[4..],
        _ => text,
    }
}

/// True when domain `own` is `listed` or below it, any case; allocates nothing.
fn covers(listed: &str, own: &str) -> bool {
    let (listed, own) = (bare_domain(listed).as_bytes(), bare_domain(own).as_bytes());
    let Some(split) = own.len().checked_sub(listed.len()) else { return false };
    !listed.is_empty() && own[split..].eq_ignore_ascii_case(listed) && (split == 0 || own[split - 1] == b'.')
}

/// Every `separator`-ended prefix of a category and itself: `IAB1-2` gives `IAB1` and `IAB1-2`.
fn with_ancestors(category: &str) -> impl Iterator<Item = &str> {
    category.match_indices('-').map(|(at, _)| &category[..at]).chain([category]).filter(|part| !part.is_empty())
}

/// A domain and every parent: `x.a.com` gives `x.a.com`, `a.com`, `com`.
fn with_parents(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |part| part.split_once('.').map(|(_, parent)| parent))
}
