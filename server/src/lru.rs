//! A map with a byte budget that forgets what was used longest ago.

use std::collections::HashMap;
use std::hash::Hash;

const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    bytes: usize,
    newer: usize,
    older: usize,
}

/// Entries in a slab linked from newest to oldest.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    index: HashMap<K, usize>,
    nodes: Vec<Option<Node<K, V>>>,
    vacant: Vec<usize>,
    newest: usize,
    oldest: usize,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (index, nodes, vacant) = (HashMap::new(), Vec::new(), Vec::new());
        Self { index, nodes, vacant, newest: NONE, oldest: NONE, bytes: 0, bytes_max }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The value, which becomes the newest.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        let at = *self.index.get(key)?;
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
        self.nodes[at].as_ref().map(|node| &node.value)
    }

    /// The value, without counting as a use.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.nodes[*self.index.get(key)?].as_ref().map(|node| &node.value)
    }

    /// Sets the value as the newest, and forgets the oldest ones until the budget holds. A value larger than the whole
    /// budget is not kept.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        if bytes > self.bytes_max {
            return;
        }
        let node = Some(Node { key: key.clone(), value, bytes, newer: NONE, older: NONE });
        let at = self.vacant.pop().unwrap_or(self.nodes.len());
        if at == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[at] = node;
        }
        self.index.insert(key, at);
        self.bytes += bytes;
        self.link_newest(at);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.nodes.get(self.oldest).and_then(Option::as_ref) else { break };
            let key = oldest.key.clone();
            self.remove(&key);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.index.remove(key)?;
        self.unlink(at);
        let node = self.nodes[at].take()?;
        self.vacant.push(at);
        self.bytes -= node.bytes;
        Some(node.value)
    }

    fn unlink(&mut self, at: usize) {
        let Some((newer, older)) = self.nodes[at].as_ref().map(|node| (node.newer, node.older)) else { return };
        match self.nodes.get_mut(newer).and_then(Option::as_mut) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older).and_then(Option::as_mut) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, at: usize) {
        let before = self.newest;
        if let Some(node) = self.nodes[at].as_mut() {
            (node.newer, node.older) = (NONE, before);
        }
        match self.nodes.get_mut(before).and_then(Option::as_mut) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list kept in order of use.
        #[test]
        fn behaves_like_a_list(ops in prop::collection::vec((0u8..3, 0u8..12, 1usize..40), 1..300)) {
            let mut lru = Lru::new(100);
            let mut list: Vec<(u8, usize)> = Vec::new();
            for (op, key, bytes) in ops {
                let found = list.iter().position(|entry| entry.0 == key);
                match op {
                    0 => {
                        prop_assert_eq!(lru.get(&key).copied(), found.map(|at| list[at].1));
                        if let Some(at) = found {
                            let entry = list.remove(at);
                            list.push(entry);
                        }
                    }
                    1 => {
                        lru.insert(key, bytes, bytes);
                        if let Some(at) = found {
                            list.remove(at);
                        }
                        list.push((key, bytes));
                        while list.iter().map(|entry| entry.1).sum::<usize>() > 100 {
                            list.remove(0);
                        }
                    }
                    _ => prop_assert_eq!(lru.remove(&key), found.map(|at| list.remove(at).1)),
                }
                prop_assert_eq!(lru.len(), list.len());
                prop_assert_eq!(lru.bytes(), list.iter().map(|entry| entry.1).sum::<usize>());
                for (key, value) in &list {
                    prop_assert_eq!(lru.peek(key), Some(value));
                }
            }
        }
    }
}
