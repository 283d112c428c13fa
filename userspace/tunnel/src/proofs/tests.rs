use super::*;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

fn key(uid: &str) -> ProofKey {
    let id = |text| SpiffeId::parse(text).unwrap();
    ProofKey {
        own: id("spiffe://td.test/ns/shop/sa/till"),
        peer: id("spiffe://td.test/ns/bank/sa/ledger"),
        peer_address: "10.0.0.2:15008".parse().unwrap(),
        own_address: "10.0.0.1".parse().unwrap(),
        uid: uid.into(),
    }
}

#[test]
fn a_new_proof_prolongs_what_the_same_peer_has_open_and_shortens_nothing() {
    let proofs = Proofs::new();
    let open = proofs.proven(&key("a"), at(100));
    let neighbour = proofs.proven(&key("b"), at(100));
    proofs.proven(&key("a"), at(200));
    assert_eq!((open.until(), neighbour.until()), (at(200), at(100)));
    proofs.proven(&key("a"), at(150));
    assert_eq!(open.until(), at(200));
    drop(open);
    assert_eq!(proofs.proven(&key("a"), at(120)).until(), at(120), "nobody had anything open any more");
}
