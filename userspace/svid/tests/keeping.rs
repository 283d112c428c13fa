//! How identities are kept over time, on paused clocks: an hour takes milliseconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_identity::x509;
use culvert_mtls::{LocalIdentity, Trust};
use culvert_svid::{Clock, IssueError, Keeper, KeeperSettings, Key, Observer};
use rcgen::KeyPair;
use support::*;
use tokio::time::sleep;

struct World {
    clock: ShiftedClock,
    trust: Trust,
    ca: TestCa,
    diary: Arc<Diary>,
    keeper: Keeper<TestCa>,
}

fn world() -> World {
    let clock = ShiftedClock::new();
    let (trust, ca, diary) = (trust_by(&clock), TestCa::new(&clock), Arc::<Diary>::default());
    ca.0.authority.trusted_by(&trust);
    let observer: Arc<dyn Observer> = diary.clone();
    let keeper = Keeper::new(ca.clone(), trust.clone(), KeeperSettings::default(), Arc::new(clock.clone()), observer);
    World { clock, trust, ca, diary, keeper }
}

fn state(local: &LocalIdentity) -> &'static str {
    local.credentials().map_or_else(|refusal| refusal.reason(), |_| "good")
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

fn last_failure(world: &World, name: &str) -> Option<&'static str> {
    world.keeper.watch(&id(name)).unwrap().borrow().last_failure
}

#[tokio::test(start_paused = true)]
async fn an_identity_begins_with_its_first_pod_and_is_not_usable_before_the_answer() {
    let w = world();
    w.ca.delay(Duration::from_secs(3));
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert_eq!(state(&local), "no_svid");
    seconds(2).await;
    assert_eq!(state(&local), "no_svid");
    assert!(w.keeper.ready(&id(TILL)).await);
    assert_eq!(state(&local), "good");
    let asked = w.ca.last();
    assert_eq!((asked.id, asked.pod_uid.as_deref(), asked.validity), (id(TILL), Some("pod-1"), HOUR));
    assert_eq!(local.credentials().unwrap().id(), &id(TILL));
    assert!(!w.keeper.ready(&id(BANK)).await, "nobody has that one");
}

#[tokio::test(start_paused = true)]
async fn one_key_serves_all_pods_of_an_identity_and_goes_with_the_last() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    let again = w.keeper.hold(&id(TILL), "pod-2");
    w.keeper.hold(&id(TILL), "pod-2");
    seconds(5).await;
    assert_eq!(w.ca.asked(), 1);
    assert_eq!(again.generation(), local.generation());
    let weak = Arc::downgrade(&local.credentials().unwrap());
    assert!(!w.keeper.release("pod-1"));
    assert!(!w.keeper.release("pod-1") && !w.keeper.release("unknown"));
    assert_eq!(state(&local), "good");
    let changes = w.keeper.changes();
    let before = *changes.borrow();
    assert!(w.keeper.release("pod-2"));
    assert_eq!(state(&local), "no_svid");
    assert!(weak.upgrade().is_none(), "nobody holds the key any more");
    assert!(*changes.borrow() > before);
    assert_eq!(w.diary.count("erased"), 1);
    assert!(w.keeper.identity(&id(TILL)).is_none() && w.keeper.statuses().is_empty());
    seconds(7200).await;
    assert_eq!(w.ca.asked(), 1, "no renewal for nobody");
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_after_the_last_one_gets_a_new_key() {
    let w = world();
    let first = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    let old = first.credentials().unwrap();
    w.keeper.release("pod-1");
    let second = w.keeper.hold(&id(TILL), "pod-2");
    assert!(w.keeper.ready(&id(TILL)).await);
    let new = second.credentials().unwrap();
    assert_ne!(old.svid().public_key, new.svid().public_key);
    assert!(new.generation() > old.generation());
    assert_eq!(state(&first), "no_svid", "the old handle does not come back to life");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_last_pod_went_brings_nothing_back() {
    let w = world();
    w.ca.delay(Duration::from_secs(3));
    let local = w.keeper.hold(&id(TILL), "pod-1");
    seconds(1).await;
    assert_eq!(w.ca.asked(), 1);
    w.keeper.release("pod-1");
    seconds(10).await;
    assert_eq!((state(&local), w.diary.count("first")), ("no_svid", 0));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_its_identity_lets_go_of_the_former() {
    let w = world();
    let till = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    w.keeper.hold(&id(BANK), "pod-1");
    assert_eq!(state(&till), "no_svid");
    assert!(w.keeper.ready(&id(BANK)).await);
    let kept: Vec<_> = w.keeper.statuses().into_iter().map(|(id, pods, _)| (id, pods)).collect();
    assert_eq!(kept, [(id(BANK), vec![Arc::from("pod-1")])]);
}

#[tokio::test(start_paused = true)]
async fn renewal_comes_at_half_of_the_life_with_a_new_key_and_without_a_gap() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    let mut keys = vec![local.credentials().unwrap().svid().public_key.clone()];
    for _ in 0..(6 * 1800) {
        seconds(1).await;
        let now = local.credentials().expect("never without").svid().public_key.clone();
        if keys.last() != Some(&now) {
            keys.push(now);
        }
    }
    let times = w.ca.times();
    assert!((5..=7).contains(&(times.len() - 1)), "{times:?}");
    for pair in times.windows(2) {
        let after = (pair[1] - pair[0]).as_secs_f64();
        // A certificate begins with a whole second, so up to one before it was asked for.
        assert!((1619.0..=1982.0).contains(&after), "{after}");
    }
    assert_eq!(keys.len(), times.len());
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), times.len(), "each renewal has a key of its own");
    assert_eq!((w.diary.count("first"), w.diary.count("renewed")), (1, times.len() - 1));
}

