#![expect(clippy::float_cmp, reason = "these rates and positions are exact")]

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1000.0) as i64)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The pace of a target that refused its first request at 0 and asked for this wait.
fn first(retry_after: Option<Duration>) -> Pace {
    Pace::after_refusal(None, &refusal(at(0.0), retry_after), HOUR, None, at(0.0)).unwrap()
}

fn refusal(attempt_started_at: Timestamp, retry_after: Option<Duration>) -> Refusal {
    Refusal { attempt_started_at, status_code: 429, retry_after }
}

fn refused(pace: &Pace, started_s: f64, retry_after: Option<Duration>, now_s: f64) -> Option<Pace> {
    Pace::after_refusal(Some(pace), &refusal(at(started_s), retry_after), HOUR, None, at(now_s))
}

#[test]
fn the_first_refusal_pauses_for_retry_after_within_its_bounds() {
    for (retry_after, resume_s) in [
        (None, 1.0),
        (Some(seconds(0)), 1.0),
        (Some(seconds(7)), 7.0),
        (Some(seconds(3600)), 3600.0),
        (Some(seconds(7200)), 3600.0),
        (Some(Duration::MAX), 3600.0),
    ] {
        let pace = first(retry_after);
        assert_eq!(pace.resume_at, at(resume_s), "{retry_after:?}");
        assert!(pace.is_paused(at(resume_s - 0.001)) && !pace.is_paused(at(resume_s)));
        assert_eq!(pace.position(at(resume_s), None), 0.0);
        assert_eq!(pace.forget_at, at(resume_s + f64::max(120.0, 3.0 * resume_s)));
    }
}

/// A cap below the shortest pause must not make `clamp` panic.
#[test]
fn a_cap_below_the_shortest_pause_gives_the_shortest() {
    let pace = Pace::after_refusal(
        None,
        &refusal(at(0.0), Some(seconds(9))),
        Duration::ZERO,
        None,
        at(0.0),
    );
    assert_eq!(pace.unwrap().resume_at, at(1.0));
}

#[test]
fn without_another_refusal_the_rate_doubles_each_two_seconds() {
    let pace = first(None);
    for (elapsed_s, rate) in [(0.0, 1.0), (2.0, 2.0), (4.0, 4.0), (10.0, 32.0), (60.0, MAX_RATE)] {
        let measured = pace.rate(at(1.0 + elapsed_s), None);
        assert!((measured - rate).abs() < 1e-6, "{elapsed_s} s: {measured}");
    }
    assert_eq!(pace.rate(at(0.0), None), 1.0, "during the pause");
}

/// The closed forms of position and rate agree. Checked by a sum of the rate over short steps, in
/// both phases, with and without a limit.
#[test]
fn the_position_is_the_integral_of_the_rate() {
    let search = first(None);
    let track = refused(&search, 9.0, Some(seconds(2)), 10.0).unwrap();
    for pace in [search, track] {
        for limit in [None, Some(0.5), Some(5.0), Some(100.0)] {
            let (mut sum, step_s) = (pace.position(pace.resume_at, limit), 0.001);
            let start_s = pace.resume_at.as_millis() as f64 / 1000.0;
            for step in 0..40_000 {
                let middle = at(start_s + (f64::from(step) + 0.5) * step_s);
                sum += pace.rate(middle, limit) * step_s;
            }
            let position = pace.position(at(start_s + 40.0), limit);
            assert!((sum / position - 1.0).abs() < 1e-3, "{pace:?} {limit:?}: {sum} {position}");
        }
    }
}

/// `opens_at` is the inverse of `position`: at that time the slot has opened, and a millisecond
/// earlier it has not.
#[test]
fn a_slot_opens_when_the_position_reaches_it() {
    let search = first(Some(seconds(3)));
    let track = refused(&search, 9.0, None, 10.0).unwrap();
    for pace in [search, track] {
        for limit in [None, Some(0.01), Some(2.0), Some(50.0)] {
            let start = pace.position(pace.resume_at, limit).ceil() as i64;
            for slot in (start + 1..start + 300).chain([start + 10_000, start + 1_000_000]) {
                let opens_at = pace.opens_at(slot, limit);
                let before = opens_at.minus(Duration::from_millis(1));
                assert!(pace.position(opens_at, limit) >= slot as f64 - 1e-6, "{pace:?} {slot}");
                assert!(pace.position(before, limit) < slot as f64, "{pace:?} {limit:?} {slot}");
            }
        }
    }
}

