use culvert_abi::{Counter, Event, event_kind, words};

use super::{DroppedBy, decode};

fn bytes(event: &Event) -> Vec<u8> {
    // SAFETY: no padding, every byte initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast(), size_of::<Event>()) }.to_vec()
}

fn event() -> Event {
    Event {
        at_ns: 7,
        kind: event_kind::GUARD_DROP,
        counter: Counter::DropUntagged as u32,
        pod: 3,
        source_ip: words("10.0.0.1".parse().unwrap()),
        destination_ip: words("fd00::1".parse().unwrap()),
        source_port: 1,
        destination_port: 2,
        ..Event::default()
    }
}

#[test]
fn an_entry_of_the_ring_becomes_an_event() {
    let (decoded, pod) = decode(&bytes(&event())).unwrap();
    assert_eq!((decoded.by, decoded.reason, pod), (DroppedBy::Guard, Counter::DropUntagged, 3));
    assert_eq!(decoded.source.to_string(), "10.0.0.1:1");
    assert_eq!(decoded.destination.to_string(), "[fd00::1]:2");
}

#[test]
fn what_is_too_short_or_unknown_is_left_out() {
    assert!(decode(&bytes(&event())[1..]).is_none());
    assert!(decode(&bytes(&Event { kind: 9, ..event() })).is_none());
    assert!(decode(&bytes(&Event { counter: 999, ..event() })).is_none());
}
