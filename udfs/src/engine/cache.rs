//! An LRU map bounded in bytes and entries, used for the memo and the embedding cache.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Estimated bytes per entry besides key and value: slots in both maps, their spare capacity, an allocation header.
const OVERHEAD: usize = 96;

#[derive(Debug)]
pub(super) struct Lru<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Tick of last use -> key. Ticks are unique, so the first entry is the least recently used.
    order: BTreeMap<u64, K>,
    tick: u64,
    bytes: usize,
    capacity: usize,
    /// Maximum number of entries.
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    tick: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    /// Creates a map of at most `capacity` bytes and `most` entries.
    pub(super) fn new(capacity: usize, most: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), tick: 0, bytes: 0, capacity, most }
    }

    /// Bytes counted for an entry whose value owns `heap` bytes.
    pub(super) const fn cost(heap: usize) -> usize {
        // The key is stored in both maps.
        2 * size_of::<K>() + size_of::<Entry<V>>() + OVERHEAD + heap
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.tick += 1;
        self.order.remove(&entry.tick);
        entry.tick = self.tick;
        self.order.insert(self.tick, *key);
        Some(entry.value.clone())
    }

    /// Inserts `value`, which owns `heap` bytes, unless it alone exceeds the capacity.
    pub(super) fn insert(&mut self, key: K, value: V, heap: usize) {
        self.remove(&key);
        let bytes = Self::cost(heap);
        if bytes > self.capacity || self.most == 0 {
            return;
        }
        self.shrink_to(self.capacity - bytes);
        while self.entries.len() >= self.most {
            self.forget_oldest();
        }
        self.tick += 1;
        self.order.insert(self.tick, key);
        self.entries.insert(key, Entry { value, bytes, tick: self.tick });
        self.bytes += bytes;
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.tick);
            self.bytes -= entry.bytes;
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, &key)) = self.order.first_key_value() {
            self.remove(&key);
        }
    }

    /// Evicts entries until at most `bytes` are held. The capacity is unchanged, so the map can grow again.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes {
            self.forget_oldest();
        }
        if self.entries.is_empty() {
            // Otherwise maps keep their allocation.
            self.entries.shrink_to_fit();
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: usize) {
        self.capacity = bytes;
        self.shrink_to(bytes);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: usize = Lru::<u32, u32>::cost(100);

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut cache = Lru::new(3 * COST, 9);
        for key in 0..3 {
            cache.insert(key, key, 100);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(3, 3, 100);
        assert_eq!([0, 1, 2, 3].map(|key| cache.get(&key)), [Some(0), None, Some(2), Some(3)]);
        assert_eq!(cache.bytes(), 3 * COST);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let mut cache = Lru::new(2 * COST, 9);
        cache.insert(1, 1, 100);
        cache.insert(1, 2, 50);
        assert_eq!((cache.len(), cache.get(&1), cache.bytes()), (1, Some(2), COST - 50));
        cache.insert(2, 2, 3 * COST);
        assert_eq!((cache.len(), cache.get(&2)), (1, None));
        cache.shrink_to(0);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.insert(3, 3, 0);
        assert_eq!(cache.get(&3), Some(3));
    }

    #[test]
    fn no_capacity_keeps_nothing() {
        let mut cache = Lru::new(0, 9);
        cache.insert(1, 1, 0);
        assert_eq!((cache.get(&1), cache.bytes()), (None, 0));
    }

    #[test]
    fn entries_are_bounded_too() {
        let mut cache = Lru::new(10 * COST, 2);
        for key in 0..4 {
            cache.insert(key, key, 1);
        }
        assert_eq!([0, 1, 2, 3].map(|key| cache.get(&key)), [None, None, Some(2), Some(3)]);
        let mut none = Lru::new(10 * COST, 0);
        none.insert(1, 1, 1);
        assert_eq!((none.len(), none.bytes()), (0, 0));
    }

    #[test]
    fn a_lower_capacity_holds_at_once() {
        let mut cache = Lru::new(10 * COST, 99);
        for key in 0..10 {
            cache.insert(key, key, 100);
        }
        cache.set_capacity(2 * COST);
        assert_eq!((cache.len(), cache.get(&9), cache.get(&0)), (2, Some(9), None));
    }
}
