use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn sound(map: &SharedMap<u16, u8>) {
    assert!(map.chunks.iter().all(|chunk| (1..=MOST).contains(&chunk.len())), "an empty or a large chunk");
    assert_eq!(map.len(), map.chunks.iter().map(|chunk| chunk.len()).sum::<usize>());
}

/// Keys near each other and keys far apart.
fn edits() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
    let key = prop_oneof![0..400_u16, any::<u16>()];
    prop::collection::vec((key, prop::option::weighted(0.7, any::<u8>())), 0..600)
}

fn edit(map: &mut SharedMap<u16, u8>, model: &mut BTreeMap<u16, u8>, edits: &[(u16, Option<u8>)]) {
    for (key, value) in edits {
        match value {
            Some(value) => assert_eq!(map.insert(*key, *value), model.insert(*key, *value)),
            None => assert_eq!(map.remove(key), model.remove(key)),
        }
    }
}

proptest! {
    #[test]
    fn it_is_an_ordered_map(first in edits(), second in edits(), from in any::<u16>()) {
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        for edits in [&first, &second] {
            edit(&mut map, &mut model, edits);
            sound(&map);
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(map.range(from..).eq(model.range(from..)));
            prop_assert!(first.iter().all(|(key, _)| map.get(key) == model.get(key)));
            prop_assert_eq!(&map, &model.clone().into_iter().collect());
        }
    }

    #[test]
    fn a_copy_stays_as_it_was_and_what_changed_since_is_found(first in edits(), second in edits()) {
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        edit(&mut map, &mut model, &first);
        let (before, was) = (map.clone(), model.clone());
        edit(&mut map, &mut model, &second);
        prop_assert!(before.iter().eq(was.iter()));
        let keys = was.keys().chain(model.keys()).collect::<std::collections::BTreeSet<_>>();
        let differ: Vec<_> = keys.into_iter().filter(|key| was.get(key) != model.get(key)).collect();
        let expected: Vec<_> = differ.into_iter().map(|key| (key, model.get(key))).collect();
        prop_assert_eq!(map.changes_since(&before, |_, _| false), expected);
    }
}

#[test]
fn what_is_left_of_many_is_in_few_chunks() {
    let keys = |every: u16| (0..10_000).filter(move |key| key % every != 0);
    for order in [keys(64).collect::<Vec<_>>(), keys(64).rev().collect()] {
        let mut map: SharedMap<u16, u8> = (0..10_000).map(|key| (key, 0)).collect();
        order.iter().for_each(|key| assert_eq!(map.remove(key), Some(0)));
        sound(&map);
        assert!(map.keys().eq((0..10_000).filter(|key| key % 64 == 0).collect::<Vec<_>>().iter()));
        assert!(map.chunks.len() <= 2 * map.len().div_ceil(MOST / 2), "{} chunks", map.chunks.len());
    }
}

#[test]
fn a_change_copies_one_chunk_and_looks_into_no_other() {
    let before: SharedMap<u32, u32> = (0..100_000).map(|number| (number, 0)).collect();
    let mut after = before.clone();
    after.insert(50_000, 1);
    after.remove(&7);
    let shared =
        after.chunks.iter().filter(|chunk| before.chunks.iter().any(|other| Arc::ptr_eq(chunk, other))).count();
    assert_eq!(shared, before.chunks.len() - 2);
    let asked = std::cell::Cell::new(0);
    let changes = after.changes_since(&before, |_, _| {
        asked.set(asked.get() + 1);
        false
    });
    assert_eq!(changes, [(&7, None), (&50_000, Some(&1))]);
    assert!(asked.get() <= 2 * MOST, "{} values were looked at", asked.get());
}
