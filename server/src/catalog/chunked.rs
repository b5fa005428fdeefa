//! Arrays and maps that share their unchanged parts between snapshots.
//!
//! A snapshot is cloned before every change. Both types here clone in a few hundred pointer copies and copy only the
//! chunk or shard that a change touches.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

const CHUNK: usize = 256;
const SHARDS: usize = 256;

/// A sparse array by slot.
#[derive(Clone, Debug)]
pub(super) struct Chunked<T> {
    chunks: Vec<Arc<Vec<Option<T>>>>,
    present: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), present: 0 }
    }
}

impl<T: Clone> Chunked<T> {
    /// One above the highest slot that can be held without growing.
    pub(super) fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Slots filled.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        // Looked at first, so that asking for an absent slot copies nothing.
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()?;
        Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK].as_mut()
    }

    pub(super) fn put(&mut self, slot: u32, value: T) {
        let slot = slot as usize;
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Arc::new(vec![None; CHUNK]));
        }
        let place = &mut Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK];
        self.present += usize::from(place.is_none());
        *place = Some(value);
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        self.get(slot)?;
        let slot = slot as usize;
        self.present -= 1;
        Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK].take()
    }

    /// Filled slots in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .zip(0u32..)
            .filter_map(|(value, slot)| Some((slot, value.as_ref()?)))
    }
}

/// A map cut into shards by hash.
#[derive(Clone, Debug)]
pub(super) struct Sharded<K> {
    shards: Vec<Arc<HashMap<K, u32>>>,
    hasher: RandomState,
}

impl<K> Default for Sharded<K> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Arc::default()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Clone + Eq + Hash> Sharded<K> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The map inside uses its own keys, so these bits are free to choose the shard.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.shards[self.shard(key)].get(key).copied()
    }

    pub(super) fn insert(&mut self, key: K, slot: u32) {
        let shard = self.shard(&key);
        Arc::make_mut(&mut self.shards[shard]).insert(key, slot);
    }

    pub(super) fn remove(&mut self, key: &K) {
        let shard = self.shard(key);
        if self.shards[shard].contains_key(key) {
            Arc::make_mut(&mut self.shards[shard]).remove(key);
        }
    }
}
