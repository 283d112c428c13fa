use super::*;

fn written(work: impl FnOnce(&Audit)) -> Vec<serde_json::Value> {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    work(&Audit::open(&state).unwrap());
    let text = String::from_utf8(state.read(FILE).unwrap()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn who_proves_nothing_does_not_fill_the_disk() {
    let lines = written(|audit| (0..1000).for_each(|_| audit.write_anonymous(Event::default())));
    // A slow machine may need more than the one second.
    assert!((20..=200).contains(&lines.len()), "{}", lines.len());
    assert_eq!(written(|audit| (0..100).for_each(|_| audit.write(&Event::default()))).len(), 100);
}

#[test]
fn a_field_is_cut_between_two_characters() {
    let long = Some("ä".repeat(1_000_000));
    let event =
        Event { node: long.clone(), pod: long.clone(), identity: long.clone(), detail: long, ..Event::default() };
    let lines = written(|audit| audit.write(&Event { caller: Some("x".repeat(LONGEST)), ..event }));
    for field in ["node", "pod", "identity", "detail"] {
        assert_eq!(lines[0][field], format!("{} (cut)", "ä".repeat(LONGEST / 2)), "{field}");
    }
    assert_eq!(lines[0]["caller"], "x".repeat(LONGEST));
}

#[test]
fn a_full_log_takes_the_place_of_the_one_before_it() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    let audit = Audit::open(&state).unwrap();
    audit.log.lock().unwrap().largest = 2000;
    for at in 0..100 {
        audit.write(&Event { node: Some(format!("n{at}")), ..Event::default() });
    }
    let (now, before) = (state.read(FILE).unwrap(), state.read(BEFORE).unwrap());
    assert!(now.len() <= 2000 && (1800..=2000).contains(&before.len()), "{} {}", now.len(), before.len());
    let text = String::from_utf8([before, now].concat()).unwrap();
    assert!(text.lines().last().unwrap().contains("n99"), "the newest is there");
    drop(audit);
    Audit::open(&state).unwrap().write(&Event::default());
    assert!(state.read(FILE).unwrap().len() > 100, "an earlier run's lines stay");
}
