use super::*;
use crate::traffic::pace::Refusal;

const HOUR: Duration = Duration::from_secs(3600);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + millis)
}

fn limit(text: &str) -> RateLimit {
    text.parse().unwrap()
}

fn paused(retry_after_s: u64) -> Pace {
    let retry_after = Some(Duration::from_secs(retry_after_s));
    Pace::after_refusal(None, &refusal(at(0), retry_after), HOUR, None, at(0)).unwrap()
}

fn refusal(attempt_started_at: Timestamp, retry_after: Option<Duration>) -> Refusal {
    Refusal { attempt_started_at, status_code: 429, retry_after }
}

fn refused_again(pace: &Pace, now: Timestamp) -> Pace {
    Pace::after_refusal(Some(pace), &refusal(now, None), HOUR, None, now).unwrap()
}

#[test]
fn a_pace_takes_the_place_of_the_configured_rate_until_it_is_forgotten() {
    let (pace, ten) = (paused(1), Some(limit("10/1s")));
    assert_eq!(Rate::of(None, None, at(0)), None);
    assert_eq!(Rate::of(None, ten, at(0)), Some(Rate::Configured(limit("10/1s"))));
    assert_eq!(Rate::of(Some(&pace), ten, at(0)), Some(Rate::Learned(pace, ten)));
    let forgotten = pace.forget_at;
    assert_eq!(Rate::of(Some(&pace), ten, forgotten), Some(Rate::Configured(limit("10/1s"))));
    assert_eq!(Rate::of(Some(&pace), None, forgotten), None);
}

/// In any window at most as many slots open as the rate and one burst allow, whenever the workers
/// ask and however many they ask for. Checked for each window of a schedule with idle times.
#[test]
fn a_configured_rate_with_its_burst_is_never_exceeded() {
    for text in ["10/1s", "1/1s", "7/60s", "100/3s"] {
        let rate = Rate::Configured(limit(text));
        let mut counters = None;
        let mut starts = Vec::new();
        let mut now = 0;
        for step in 0_i64..300 {
            now += [3, 250, 17, 900, 0, 12_345][(step % 6) as usize];
            let take = rate.take((step % 4 + 1) as u32, false, at(now));
            let (after, last) = Counters::after(counters.as_ref(), &take);
            counters = Some(after);
            let first = last - i64::from(take.count) + 1;
            starts.extend((first..=last).map(|slot| rate.opens_at(slot).max(at(now))));
        }
        starts.sort();
        let per_second = limit(text).per_second();
        for (i, first) in starts.iter().enumerate() {
            for (j, last) in starts.iter().enumerate().skip(i).take(500) {
                let window_s = last.since(*first).as_secs_f64();
                let bound = per_second * window_s + limit(text).burst() as f64 + 1.0;
                assert!((j - i + 1) as f64 <= bound, "{text}: {} in {window_s} s", j - i + 1);
            }
        }
    }
}

#[test]
fn no_slot_is_given_twice_and_none_is_left_out() {
    let rate = Rate::Configured(limit("10/1s"));
    let mut counters = None;
    let mut expected = rate.take(1, false, at(0)).floor;
    for count in [1, 5, 2, 7, 1] {
        let take = rate.take(count, false, at(0));
        let (after, last) = Counters::after(counters.as_ref(), &take);
        expected += i64::from(count);
        assert_eq!((last, after.last), (expected, expected));
        counters = Some(after);
    }
}

#[test]
fn slots_that_were_not_used_are_lost_beyond_the_burst() {
    let rate = Rate::Configured(limit("10/1s"));
    let (before, _) = Counters::after(None, &rate.take(1, false, at(0)));
    let take = rate.take(1, false, at(3_600_000));
    let (after, last) = Counters::after(Some(&before), &take);
    assert_eq!(last, take.floor + 1);
    assert!(rate.opens_at(last) <= at(3_600_000), "the burst is open at once");
    assert_eq!(after.last_late, before.last_late);
}

