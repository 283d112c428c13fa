use rcgen::{CertificateParams, KeyPair};

use super::{certificates, chain_of};

fn certificate() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().self_signed(&key).unwrap().pem()
}

#[test]
fn an_answer_is_a_chain_and_then_roots() {
    let (leaf, issuer, root) = (certificate(), certificate(), certificate());
    let answer = [leaf.clone() + &issuer, root.clone()];
    assert_eq!(chain_of(&answer).unwrap().len(), 2, "the roots are no part of the chain");
    let reason = |answer: &[String]| chain_of(answer).unwrap_err().reason();
    for without_roots in
        [vec![], vec![leaf.clone()], vec![leaf.clone(), String::new()], vec![leaf, "nothing".to_owned()]]
    {
        assert_eq!(reason(&without_roots), "answer_incomplete", "{without_roots:?}");
    }
    assert_eq!(reason(&[String::new(), root]), "answer_incomplete");
    assert!(certificates(&[]).is_err());
}
