use super::*;

#[test]
fn one_address_does_not_take_the_places_of_all() {
    let sources = Sources::default();
    let one: IpAddr = "10.0.0.1".parse().unwrap();
    let mut held: Vec<Place> = (0..FROM_ONE).map(|_| sources.enter(one).unwrap()).collect();
    assert!(sources.enter(one).is_none());
    assert!(sources.enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address");
    assert!(sources.enter("10.0.0.2".parse().unwrap()).is_some());
    drop(held.pop());
    assert!(sources.enter(one).is_some());
    drop(held);
    assert!(sources.0.lock().unwrap().is_empty(), "nothing is left of who has gone");
}
