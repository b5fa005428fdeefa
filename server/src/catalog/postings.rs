//! Sets of slots under a text key: which items have a category, which plans a domain, a seat, a deal.

use super::Bitmap;
use std::collections::HashMap;
use std::sync::Arc;

/// Above one member in this many slots a bitmap is smaller than a list of 32-bit numbers.
const DENSE_ONE_IN: usize = 32;

/// A set of slots: a sorted list while small, a bitmap when full, so that any number of rare keys stays cheap.
#[derive(Clone, Debug)]
pub(super) enum Postings {
    Sparse(Vec<u32>),
    Dense { bits: Bitmap, count: usize },
}

impl Default for Postings {
    fn default() -> Self {
        Self::Sparse(Vec::new())
    }
}

impl Postings {
    /// Adds a member; `room` is the number of slots there are now (above `slot`).
    pub(super) fn insert(&mut self, slot: u32, room: usize) {
        match self {
            Self::Sparse(list) => {
                if let Err(place) = list.binary_search(&slot) {
                    list.insert(place, slot);
                }
                if list.len() > 64 && list.len() * DENSE_ONE_IN > room {
                    let mut bits = Bitmap::with_slots(room);
                    bits.extend(list.iter().copied());
                    *self = Self::Dense { count: list.len(), bits };
                }
            }
            Self::Dense { bits, count } => {
                *count += usize::from(bits.set(slot));
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        match self {
            Self::Sparse(list) => {
                if let Ok(place) = list.binary_search(&slot) {
                    list.remove(place);
                }
            }
            Self::Dense { bits, count } => {
                *count -= usize::from(bits.clear(slot));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Sparse(list) => list.is_empty(),
            Self::Dense { count, .. } => *count == 0,
        }
    }

    pub(super) fn add_to(&self, target: &mut Bitmap) {
        match self {
            Self::Sparse(list) => target.extend(list.iter().copied()),
            Self::Dense { bits, .. } => target.or(bits),
        }
    }

    pub(super) fn take_from(&self, target: &mut Bitmap) {
        match self {
            Self::Sparse(list) => {
                for &slot in list {
                    target.clear(slot);
                }
            }
            Self::Dense { bits, .. } => target.and_not(bits),
        }
    }

    /// Calls `visit` with every member in ascending order.
    pub(super) fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Self::Sparse(list) => list.iter().for_each(|&slot| visit(slot)),
            Self::Dense { bits, .. } => bits.iter().for_each(visit),
        }
    }
}

/// [`Postings`] by text.
#[derive(Clone, Debug, Default)]
pub(super) struct Inverted {
    sets: Arc<HashMap<Arc<str>, Arc<Postings>>>,
}

impl Inverted {
    pub(super) fn get(&self, key: &str) -> Option<&Postings> {
        self.sets.get(key).map(|set| &**set)
    }

    pub(super) fn insert(&mut self, key: &str, slot: u32, room: usize) {
        let sets = Arc::make_mut(&mut self.sets);
        if let Some(set) = sets.get_mut(key) {
            Arc::make_mut(set).insert(slot, room);
        } else {
            sets.insert(key.into(), Arc::new(Postings::Sparse(vec![slot])));
        }
    }

    pub(super) fn remove(&mut self, key: &str, slot: u32) {
        let sets = Arc::make_mut(&mut self.sets);
        if let Some(set) = sets.get_mut(key) {
            let set = Arc::make_mut(set);
            set.remove(slot);
            if set.is_empty() {
                sets.remove(key);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Postings)> {
        self.sets.iter().map(|(key, set)| (&**key, &**set))
    }
}