#[test]
fn slots_that_opened_before_the_pause_open_at_its_end() {
    let pace = refused(&first(None), 9.0, Some(seconds(5)), 10.0).unwrap();
    assert_eq!(pace.opens_at(0, None), at(15.0));
    assert_eq!(pace.opens_at(i64::MIN, None), at(15.0));
    assert!(pace.opens_at(i64::MAX, None) > at(1e9));
}

#[test]
fn a_refusal_after_the_pause_decreases_the_rate_and_slows_its_growth() {
    let before = first(None);
    let rate = before.rate(at(9.0), None);
    let after = refused(&before, 8.9, Some(seconds(1)), 9.0).unwrap();
    assert_eq!(after.started_at, before.started_at, "slots stay comparable");
    assert_eq!(after.resume_at, at(10.0));
    assert!((after.rate(at(10.0), None) - 0.8 * rate).abs() < 1e-9);
    assert!((after.rate(at(40.0), None) - rate).abs() < 1e-9, "a quarter is regained in 30 s");
    assert_eq!(after.position(at(10.0), None), before.position(at(9.0), None), "continuous");
    let longer = refused(&before, 8.9, Some(seconds(100)), 9.0).unwrap();
    assert!((longer.rate(at(209.0), None) - rate).abs() < 1e-9, "a quarter in the pause's 100 s");
}

#[test]
fn refusals_of_requests_sent_before_the_pause_ended_only_extend_it() {
    let before = first(Some(seconds(10)));
    assert_eq!(refused(&before, 0.0, Some(seconds(10)), 0.9), None, "less than a second longer");
    let after = refused(&before, 0.0, Some(seconds(30)), 2.0).unwrap();
    assert_eq!(after.resume_at, at(32.0));
    assert_eq!(after.rate(at(32.0), None), 1.0, "not decreased");
    assert_eq!(refused(&before, 9.0, Some(seconds(1)), 9.5), None, "it asks for less");
}

#[test]
fn a_target_that_always_refuses_is_tried_less_and_less_down_to_the_minimum() {
    let mut pace = first(None);
    for _ in 0..60 {
        let started_at = pace.opens_at(pace.position(pace.resume_at, None) as i64 + 1, None);
        let now = started_at.plus(Duration::from_millis(5));
        pace = Pace::after_refusal(Some(&pace), &refusal(started_at, None), HOUR, None, now)
            .expect("a refusal after the pause");
    }
    assert!(pace.rate(pace.resume_at, None) >= MIN_RATE);
    let pace = Pace { rate: MIN_RATE, ..pace };
    let after = refused(&pace, 1e6, None, 1e6);
    assert_eq!(after.unwrap().rate, INITIAL_RATE, "forgotten by then");
}

#[test]
fn a_pace_is_forgotten_and_a_later_refusal_starts_another() {
    let pace = first(None);
    assert!(pace.applies(at(120.999)) && !pace.applies(at(121.0)));
    let next = refused(&pace, 130.0, None, 130.0).unwrap();
    assert_eq!((next.started_at, next.rate, next.slope), (at(130.0), 1.0, None));
    assert_ne!(next.generation(), pace.generation());
}

#[test]
fn a_configured_rate_limits_the_learned_one() {
    let pace = first(None);
    assert_eq!(pace.rate(at(60.0), Some(5.0)), 5.0);
    assert_eq!(pace.rate(at(1.0), Some(0.25)), 0.25);
    let grown = pace.position(at(61.0), Some(5.0)) - pace.position(at(60.0), Some(5.0));
    assert!((grown - 5.0).abs() < 1e-9);
}

#[test]
fn a_stored_pace_is_read_again_unchanged() {
    let pace = refused(&first(None), 8.9, Some(seconds(1)), 9.0).unwrap();
    let json = serde_json::to_string(&pace).unwrap();
    assert_eq!(serde_json::from_str::<Pace>(&json).unwrap(), pace, "{json}");
}
