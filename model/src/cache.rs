//! User states in memory: least recently used out first, within a budget of bytes.

use std::collections::HashMap;

use crate::model::Version;
use crate::state::UserState;

/// Bytes of bookkeeping counted for each entry beside the state itself.
const ENTRY_BYTES: usize = 160;
/// No neighbour in the list.
const NONE: usize = usize::MAX;

/// Whose state, of which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// Hash of the user's id.
    pub user: u128,
    /// Version of the model.
    pub version: Version,
}

#[derive(Debug)]
struct Entry {
    key: StateKey,
    state: UserState,
    bytes: usize,
    newer: usize,
    older: usize,
}

/// What a cache has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Takes that found a state.
    pub hits: u64,
    /// Takes that found none.
    pub misses: u64,
    /// States dropped to hold the budget.
    pub evictions: u64,
}

/// A cache of user states. It has one owner and no locks: a state is taken out while it is worked on and put
/// back afterwards, so several users' states can be changed at once.
#[derive(Debug)]
pub struct StateCache {
    budget: usize,
    bytes: usize,
    places: HashMap<StateKey, usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
    stats: CacheStats,
}

impl StateCache {
    /// A cache of at most `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            bytes: 0,
            places: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            stats: CacheStats::default(),
        }
    }

    /// Takes a state out.
    pub fn take(&mut self, key: &StateKey) -> Option<UserState> {
        let state = self.remove(key);
        match state {
            Some(_) => self.stats.hits += 1,
            None => self.stats.misses += 1,
        }
        state
    }

    /// Looks at a state without marking it as used.
    #[must_use]
    pub fn peek(&self, key: &StateKey) -> Option<&UserState> {
        self.places.get(key).and_then(|&place| self.entries[place].as_ref()).map(|entry| &entry.state)
    }

    /// Puts a state in as the most recently used, then takes the least recently used ones out until the budget
    /// holds, and gives them back. A state larger than the whole budget is not kept.
    pub fn put(&mut self, key: StateKey, state: UserState) -> Vec<(StateKey, UserState)> {
        self.remove(&key);
        let bytes = state.bytes() + ENTRY_BYTES;
        if bytes > self.budget {
            self.stats.evictions += 1;
            return vec![(key, state)];
        }
        let evicted = self.make_room(bytes);
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[place] = Some(Entry { key, state, bytes, newer: NONE, older: self.newest });
        self.link(self.newest, |entry| entry.newer = place);
        self.newest = place;
        if self.oldest == NONE {
            self.oldest = place;
        }
        self.places.insert(key, place);
        self.bytes += bytes;
        evicted
    }

    /// Takes the least recently used states out until a state of `bytes` bytes fits, and gives them back.
    pub fn make_room(&mut self, bytes: usize) -> Vec<(StateKey, UserState)> {
        let mut evicted = Vec::new();
        while self.bytes.saturating_add(bytes) > self.budget {
            let Some(key) = self.oldest_key() else { break };
            evicted.extend(self.remove(&key).map(|state| (key, state)));
            self.stats.evictions += 1;
        }
        evicted
    }

    /// Drops a state; gives it back where there was one.
    pub fn remove(&mut self, key: &StateKey) -> Option<UserState> {
        let place = self.places.remove(key)?;
        let entry = self.entries[place].take()?;
        self.link(entry.newer, |newer| newer.older = entry.older);
        self.link(entry.older, |older| older.newer = entry.newer);
        if self.newest == place {
            self.newest = entry.older;
        }
        if self.oldest == place {
            self.oldest = entry.newer;
        }
        self.free.push(place);
        self.bytes -= entry.bytes;
        Some(entry.state)
    }

    /// States held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no state is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes held, bookkeeping included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Most bytes.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Counts since the cache was made.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    fn oldest_key(&self) -> Option<StateKey> {
        self.entries.get(self.oldest)?.as_ref().map(|entry| entry.key)
    }

    fn link(&mut self, place: usize, change: impl FnOnce(&mut Entry)) {
        if let Some(Some(entry)) = self.entries.get_mut(place) {
            change(entry);
        }
    }
}