#[tokio::test(start_paused = true)]
async fn renewals_of_many_identities_are_spread() {
    let w = world();
    for n in 0..40 {
        w.keeper.hold(&id(&format!("spiffe://td.test/ns/a/sa/s{n}")), &format!("pod-{n}"));
    }
    seconds(3000).await;
    let mut times: Vec<_> = w.ca.times().into_iter().filter(|at| at.as_secs() > 100).map(|at| at.as_secs()).collect();
    times.sort_unstable();
    assert_eq!(times.len(), 40);
    assert!(times[39] - times[0] > 150, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_jump_past_the_end_fails_handshakes_at_once_and_renews_within_five_seconds() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    seconds(60).await;
    w.clock.jump(3 * 3600);
    assert_eq!(state(&local), "svid_expired");
    seconds(5).await;
    assert_eq!(state(&local), "good");
    assert_eq!((w.ca.asked(), w.diary.count("expired")), (2, 1));
    assert!(local.credentials().unwrap().not_after() > w.clock.wall());
}

#[tokio::test(start_paused = true)]
async fn a_clock_jump_right_after_the_first_answer_is_noticed_as_well() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    w.clock.jump(3601);
    assert_eq!(state(&local), "svid_expired");
    seconds(5).await;
    assert_eq!(state(&local), "good");
}

