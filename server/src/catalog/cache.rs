//! Answers of [`Catalog::eligible`] by (catalogue version, plan set version, filter).

use super::{Bitmap, Catalog, Eligible, PlanSet};
use crate::auction::slot::{Slot, Terms};
use crate::lru::Lru;
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

/// Requests of one exchange share few filters, so most answers are found here. Bounded; the least recently used answer
/// makes room. The lock is held for a look-up or an insertion, never while an answer is computed.
#[derive(Debug)]
pub struct EligibilityCache {
    state: Mutex<State>,
    capacity: usize,
    /// Two secret keys make a 128-bit fingerprint: a caller cannot construct two filters that meet.
    secrets: [RandomState; 2],
}

#[derive(Debug)]
struct State {
    versions: (u64, u64),
    /// Each entry counts as one.
    entries: Lru<u128, Answer>,
    hits: u64,
    misses: u64,
}

#[derive(Clone, Debug)]
enum Answer {
    Eligible(Arc<Eligible>),
    Rankable(Arc<Bitmap>),
}

impl EligibilityCache {
    /// A cache of at most `capacity` answers (256 is ample). One answer takes one bit for each item slot.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let state = State { versions: (0, 0), entries: Lru::new(capacity), hits: 0, misses: 0 };
        Self { state: Mutex::new(state), capacity, secrets: [RandomState::new(), RandomState::new()] }
    }

    /// [`Catalog::eligible`], remembered.
    #[must_use]
    pub fn get(&self, catalog: &Catalog, live: &PlanSet, terms: &Terms, slot: &Slot) -> Arc<Eligible> {
        let key = self.fingerprint(|hasher| hash_filter(terms, slot, hasher));
        let versions = (catalog.version(), live.version);
        if let Some(Answer::Eligible(answer)) = self.find(key, versions) {
            return answer;
        }
        let answer = Arc::new(catalog.eligible(terms, slot, live));
        self.keep(key, versions, Answer::Eligible(Arc::clone(&answer)));
        answer
    }

    /// [`Catalog::rankable`], remembered.
    #[must_use]
    pub fn rankable(&self, catalog: &Catalog, live: &PlanSet, terms: &Terms) -> Arc<Bitmap> {
        let key = self.fingerprint(|hasher| {
            "rankable".hash(hasher);
            terms.blocked_categories.hash(hasher);
            terms.allowed_categories.hash(hasher);
        });
        let versions = (catalog.version(), live.version);
        if let Some(Answer::Rankable(answer)) = self.find(key, versions) {
            return answer;
        }
        let answer = Arc::new(catalog.rankable(terms));
        self.keep(key, versions, Answer::Rankable(Arc::clone(&answer)));
        answer
    }

    /// Hits and misses so far.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hits, state.misses)
    }

    /// Answers kept at the moment.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// True when no answer is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, key: u128, versions: (u64, u64)) -> Option<Answer> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let known = state.versions == versions;
        let found = known.then(|| state.entries.get(&key).cloned()).flatten();
        *(if found.is_some() { &mut state.hits } else { &mut state.misses }) += 1;
        found
    }

    fn keep(&self, key: u128, versions: (u64, u64), answer: Answer) {
        let mut state = self.state.lock();
        if state.versions != versions {
            // A request that still holds an older snapshot keeps its answer to itself.
            if versions < state.versions {
                return;
            }
            state.versions = versions;
            state.entries = Lru::new(self.capacity);
        }
        state.entries.insert(key, answer, 1);
    }

    fn fingerprint(&self, write: impl Fn(&mut std::hash::DefaultHasher)) -> u128 {
        let [high, low] = self.secrets.each_ref().map(|secret| {
            let mut hasher = secret.build_hasher();
            write(&mut hasher);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }
}

/// Everything that [`Catalog::eligible`] reads of a request.
fn hash_filter(terms: &Terms, slot: &Slot, hasher: &mut impl Hasher) {
    terms.seats_allowed.hash(hasher);
    terms.seats_blocked.hash(hasher);
    terms.blocked_categories.hash(hasher);
    terms.allowed_categories.hash(hasher);
    terms.blocked_domains.hash(hasher);
    terms.languages.hash(hasher);
    (slot.imp_id.is_empty(), slot.private_auction, slot.secure).hash(hasher);
    slot.banner.as_ref().map(|b| (&b.sizes, &b.blocked_attributes, &b.mimes)).hash(hasher);
    slot.video
        .as_ref()
        .map(|v| (&v.mimes, v.duration_min_s, v.duration_max_s, &v.durations_s, &v.protocols, &v.blocked_attributes))
        .hash(hasher);
    slot.native.is_some().hash(hasher);
    if let Some(native) = &slot.native {
        native.blocked_attributes.hash(hasher);
        native.assets.len().hash(hasher);
        for asset in &native.assets {
            (asset.required, super::fit::asset_key(&asset.kind)).hash(hasher);
        }
    }
    if slot.private_auction {
        slot.deals.len().hash(hasher);
        for deal in &slot.deals {
            (&deal.id, &deal.seats, &deal.domains).hash(hasher);
        }
    }
}