#[test]
fn another_generation_restarts_both_counters() {
    let (slow, fast) = (Rate::Configured(limit("1/1s")), Rate::Configured(limit("10/1s")));
    let (before, _) = Counters::after(None, &slow.take(3, false, at(0)));
    for is_late in [false, true] {
        let take = fast.take(2, is_late, at(0));
        let (after, last) = Counters::after(Some(&before), &take);
        let (taken, other) =
            if is_late { (after.last_late, after.last) } else { (after.last, after.last_late) };
        assert_eq!((last, taken, other), (take.floor + 2, take.floor + 2, take.floor));
        assert_eq!(after.generation, "10/1");
    }
}

#[test]
fn late_webhooks_have_a_counter_of_their_own() {
    let rate = Rate::Configured(limit("10/1s"));
    let (before, _) = Counters::after(None, &rate.take(500, false, at(0)));
    let take = rate.take(1, true, at(30_000));
    let (after, last) = Counters::after(Some(&before), &take);
    assert_eq!(after.last, before.last);
    assert!(rate.opens_at(last) <= at(30_000), "it does not queue behind the others");
}

#[test]
fn a_webhook_is_late_ten_or_sixty_seconds_after_its_slot() {
    for (rate, tolerance_ms) in
        [(Rate::Configured(limit("1/1s")), 10_000), (Rate::Learned(paused(1), None), 60_000)]
    {
        let slot = rate.take(1, false, at(5000)).floor + 1;
        let opens_at = rate.opens_at(slot);
        let last = opens_at.plus(Duration::from_millis(tolerance_ms));
        assert!(!rate.is_late(slot, last) && rate.is_late(slot, last.plus(HOUR)));
        assert!(rate.is_late(slot, last.plus(Duration::from_millis(1))));
    }
}

#[test]
fn the_first_slots_of_a_pace_open_after_the_pause() {
    let rate = Rate::Learned(paused(5), None);
    let (_, last) = Counters::after(None, &rate.take(1, false, at(0)));
    assert_eq!(last, 0, "the slot that is open when the pause ends");
    assert_eq!(rate.opens_at(last), at(5000));
    assert!(rate.opens_at(last + 1) > at(5000));
}

#[test]
fn a_decrease_keeps_the_slots_and_moves_their_times() {
    let before = paused(1);
    let rate = Rate::Learned(before, None);
    let (_, last) = Counters::after(None, &rate.take(20, false, at(2000)));
    let slower = Rate::Learned(refused_again(&before, at(3000)), None);
    assert_eq!(slower.generation(), rate.generation());
    assert!(slower.opens_at(last) > rate.opens_at(last));
}

#[test]
fn a_slot_of_a_configured_rate_is_looked_at_a_second_before() {
    let rate = Rate::Configured(limit("1/1s"));
    let slot = rate.take(1, false, at(0)).floor + 1;
    for (ahead, look_s) in [(60, 59), (2, 1), (1, 0), (0, 0)] {
        let looked_at = rate.look_at(slot + ahead, rate.opens_at(slot), 0.5);
        assert_eq!(looked_at.since(rate.opens_at(slot)).as_secs(), look_s);
    }
}

/// A distant slot of a learned rate is looked at after 80 % of its wait, and after no more than the
/// age of the rate, in which it may have grown.
#[test]
fn a_distant_slot_of_a_learned_rate_is_looked_at_early() {
    let pace = paused(3600);
    let rate = Rate::Learned(pace, None);
    for unit in [0.0, 0.5, 0.99] {
        let age = 0.75 + unit / 4.0;
        let first = rate.look_at(1, at(0), unit).since(at(0)).as_secs_f64();
        assert!((first - 5.0 * age).abs() < 0.01, "{first}: at least 5 s count as its age");
        let later = rate.look_at(1, at(1_000_000), unit).since(at(1_000_000)).as_secs_f64();
        assert!((later - 1000.0 * age).abs() < 0.01, "{later}");
        let near_end = rate.look_at(1, at(3_580_000), unit).since(at(3_580_000)).as_secs_f64();
        assert!((16.0..18.0).contains(&near_end), "{near_end}: 80 % of the wait");
        let near = rate.look_at(0, at(3_595_000), unit);
        assert_eq!(near, at(3_599_000), "like a configured one");
    }
}