#[tokio::test(start_paused = true)]
async fn a_jump_past_half_of_the_life_renews_by_the_wall_clock() {
    let w = world();
    w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    seconds(60).await;
    w.clock.jump(2000);
    seconds(2).await;
    assert_eq!(w.ca.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_delay_renewal() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    w.clock.jump(-1000);
    seconds(1600).await;
    assert_eq!(w.ca.asked(), 1);
    seconds(400).await;
    assert_eq!(w.ca.asked(), 2);
    assert_eq!(state(&local), "good");
}

#[tokio::test(start_paused = true)]
async fn while_the_ca_is_away_the_old_svid_is_used_to_its_end_and_pauses_grow() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    w.ca.behave(down());
    seconds(3590).await;
    assert_eq!((state(&local), last_failure(&w, TILL)), ("good", Some("ca_unreachable")));
    seconds(20).await;
    assert_eq!(state(&local), "svid_expired");
    let gaps: Vec<_> = w.ca.times()[1..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    let mut wanted = 0.5;
    for gap in gaps.iter().take(10) {
        // The clocks are looked at once a second at most.
        assert!(
            *gap >= wanted * 0.8 - 0.02 && *gap <= f64::min(wanted * 1.2, 150.0) + 1.02,
            "{gap} for {wanted}: {gaps:?}"
        );
        wanted = f64::min(wanted * 2.0, 150.0);
    }
    assert!(gaps.len() >= 15, "{gaps:?}");
    w.ca.behave(good());
    seconds(160).await;
    assert_eq!((state(&local), last_failure(&w, TILL)), ("good", None));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_svid_cuts_a_long_pause_short() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    w.ca.behave(down());
    // Long enough for pauses of 150 s.
    seconds(2900).await;
    while w.clock.monotonic() - *w.ca.times().last().unwrap() > Duration::from_secs(3) {
        seconds(1).await;
    }
    w.ca.behave(good());
    w.clock.jump(3600);
    assert_eq!(state(&local), "svid_expired");
    seconds(5).await;
    assert_eq!(state(&local), "good");
}

#[tokio::test(start_paused = true)]
async fn a_ca_whose_answers_have_ended_by_our_clock_is_asked_with_pauses() {
    let w = world();
    w.clock.jump(7200);
    w.ca.behave(Box::new(|ca, request, now| {
        Ok(ca.sign_request(&request.csr, request.id.as_str(), now - 2 * HOUR, HOUR))
    }));
    let local = w.keeper.hold(&id(TILL), "pod-1");
    seconds(60).await;
    assert_eq!((state(&local), last_failure(&w, TILL)), ("no_svid", Some("answer_not_trusted")));
    assert!((5..10).contains(&w.ca.asked()), "{:?}", w.ca.times());
}

#[tokio::test(start_paused = true)]
async fn no_more_than_eight_requests_are_under_way_at_once() {
    let w = world();
    w.ca.delay(Duration::from_secs(1));
    for n in 0..30 {
        w.keeper.hold(&id(&format!("spiffe://td.test/ns/a/sa/s{n}")), &format!("pod-{n}"));
    }
    seconds(6).await;
    assert_eq!((w.ca.asked(), w.ca.0.most_at_once.load(Ordering::SeqCst)), (30, 8));
    assert_eq!(w.diary.count("first"), 30);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_what_was_asked_for_is_not_used() {
    type Wrong = fn() -> Behave;
    let table: [(&str, Wrong); 6] = [
        ("answer_other_identity", || Box::new(|ca, r, now| Ok(ca.sign_request(&r.csr, BANK, now, HOUR)))),
        ("answer_other_key", || {
            Box::new(|ca, r, now| Ok(ca.sign(r.id.as_str(), &KeyPair::generate().unwrap(), now, HOUR)))
        }),
        ("answer_not_trusted", || {
            Box::new(|_, r, now| Ok(Authority::new().sign_request(&r.csr, r.id.as_str(), now, HOUR)))
        }),
        ("answer_not_trusted", || {
            Box::new(|ca, r, now| Ok(ca.sign_request(&r.csr, r.id.as_str(), now + 2 * HOUR, HOUR)))
        }),
        ("answer_not_an_svid", || Box::new(|ca, r, now| Ok(ca.sign_request(&r.csr, "https://td.test/x", now, HOUR)))),
        ("ca_denied", || Box::new(|_, _, _| Err(IssueError::Denied("no such pod".into())))),
    ];
    for (wanted, wrong) in table {
        let w = world();
        w.ca.behave(wrong());
        let local = w.keeper.hold(&id(TILL), "pod-1");
        seconds(3).await;
        assert_eq!((state(&local), last_failure(&w, TILL)), ("no_svid", Some(wanted)));
        assert!(w.diary.count(&format!("failed {wanted}")) > 1);
        // The next good answer ends it.
        w.ca.behave(good());
        seconds(10).await;
        assert_eq!((state(&local), last_failure(&w, TILL)), ("good", None));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_bundle_no_answer_is_good_enough() {
    let w = world();
    w.trust.bundles().remove(&domain());
    let local = w.keeper.hold(&id(TILL), "pod-1");
    seconds(3).await;
    assert_eq!((state(&local), last_failure(&w, TILL)), ("no_svid", Some("answer_not_trusted")));
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_at_renewal_leaves_the_good_svid_in_use() {
    let w = world();
    let local = w.keeper.hold(&id(TILL), "pod-1");
    assert!(w.keeper.ready(&id(TILL)).await);
    let first = local.generation();
    w.ca.behave(Box::new(|ca, r, now| Ok(ca.sign_request(&r.csr, BANK, now, HOUR))));
    seconds(2500).await;
    assert_eq!(
        (state(&local), local.generation(), last_failure(&w, TILL)),
        ("good", first, Some("answer_other_identity"))
    );
}

#[tokio::test(start_paused = true)]
async fn when_the_ca_refuses_one_pod_the_next_one_is_named() {
    let w = world();
    w.ca.behave(Box::new(|ca, r, now| match r.pod_uid.as_deref() {
        Some("pod-2") => Ok(ca.sign_request(&r.csr, r.id.as_str(), now, HOUR)),
        _ => Err(IssueError::Denied("pod has ended".into())),
    }));
    let local = w.keeper.hold(&id(TILL), "pod-1");
    w.keeper.hold(&id(TILL), "pod-2");
    seconds(3).await;
    assert_eq!(state(&local), "good");
}

#[test]
fn a_request_has_an_empty_subject_and_one_critical_uri_and_is_signed_by_its_key() {
    use x509_parser::{certification_request::X509CertificationRequest, prelude::*};
    let key = Key::generate().unwrap();
    let text = key.request(Some(&id(TILL))).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
    assert!(rest.is_empty());
    assert_eq!(block.label, "CERTIFICATE REQUEST");
    let info = &request.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    assert_eq!(info.subject_pki.raw, key.public());
    let sans: Vec<_> = info
        .iter_attributes()
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
            _ => None,
        })
        .flatten()
        .filter(|extension| extension.oid == oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME)
        .collect();
    assert_eq!(sans.len(), 1);
    assert!(sans[0].critical);
    let ParsedExtension::SubjectAlternativeName(names) = sans[0].parsed_extension() else { panic!("not a SAN") };
    assert!(matches!(names.general_names[..], [GeneralName::URI(TILL)]), "{names:?}");
    // rcgen checks the signature when it reads a request.
    rcgen::CertificateSigningRequestParams::from_pem(&text).unwrap();
    assert_eq!(format!("{key:?}"), "Key(P-256)");
}

#[test]
fn a_certified_key_makes_credentials() {
    let key = Key::generate().unwrap();
    let chain = vec![Authority::new().sign(TILL, &key, std::time::SystemTime::now(), HOUR)];
    assert_eq!(x509::check_chain(&chain).unwrap().public_key, key.public());
    culvert_mtls::Credentials::new(chain, key.signing()).unwrap();
}
