use std::fs;

use super::*;

fn tokens() -> (tempfile::TempDir, StateDir, Tokens, SystemTime) {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    let tokens = Tokens::open(&state).unwrap();
    (root, state, tokens, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
}

#[test]
fn a_token_is_good_once_and_for_its_node() {
    let (_root, _, tokens, now) = tokens();
    let token = tokens.give("node-1.example", now).unwrap();
    assert_eq!(tokens.take(&token, now).unwrap(), "node-1.example");
    assert_eq!(tokens.take(&token, now).unwrap_err().reason(), "token_unknown");
}

#[test]
fn wrong_tokens_are_refused_and_leave_the_right_one_alone() {
    let (_root, _, tokens, now) = tokens();
    let one = tokens.give("n1", now).unwrap();
    let two = tokens.give("n2", now).unwrap();
    let secret_of_two = two.rsplit_once('.').unwrap().1;
    let table = [
        (format!("n1.{secret_of_two}"), "token_wrong"),
        ("n1.00".to_owned(), "token_wrong"),
        ("n1.".to_owned(), "token_wrong"),
        (format!("n3.{secret_of_two}"), "token_unknown"),
        ("n1".to_owned(), "token_malformed"),
        (format!("../n1.{secret_of_two}"), "token_malformed"),
        (format!("a/b.{secret_of_two}"), "token_malformed"),
        (String::new(), "token_malformed"),
        (format!("{}.x", "n".repeat(600)), "token_malformed"),
    ];
    for (token, reason) in table {
        assert_eq!(tokens.take(&token, now).unwrap_err().reason(), reason, "{token}");
    }
    assert_eq!(tokens.take(&one, now).unwrap(), "n1");
    assert_eq!(tokens.take(&two, now).unwrap(), "n2");
}

#[test]
fn a_new_token_replaces_the_old_one_and_an_hour_ends_it() {
    let (_root, _, tokens, now) = tokens();
    let old = tokens.give("n1", now).unwrap();
    let new = tokens.give("n1", now).unwrap();
    assert_eq!(tokens.take(&old, now).unwrap_err().reason(), "token_wrong");
    assert_eq!(tokens.take(&new, now + LIFE).unwrap_err().reason(), "token_expired");
    assert_eq!(tokens.take(&new, now).unwrap_err().reason(), "token_unknown", "an expired one is gone");
}

#[test]
fn only_the_hash_is_on_disk() {
    let (_root, state, tokens, now) = tokens();
    let token = tokens.give("n1", now).unwrap();
    let secret = token.rsplit_once('.').unwrap().1;
    let kept = fs::read_to_string(state.path("tokens/n1.json")).unwrap();
    assert!(!kept.contains(secret) && kept.contains(&hash(secret)));
    assert_eq!(secret.len(), 64);
}

#[test]
fn names_that_no_certificate_can_carry_get_no_token() {
    let (_root, _, tokens, now) = tokens();
    for name in ["", "a/b", "..", "a b", &"n".repeat(254)] {
        assert_eq!(tokens.give(name, now).unwrap_err().reason(), "bad_node_name", "{name}");
    }
}

#[test]
fn a_file_under_the_name_of_another_node_makes_nobody_that_node() {
    let (_root, state, tokens, now) = tokens();
    let token = tokens.give("n1", now).unwrap();
    let secret = token.rsplit_once('.').unwrap().1;
    fs::rename(state.path("tokens/n1.json"), state.path("tokens/n2.json")).unwrap();
    assert_eq!(tokens.take(&format!("n2.{secret}"), now).unwrap_err().reason(), "token_wrong");
}
