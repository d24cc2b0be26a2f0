//! A bounded map of recent entries: at least `capacity`, at most twice as many.
//!
//! It has two halves. New entries go into the young half. When the young half is full, it replaces
//! the old half, whose entries are dropped. So an entry that is inserted again from time to time
//! stays, each call does constant work, and many different keys need bounded memory.

use std::{collections::HashMap, mem};

/// A bounded map of recent entries. See the module.
#[derive(Debug)]
pub struct Recent<V> {
    capacity: usize,
    young: HashMap<String, V>,
    old: HashMap<String, V>,
}

impl<V> Recent<V> {
    /// Creates a map that keeps at least the last `capacity` different keys, and at most twice as
    /// many.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, young: HashMap::new(), old: HashMap::new() }
    }

    /// The latest value of this key, if the map still has it.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Inserts the value in place of an earlier one.
    pub fn insert(&mut self, key: &str, value: V) {
        if let Some(held) = self.young.get_mut(key) {
            *held = value;
            return;
        }
        if self.young.len() >= self.capacity {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_again_stays_and_the_rest_is_bounded() {
        let mut recent = Recent::new(10);
        for n in 0..1000 {
            recent.insert("often", n);
            recent.insert(&n.to_string(), n);
            assert_eq!(recent.get("often"), Some(&n));
            assert!(recent.young.len() + recent.old.len() <= 20);
        }
        assert_eq!(recent.get("999"), Some(&999));
        assert_eq!(recent.get("990"), Some(&990), "the last ten are kept");
        assert_eq!(recent.get("7"), None);
    }
}
