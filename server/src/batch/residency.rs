//! Which users' states are at hand: in the cache, and, where the encoder has a device of its own, parked beside it.
//!
//! A state that the cache has no room for is parked in host memory where bringing it back is foretold to take less time than
//! computing it anew, and brought back when its user comes again and that still holds.

use super::cost::{CostModel, Work};
use super::execute::{Executor, Fault};
use super::ladder::LadderLimits;
use longbow_model::{Encoder, HostTier, StateCache, StateKey, UserState, Version, Window};
use std::time::Duration;

/// Which users are resident, and how far an encode may be cut down.
#[derive(Debug)]
pub(super) struct Residency {
    pub(super) cache: StateCache,
    /// States parked in host memory: none where nothing is set aside.
    parked: StateCache,
    tier: Option<HostTier>,
    /// A state without rows.
    pub(super) blank: UserState,
    pub(super) version: Version,
    pub(super) ladder: LadderLimits,
}

impl Residency {
    /// Around states that were encoded ahead.
    pub(super) fn new(encoder: &dyn Encoder, cache: StateCache, ladder: LadderLimits) -> Self {
        let tier = encoder.host_tier();
        let parked = StateCache::new(tier.map_or(0, |tier| tier.bytes));
        Self { cache, parked, tier, blank: encoder.new_state(), version: encoder.version(), ladder }
    }

    pub(super) fn key(&self, user: u128) -> StateKey {
        StateKey { user, version: self.version }
    }

    /// Final rows of `window` in the state of `user`, cached or parked.
    pub(super) fn rows(&self, user: u128, window: &Window<'_>, cost: &CostModel) -> usize {
        let key = self.key(user);
        if let Some(state) = self.cache.peek(&key) {
            return state.rows_valid(window);
        }
        let rows = self.parked.peek(&key).map(|state| (state.rows_valid(window), state.device_bytes()));
        rows.filter(|&(rows, bytes)| self.pays(bytes, rows, cost)).map_or(0, |(rows, _)| rows)
    }

    /// Whether `bytes` bytes of `rows` rows come back from host memory sooner than they are computed anew.
    fn pays(&self, bytes: usize, rows: usize, cost: &CostModel) -> bool {
        let recompute = if rows == 0 { Duration::ZERO } else { cost.predict(Work::append(0, rows)) };
        self.tier.is_some_and(|tier| tier.pays(bytes, recompute))
    }

    /// Drops the states of a user.
    pub(super) fn forget(&mut self, user: u128) {
        let key = self.key(user);
        self.cache.remove(&key);
        self.parked.remove(&key);
    }

    /// Bytes parked.
    pub(super) fn parked_bytes(&self) -> usize {
        self.parked.bytes()
    }

    /// Parked states dropped for room.
    pub(super) fn parked_evictions(&self) -> u64 {
        self.parked.stats().evictions
    }
}

impl Executor {
    /// The state of a user, out of the cache, or brought back from host memory where that pays for `window`.
    pub(super) fn state_of(&mut self, key: &StateKey, window: &Window<'_>) -> Option<UserState> {
        if let Some(state) = self.residency.cache.take(key) {
            return Some(state);
        }
        let mut state = self.residency.parked.take(key)?;
        let bytes = state.device_bytes();
        if !self.residency.pays(bytes, state.rows_valid(window), &self.cost) {
            return None;
        }
        match self.call(|encoder| encoder.unpark(&mut state)) {
            Ok(_) => {
                self.stats.host_hits.add(1);
                self.stats.host_reload_bytes.add(bytes as u64);
                Some(state)
            }
            // As if it had not been parked: it is computed anew, or that fails in its turn.
            Err(Fault::Refused(_) | Fault::Lost(_)) => None,
        }
    }

    /// Keeps a user's state; those that the cache has no room for are parked, where that pays.
    pub(super) fn keep(&mut self, key: StateKey, state: UserState) {
        for (key, mut state) in self.residency.cache.put(key, state) {
            let (bytes, rows) = (state.device_bytes(), state.rows());
            if !self.residency.pays(bytes, rows, &self.cost) {
                continue;
            }
            // The oldest go first: their pages are free then.
            drop(self.residency.parked.make_room(state.bytes()));
            if matches!(self.call(|encoder| Ok(encoder.park(&mut state))), Ok((true, _))) {
                self.stats.host_parked.add(1);
                drop(self.residency.parked.put(key, state));
            }
        }
    }
}
