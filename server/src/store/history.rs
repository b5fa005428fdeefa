//! One user's history in memory: three columns, oldest first.

use super::UserEvent;
use crate::ids::ItemKey;

/// What a user did, oldest first. The columns have one length; times never fall. Events of one second stand in the
/// order in which they arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// With what.
    pub items: Vec<ItemKey>,
    /// 1 to [`super::ACTION_MAX`].
    pub actions: Vec<u16>,
    /// Unix seconds.
    pub times: Vec<i64>,
    /// Events that stood before these and were dropped for room: what stays fixed while the oldest go, so that a reader's
    /// window over the history can move in steps instead of with every event.
    pub dropped: u64,
}

impl History {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True for a user never seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes of the columns, spare room included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.items.capacity() * 8 + self.actions.capacity() * 2 + self.times.capacity() * 8
    }

    /// Appends an event that is not older than the last one.
    pub fn push(&mut self, item: ItemKey, action: u16, time: i64) {
        debug_assert!(self.times.last().is_none_or(|last| *last <= time));
        self.items.push(item);
        self.actions.push(action);
        self.times.push(time);
    }

    /// Puts an event in its place: after every event of the same or an earlier second.
    pub fn insert(&mut self, item: ItemKey, action: u16, time: i64) {
        self.insert_after(0, item, action, time);
    }

    /// [`History::insert`] that leaves the first `fixed` events, which are dropped ones, where they are.
    pub(crate) fn insert_after(&mut self, fixed: usize, item: ItemKey, action: u16, time: i64) {
        let at = fixed + self.times[fixed..].partition_point(|t| *t <= time);
        self.items.insert(at, item);
        self.actions.insert(at, action);
        self.times.insert(at, time);
    }

    /// Drops the oldest events until at most `events_max` are left. Returns how many were dropped.
    pub fn trim(&mut self, events_max: usize) -> usize {
        let excess = self.len().saturating_sub(events_max);
        if excess > 0 {
            self.items.drain(..excess);
            self.actions.drain(..excess);
            self.times.drain(..excess);
            self.dropped += excess as u64;
        }
        excess
    }

    /// Sorts by time, equal times in the given order.
    pub fn sort(&mut self) {
        if self.times.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&at| self.times[at]);
        *self = Self {
            items: order.iter().map(|&at| self.items[at]).collect(),
            actions: order.iter().map(|&at| self.actions[at]).collect(),
            times: order.iter().map(|&at| self.times[at]).collect(),
            dropped: self.dropped,
        };
    }

    /// True when the columns have one length and the times never fall.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.items.len() == self.len() && self.actions.len() == self.len() && self.times.is_sorted()
    }

    /// A copy with these events in their places, trimmed.
    pub(crate) fn with(&self, events: &[UserEvent], events_max: usize) -> Self {
        let room = self.len() + events.len();
        let mut next = Self {
            items: Vec::with_capacity(room),
            actions: Vec::with_capacity(room),
            times: Vec::with_capacity(room),
            dropped: self.dropped,
        };
        next.items.extend_from_slice(&self.items);
        next.actions.extend_from_slice(&self.actions);
        next.times.extend_from_slice(&self.times);
        for event in events {
            next.insert(event.item, event.action, event.time);
        }
        next.trim(events_max);
        next
    }
}
