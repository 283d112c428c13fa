//! A map whose copies share what did not change: a fixed number of small hash maps behind `Arc`.
//! Copying it costs one reference count per shard, changing an entry copies one shard.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash},
    sync::Arc,
};

use foldhash::fast::RandomState;

/// A roster of 10,000 workloads has about 40 entries per shard: a change copies those.
const SHARDS: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Shards<K, V> {
    shards: Vec<Arc<HashMap<K, V, RandomState>>>,
    /// Chooses the shard; all copies of a map choose the same.
    hasher: RandomState,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], hasher: RandomState::default(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    fn place(&self, key: &K) -> usize {
        // The remainder is below SHARDS and fits.
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.shards[self.place(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        let old = Arc::make_mut(&mut self.shards[place]).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key);
        let shard = &mut self.shards[place];
        if !shard.contains_key(key) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(shard).remove(key)
    }

    /// The value of `key`, made by `V::default` where there is none; `change` edits it, and an entry for which
    /// `change` answers false is removed.
    pub(crate) fn update(&mut self, key: &K, change: impl FnOnce(&mut V) -> bool)
    where
        V: Default,
    {
        let place = self.place(key);
        let shard = Arc::make_mut(&mut self.shards[place]);
        let had = shard.contains_key(key);
        let keep = change(shard.entry(key.clone()).or_default());
        if !keep {
            shard.remove(key);
        }
        self.len = self.len + usize::from(keep) - usize::from(had);
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
