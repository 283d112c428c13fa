//! The queue against a model that is a plain vector.

use super::*;

fn content(queue: &Queue) -> Vec<u8> {
    let mut slices = vec![IoSlice::new(&[]); 100_000];
    let count = queue.slices(&mut slices);
    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
}

fn pieces(queue: &Queue) -> usize {
    queue.slices(&mut vec![IoSlice::new(&[]); 100_000])
}

#[test]
fn bytes_stay_in_order_whatever_their_sizes_and_however_they_leave() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let (mut queue, mut model, mut next) = (Queue::default(), Vec::new(), 0_u8);
    for _ in 0..5000 {
        match random(3) {
            0 | 1 => {
                let size = [0, 1, 10, 4095, 4096, 20_000][random(6)];
                let data: Vec<u8> = (0..size).map(|n| next.wrapping_add((n % 251) as u8)).collect();
                next = next.wrapping_add(1);
                model.extend_from_slice(&data);
                queue.push(data.into());
            }
            _ => {
                let bytes = random(queue.len() + 1);
                queue.advance(bytes);
                model.drain(..bytes);
            }
        }
        assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
    }
    assert_eq!(content(&queue), model);
}

#[test]
fn small_pieces_that_wait_are_joined() {
    let mut queue = Queue::default();
    for _ in 0..10_000 {
        queue.push(Bytes::from_static(b"0123456789"));
    }
    assert_eq!(queue.len(), 100_000);
    assert!(pieces(&queue) <= 1 + 100_000 / JOINED + 1, "{}", pieces(&queue));
}

#[test]
fn a_piece_that_need_not_wait_is_not_copied_and_one_behind_a_stall_is() {
    let buffer = Bytes::from(vec![7; 600 * 1024]);
    let mut queue = Queue::default();
    queue.push(buffer.slice(..300 * 1024));
    assert!(!buffer.is_unique(), "shared, not copied");
    queue.push(buffer.slice(300 * 1024..310 * 1024));
    queue.advance(300 * 1024);
    assert!(buffer.is_unique(), "the piece behind the stall keeps nothing alive");
    assert_eq!(content(&queue), vec![7; 10 * 1024]);
}
