use super::named;

#[test]
fn a_counters_number_becomes_its_name() {
    assert_eq!(named("steer counter=0 pod=3 x"), "steer decision=steer_outbound pod=3 x");
    assert_eq!(named("guard counter=13"), "guard decision=untagged_tcp ");
}

#[test]
fn other_lines_stay_as_they_are() {
    assert_eq!(named("something else"), "something else");
    assert_eq!(named("steer counter=9999 pod=3"), "steer counter=9999 pod=3");
}
