//! What differs between two ordered maps.

use std::{cmp::Ordering, collections::BTreeMap};

/// The keys whose values differ, with what the newer map has. `surely_same` answers at once for most values.
pub(super) fn diff<'m, K: Ord, V: PartialEq>(
    before: &'m BTreeMap<K, V>,
    after: &'m BTreeMap<K, V>,
    surely_same: impl Fn(&V, &V) -> bool,
) -> Vec<(&'m K, Option<&'m V>)> {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    let mut different = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return different,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // The very same record has the same key.
            (Some((_, a)), Some((_, b))) if surely_same(a, b) => Ordering::Equal,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            Ordering::Less => different.extend(old.next().map(|(key, _)| (key, None))),
            Ordering::Greater => different.extend(new.next().map(|(key, value)| (key, Some(value)))),
            Ordering::Equal => {
                if let (Some((_, a)), Some((key, b))) = (old.next(), new.next())
                    && !surely_same(a, b)
                    && a != b
                {
                    different.push((key, Some(b)));
                }
            }
        }
    }
}
