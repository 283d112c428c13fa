//! An ordered map whose copies share what did not change.
//!
//! Two levels: a list of chunks behind `Arc`, each a short sorted list. A copy costs one reference count per chunk, a
//! change copies one chunk and the list, and what differs between a map and an earlier copy of it is found without looking
//! into chunks that both have. So a mesh of 100,000 pods can be published again for each pod that changes.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    ops::{Index, RangeFrom},
    sync::Arc,
};

/// A chunk that grows beyond this is divided.
const MOST: usize = 128;

/// An ordered map whose copies share what did not change.
pub struct SharedMap<K, V> {
    /// In order, none empty.
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> SharedMap<K, V> {
    /// How many entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.at(0, 0)
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn at(&self, chunk: usize, entry: usize) -> Iter<'_, K, V> {
        Iter { chunks: &self.chunks[chunk..], entry }
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The entry of a key.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, found) = self.find(key);
        let (key, value) = &self.chunks.get(chunk)?[found.ok()?];
        Some((key, value))
    }

    /// Whether there is a value of this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries from a key on.
    pub fn range(&self, range: RangeFrom<K>) -> Iter<'_, K, V> {
        match self.find(&range.start) {
            (chunk, Ok(entry) | Err(entry)) => self.at(chunk, entry),
        }
    }

    /// The chunk where a key belongs, and where in it: as [`slice::binary_search`].
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let begins_before = |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        let chunk = self.chunks.partition_point(begins_before).saturating_sub(1);
        let entries = self.chunks.get(chunk).map_or(&[][..], |chunk| chunk);
        (chunk, entries.binary_search_by(|(other, _)| other.borrow().cmp(key)))
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value in; gives the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (at, found) = self.find(&key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let entries = Arc::make_mut(chunk);
        match found {
            Ok(entry) => Some(std::mem::replace(&mut entries[entry].1, value)),
            Err(entry) => {
                entries.insert(entry, (key, value));
                self.len += 1;
                if entries.len() > MOST {
                    let rest = entries.split_off(MOST / 2);
                    self.chunks.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a value out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at, found) = self.find(key);
        let entries = Arc::make_mut(self.chunks.get_mut(at).filter(|_| found.is_ok())?);
        let (_, value) = entries.remove(found.ok()?);
        self.len -= 1;
        self.join(at);
        Some(value)
    }

    /// After a removal: no empty chunks, and none beside another that both would fit into.
    fn join(&mut self, at: usize) {
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        }
        for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            let Some([one, next]) = self.chunks.get(left..left + 2) else { continue };
            if one.len() + next.len() <= MOST / 2 {
                let next = self.chunks.remove(left + 1);
                Arc::make_mut(&mut self.chunks[left]).extend(next.iter().cloned());
            }
        }
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// What is different from `before`, in order: keys with their value now, or without one. `surely_same` answers at once
    /// for most values; those for which it does not are compared.
    pub fn changes_since<'m>(
        &'m self,
        before: &'m Self,
        surely_same: impl Fn(&V, &V) -> bool,
    ) -> Vec<(&'m K, Option<&'m V>)> {
        Changes { old: before.iter(), new: self.iter(), surely_same }.collect()
    }
}

/// What is different between two maps, one after the other.
struct Changes<'m, K, V, S> {
    old: Iter<'m, K, V>,
    new: Iter<'m, K, V>,
    surely_same: S,
}

impl<'m, K: Ord, V: PartialEq, S: Fn(&V, &V) -> bool> Iterator for Changes<'m, K, V, S> {
    type Item = (&'m K, Option<&'m V>);

    fn next(&mut self) -> Option<Self::Item> {
        let (old, new) = (&mut self.old, &mut self.new);
        loop {
            while old.shares_its_chunk_with(new) {
                (old.chunks, new.chunks) = (&old.chunks[1..], &new.chunks[1..]);
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match order {
                Ordering::Less => return old.next().map(|(key, _)| (key, None)),
                Ordering::Greater => return new.next().map(|(key, value)| (key, Some(value))),
                Ordering::Equal => {
                    let ((_, a), (key, b)) = (old.next()?, new.next()?);
                    if !(self.surely_same)(a, b) && a != b {
                        return Some((key, Some(b)));
                    }
                }
            }
        }
    }
}

/// Entries in order.
pub struct Iter<'m, K, V> {
    /// Those that are not used up.
    chunks: &'m [Chunk<K, V>],
    /// The next entry of the first of them.
    entry: usize,
}

impl<'m, K, V> Iter<'m, K, V> {
    fn peek(&self) -> Option<(&'m K, &'m V)> {
        let mut chunks = self.chunks.iter();
        // An entry behind the last one of its chunk means the first one of the next.
        let (key, value) = match chunks.next()?.get(self.entry) {
            Some(entry) => entry,
            None => chunks.next()?.first()?,
        };
        Some((key, value))
    }

    /// Both stand at the beginning of the same chunk.
    fn shares_its_chunk_with(&self, other: &Self) -> bool {
        let begins = self.entry == 0 && other.entry == 0;
        begins && matches!((self.chunks, other.chunks), ([a, ..], [b, ..]) if Arc::ptr_eq(a, b))
    }
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.peek()?;
        self.entry += 1;
        while let [first, rest @ ..] = self.chunks
            && self.entry >= first.len()
        {
            (self.chunks, self.entry) = (rest, self.entry - first.len());
        }
        Some(next)
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut changes = Changes { old: self.iter(), new: other.iter(), surely_same: |_: &V, _: &V| false };
        self.len == other.len && changes.next().is_none()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(key, value)| drop(map.insert(key, value)));
        map
    }
}

impl<'m, K, V> IntoIterator for &'m SharedMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// # Panics
/// Where there is no such key, as for maps of the standard library.
impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    #[expect(clippy::expect_used, reason = "what indexing means")]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry of this key")
    }
}

#[cfg(test)]
mod tests;
