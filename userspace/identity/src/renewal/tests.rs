use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const BORN: Duration = Duration::from_secs(1_800_000_000);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + BORN + Duration::from_secs(seconds)
}

fn hour_long(jitter: f64) -> Renewal {
    Renewal::plan(at(0), at(3600), at(0), HOUR, jitter)
}

#[test]
fn renewal_is_at_half_of_the_life_give_or_take_a_tenth() {
    assert_eq!(renew_at(at(0), at(3600), 0.0), at(1800));
    assert_eq!(renew_at(at(0), at(3600), 1.0), at(1980));
    assert_eq!(renew_at(at(0), at(3600), -1.0), at(1620));
    assert_eq!(renew_at(at(0), at(3600), 17.0), at(1980));
    assert_eq!(renew_at(at(0), at(3600), f64::NAN), at(1800));
    assert_eq!(renew_at(at(3600), at(0), 1.0), at(3600), "a life that ends before it begins is over");
}

#[test]
fn either_clock_alone_makes_it_due() {
    let plan = hour_long(0.0);
    let minutes = |m: u64| HOUR + Duration::from_secs(60 * m);
    assert!(!plan.due(at(60 * 29), minutes(29)));
    assert!(plan.due(at(60 * 30), minutes(1)), "wall clock ahead: the machine slept");
    assert!(plan.due(at(0), minutes(30)), "monotonic clock ahead: the wall clock was set back");
    assert!(plan.due(at(3601), HOUR), "past the end nothing holds it back");
}

#[test]
fn a_ca_with_a_slow_clock_is_not_asked_in_a_circle() {
    // Issued now, and by our clock already past its half-life.
    let plan = Renewal::plan(at(0), at(3600), at(3000), HOUR, 0.0);
    assert!(!plan.due(at(3000), HOUR));
    assert!(!plan.due(at(3029), HOUR + Duration::from_secs(29)));
    assert!(plan.due(at(3030), HOUR + Duration::from_secs(30)));
}

#[test]
fn a_slow_clock_of_ours_does_not_stretch_the_wait() {
    let plan = Renewal::plan(at(7200), at(10_800), at(0), HOUR, 0.0);
    assert!(plan.due(at(1800), HOUR + Duration::from_secs(1800)));
}

#[test]
fn pauses_double_from_half_a_second_to_two_and_a_half_minutes() {
    let pauses: Vec<_> = (0..=10).map(|n| backoff(n, 0.0).as_millis()).collect();
    assert_eq!(pauses, [500, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 150_000]);
    assert_eq!(backoff(u32::MAX, 1.0), BACKOFF_LONGEST);
    assert_eq!(backoff(1, 1.0), Duration::from_millis(600));
    assert_eq!(backoff(1, -1.0), Duration::from_millis(400));
}

proptest! {
    #[test]
    fn renewal_lies_within_a_tenth_of_half_of_any_life(life in 1_u64..10_000_000, jitter in -2.0..2.0_f64) {
        let after = renew_after(at(0), at(life), jitter).as_secs_f64();
        let half = life as f64 / 2.0;
        prop_assert!((after - half).abs() <= half * SPREAD + 1e-6, "{after} of {life}");
    }

    #[test]
    fn whatever_the_clocks_do_it_is_due_once_one_of_them_is_there(
        life in 100_u64..100_000,
        jitter in -1.0..=1.0_f64,
        received in -100_000_i64..100_000,
        wall in -200_000_i64..200_000,
        passed in 0_u64..200_000,
    ) {
        let shift = |s: i64| if s < 0 { at(0) - Duration::from_secs(s.unsigned_abs()) } else { at(s.unsigned_abs()) };
        let plan = Renewal::plan(at(0), at(life), shift(received), HOUR, jitter);
        let monotonic = HOUR + Duration::from_secs(passed);
        let half = Duration::from_secs(life).mul_f64(0.55);
        let due = plan.due(shift(wall), monotonic);
        // The longest that it may take while one clock stands still.
        if Duration::from_secs(passed) >= half.max(Duration::from_secs(30)) || wall > life as i64 {
            prop_assert!(due);
        }
        // Never before both the floor and 45 % of the life, unless a clock says that much has passed.
        if due {
            let by_wall = wall as f64 >= life as f64 * 0.45 - 1e-6;
            let by_monotonic = monotonic >= plan.monotonic;
            prop_assert!(by_wall || by_monotonic);
        }
    }

    #[test]
    fn sleeping_as_long_as_told_ends_at_a_moment_when_it_is_due(
        life in 100_u64..100_000, jitter in -1.0..=1.0_f64, passed in 0_u64..100_000,
    ) {
        let plan = Renewal::plan(at(0), at(life), at(0), HOUR, jitter);
        let (wall, monotonic) = (at(passed), HOUR + Duration::from_secs(passed));
        let wait = plan.wait(wall, monotonic);
        prop_assert!(plan.due(wall + wait, monotonic + wait));
        prop_assert!(wait.is_zero() || !plan.due(wall, monotonic));
    }
}
