//! Map of bounded size that keeps the most recently inserted entries.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Keeps at least the `capacity` most recently inserted keys, and at most twice as many.
///
/// It consists of two generations: when the young one is full, it replaces the old one. This costs
/// no bookkeeping for each access, as a least-recently-used order would.
#[derive(Clone, Debug)]
pub struct RecentMap<K, V> {
    capacity: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> RecentMap<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Changes the capacity. Entries beyond a smaller one are removed as further ones are inserted.
    pub const fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Returns the value that was inserted last for `key`, if it is still kept.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Removes a key.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Inserts or replaces the value of `key`.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_bounded_and_the_most_recent_keys_are_kept() {
        let mut map = RecentMap::new(5);
        for n in 0..100 {
            map.insert(n, n);
            assert!(map.young.len() + map.old.len() <= 10);
        }
        for n in 95..100 {
            assert_eq!(map.get(&n), Some(&n));
        }
        assert_eq!(map.get(&80), None);
    }

    #[test]
    fn a_smaller_capacity_applies_to_later_inserts() {
        let mut map = RecentMap::new(50);
        for n in 0..100 {
            map.insert(n, n);
        }
        map.set_capacity(5);
        for n in 100..107 {
            map.insert(n, n);
        }
        assert!(map.young.len() + map.old.len() <= 10);
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let mut map = RecentMap::new(2);
        map.insert("a", 1);
        map.insert("b", 1);
        map.insert("c", 1);
        map.insert("a", 2);
        assert_eq!(map.get("a"), Some(&2));
        map.remove("a");
        assert_eq!(map.get("a"), None);
    }
}
