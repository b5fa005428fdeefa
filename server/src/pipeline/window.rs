//! A user's history as the model reads it: the newest events, items as rows of the item table.
//!
//! Translating 10,000 keys takes a few hundred microseconds, so the result is kept for users that come back. An entry holds
//! while the history is the very same object and no item was added to the catalogue since.

use crate::app::ItemRows;
use crate::batch::UserWindow;
use crate::catalog::Catalog;
use crate::ids::{ItemKey, ItemRow, ItemSlot};
use crate::store::History;
use longbow_model::window_start;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of one event in a window: row, action, time.
const EVENT_BYTES: usize = 4 + 2 + 8;

/// What the model allows a window to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// `max_sequence_len` of the model.
    pub events_max: usize,
    /// Number of actions of the model; 0 if it reads none.
    pub actions: u16,
}

impl WindowLimits {
    /// Translates the part of a history that the model reads.
    #[must_use]
    pub fn translate(&self, row_of: impl Fn(ItemKey) -> ItemRow, history: &History) -> UserWindow {
        let dropped = usize::try_from(history.dropped).unwrap_or(usize::MAX);
        // Counted over everything the user ever did, so that the window moves once in an eighth of its length.
        let start = window_start(dropped.saturating_add(history.len()), self.events_max).saturating_sub(dropped);
        // A model without actions ignores them; one with fewer reads an unknown action as its last.
        let highest = if self.actions == 0 { u16::MAX } else { self.actions - 1 };
        UserWindow {
            items: history.items[start..].iter().map(|&key| row_of(key)).collect(),
            actions: history.actions[start..].iter().map(|&action| action.min(highest)).collect(),
            times: history.times[start..].to_vec(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    history: Arc<History>,
    item_slots: ItemSlot,
    window: Arc<UserWindow>,
    used: u64,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<u128, Entry>,
    bytes: usize,
    clock: u64,
    hits: u64,
    misses: u64,
}

/// Windows of recent users within a byte budget; the least recently used make room.
#[derive(Debug)]
pub struct WindowCache {
    state: Mutex<State>,
    bytes_max: usize,
    limits: WindowLimits,
}

fn bytes(window: &UserWindow) -> usize {
    window.len() * EVENT_BYTES + 128
}

impl WindowCache {
    /// An empty cache of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(limits: WindowLimits, bytes_max: usize) -> Self {
        Self { state: Mutex::default(), bytes_max, limits }
    }

    /// What the model allows.
    #[must_use]
    pub fn limits(&self) -> &WindowLimits {
        &self.limits
    }

    /// Windows found, and windows that had to be made, so far.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hits, state.misses)
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// The window of `user`, whose history is `history`. The lock is not held while a history is translated.
    #[must_use]
    pub fn get(&self, user: u128, history: &Arc<History>, catalog: &Catalog, rows: &ItemRows) -> Arc<UserWindow> {
        let item_slots = catalog.item_slots();
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            state.clock += 1;
            let now = state.clock;
            if let Some(entry) = state.entries.get_mut(&user)
                && Arc::ptr_eq(&entry.history, history)
                && entry.item_slots == item_slots
            {
                entry.used = now;
                state.hits += 1;
                return Arc::clone(&entry.window);
            }
            state.misses += 1;
        }
        let window = Arc::new(self.limits.translate(rows.by_key(catalog), history));
        self.keep(user, Entry { history: Arc::clone(history), item_slots, window: Arc::clone(&window), used: 0 });
        window
    }

    /// The most recently used users, newest first, with their histories.
    #[must_use]
    pub fn recent(&self, most: usize) -> Vec<(u128, Arc<History>)> {
        let mut users: Vec<(u64, u128, Arc<History>)> = {
            let state = self.state.lock();
            state.entries.iter().map(|(&user, entry)| (entry.used, user, Arc::clone(&entry.history))).collect()
        };
        users.sort_unstable_by_key(|&(used, user, _)| (std::cmp::Reverse(used), user));
        users.into_iter().take(most).map(|(_, user, history)| (user, history)).collect()
    }

    fn keep(&self, user: u128, mut entry: Entry) {
        let size = bytes(&entry.window);
        if size > self.bytes_max {
            return;
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        entry.used = state.clock;
        state.bytes += size;
        if let Some(old) = state.entries.insert(user, entry) {
            state.bytes -= bytes(&old.window);
        }
        if state.bytes > self.bytes_max {
            self.evict(state);
        }
    }

    /// Throws out the older half by use: one pass over the entries pays for many insertions.
    fn evict(&self, state: &mut State) {
        let mut used: Vec<u64> = state.entries.values().map(|entry| entry.used).collect();
        let middle = used.len() / 2;
        let (_, &mut cut, _) = used.select_nth_unstable(middle);
        state.entries.retain(|_, entry| entry.used > cut);
        state.bytes = state.entries.values().map(|entry| bytes(&entry.window)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::RowsDraft;
    use crate::catalog::CatalogHandle;
    use longbow_model::{Config, Model, Seed};

    fn history(items: &[i64]) -> Arc<History> {
        let (actions, times) = (vec![9; items.len()], (0..).take(items.len()).collect());
        Arc::new(History { items: items.iter().map(|&key| ItemKey(key)).collect(), actions, times, dropped: 0 })
    }

    const LIMITS: WindowLimits = WindowLimits { events_max: 16, actions: 8 };

    fn row(key: ItemKey) -> ItemRow {
        ItemRow::try_from(key.0).unwrap() + 100
    }

    #[test]
    fn items_become_rows_and_unknown_actions_the_last_known() {
        let window = LIMITS.translate(row, &history(&[7, 3, 7]));
        assert_eq!(window.items, [107, 103, 107]);
        assert_eq!(window.actions, [7, 7, 7]);
    }

    #[test]
    fn a_long_history_is_cut_to_the_window_in_blocks() {
        let window = LIMITS.translate(row, &history(&(0..17).collect::<Vec<_>>()));
        assert!(window.len() <= 16);
        assert_eq!(*window.times.last().unwrap(), 16, "the newest events stay");
    }

    #[test]
    fn an_entry_serves_its_own_history_only_and_the_budget_holds() {
        let config: Config = serde_json::from_value(serde_json::json!({
            "max_sequence_len": 16, "max_output_len": 1, "embedding_dim": 4, "item_embedding_dim": 4,
            "action_embedding_dim": 0, "num_actions": 0, "num_blocks": 1, "num_heads": 1, "attention_dim": 4,
            "linear_dim": 4, "num_items": 10, "num_time_buckets": 8, "normalization": "rel_bias"
        }))
        .unwrap();
        let model = Model::seeded(config, &Seed { seed: 1, content_dim: None, head_hidden: 4 }).unwrap();
        let (catalog, rows) = (CatalogHandle::new().snapshot(), RowsDraft::new(&model).finish());
        let cache = WindowCache::new(LIMITS, 4_096);
        let first = history(&[1, 2]);
        let window = cache.get(1, &first, &catalog, &rows);
        assert!(Arc::ptr_eq(&window, &cache.get(1, &first, &catalog, &rows)));
        assert!(!Arc::ptr_eq(&window, &cache.get(1, &history(&[1, 2, 3]), &catalog, &rows)), "a new history");
        for user in 0..200 {
            let _ = cache.get(user, &history(&[5; 16]), &catalog, &rows);
        }
        assert!(cache.state.lock().bytes <= 4_096);
        let recent: Vec<u128> = cache.recent(3).into_iter().map(|(user, _)| user).collect();
        assert_eq!(recent, [199, 198, 197]);
    }
}
