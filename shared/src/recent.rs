//! A map that keeps what was put in lately, and never more than twice its capacity.
//!
//! It has two halves. Entries go into the young one. When that is full it becomes the old one, and
//! the entries of the old one are forgotten. So an entry that is put in again from time to time
//! stays, the work of each call is constant, and a flood of keys costs bounded memory.

use std::{collections::HashMap, mem};

/// See the module.
#[derive(Debug)]
pub struct Recent<V> {
    capacity: usize,
    young: HashMap<String, V>,
    old: HashMap<String, V>,
}

impl<V> Recent<V> {
    /// Keeps the last `capacity` different keys at least, and twice as many at most.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, young: HashMap::new(), old: HashMap::new() }
    }

    /// What was put in last under this key, if it is still kept.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Puts it in, in place of what stands under the key.
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
