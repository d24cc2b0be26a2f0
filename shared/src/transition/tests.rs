//! The rules in three ways: every starting record against every event ([`table`]), invariants after
//! any sequence of events ([`properties`]), and the size of a record (here).

mod giving_up;
mod properties;
mod table;

use std::time::Duration;

use super::{GiveUp, NewWebhook, Refusal, Report, Rules, testing::new_webhook};
use crate::{
    clock::Timestamp,
    id::TaskId,
    message::Message,
    model::{Budget, Claim, ClaimId, ErrorKind, Function, Webhook, Why},
    retry::Outcome,
    retry_override::RetryOverride,
    status::Status,
    trace::Trace,
};

/// The time of every event in the table.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// This many seconds after [`NOW`].
const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1000)
}

/// The report of an attempt with this status code.
fn answered(status_code: u16) -> Report {
    let error = (!(200..300).contains(&status_code)).then_some(ErrorKind::HttpStatus);
    Report {
        outcome: Outcome { error, status_code: Some(status_code), retry_after: None },
        duration: Duration::from_millis(12),
        message: error.map(|_| format!("the destination answered {status_code}")),
        response_excerpt: error.map(|_| "no".to_owned()),
    }
}

/// The rules with no jitter, so that the waits are round numbers: 5 s, then 10 s.
fn rules() -> Rules {
    Rules::default()
}

/// The record weighs less than a write unit (1 KiB) all through the life of one that succeeds at
/// once, and leaves room for a small content beside it, with a trace too. Tested on the largest
/// usual values: 36 characters of correlation id, 20 of reference id.
#[test]
fn a_record_that_succeeds_at_once_weighs_less_than_a_write_unit() {
    let trace = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &[]);
    assert!(trace.is_some());
    for (trace, more) in [(None, 0), (trace, 60)] {
        assert_light(trace, more);
    }
}

/// Holds each record of such a life against its limit and this much more.
fn assert_light(trace: Option<Trace>, more: usize) {
    let mut new = new_webhook(TaskId::mint(NOW, [0xff; 10]));
    new.trace = trace;
    new.id.reference = "order-20231114-00017".parse().unwrap();
    new.correlation_id = "9f0c2b4e-8d3a-4c5b-9e6f-0123456789ab".to_owned();
    new.destination = "https://hooks.customer-one.example.com:443".to_owned();
    let created = rules().create(new, NOW);
    let claim = ClaimId(u64::MAX);
    let claimed = rules().claim(&created, claim, NOW.plus(Duration::from_millis(3))).unwrap();
    let delivered = rules()
        .conclude(&claimed, claim, &answered(200), NOW.plus(Duration::from_millis(250)), 0.5)
        .unwrap();
    for (name, record, limit) in
        [("created", created, 400), ("claimed", claimed, 550), ("delivered", delivered, 700)]
    {
        let size = record.to_json().len();
        println!(
            "{name}: {size} bytes, {} with its message",
            Message::with_seen(&record).to_json().len()
        );
        assert!(size < limit + more, "{name}: {size} bytes, {}", record.to_json());
        assert_eq!(Webhook::from_json(&record.to_json()).unwrap(), record);
    }
}

/// Only a time to come is a schedule; one that has come, to the millisecond, needs a message now.
#[test]
fn a_time_that_has_come_is_no_schedule() {
    for (deliver_at, due_at) in [(at(-1), None), (NOW, None), (at(1), Some(at(1)))] {
        let new =
            NewWebhook { deliver_at: Some(deliver_at), ..new_webhook(TaskId::mint(NOW, [1; 10])) };
        let webhook = rules().create(new, NOW);
        assert_eq!((webhook.due_at, webhook.allowed_at), (due_at, Some(due_at.unwrap_or(NOW))));
    }
}

/// A list within a record keeps how it began and what is newest. Tested by a webhook that is resent
/// until both lists have overflowed twice.
#[test]
fn attempts_and_history_keep_the_first_and_the_newest() {
    let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let created = record.history[0].clone();
    let mut first_attempt = None;
    for round in 1..=110 {
        let now = at(round);
        record = rules().claim(&record, ClaimId(1), now).unwrap();
        record = rules().conclude(&record, ClaimId(1), &answered(410), now, 0.5).unwrap();
        let first = first_attempt.get_or_insert_with(|| record.attempts[0].clone());
        assert_eq!((&record.history[0], &record.attempts[0]), (&created, &*first));
        assert_eq!(record.attempts.last().unwrap().number, record.attempt_count);
        assert!(
            record.attempts.is_sorted_by_key(|attempt| attempt.number)
                && record.attempts.len() <= 50
        );
        assert!(record.history.is_sorted_by_key(|step| step.at) && record.history.len() <= 50);
        record = rules().resend(&record, now).unwrap();
    }
    assert_eq!((record.attempt_count, record.attempts.len(), record.history.len()), (110, 50, 50));
}

/// Nothing that a destination answers makes a record grow beyond its bounds, and a cut is between
/// two characters.
#[test]
fn what_is_kept_of_an_answer_is_cut() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let claimed = rules().claim(&record, ClaimId(1), NOW).unwrap();
    let long = "€".repeat(1000);
    let report =
        Report { message: Some(long.clone()), response_excerpt: Some(long), ..answered(500) };
    let failed = rules().conclude(&claimed, ClaimId(1), &report, NOW, 0.5).unwrap();
    let attempt = &failed.attempts[0];
    assert_eq!(attempt.message.as_ref().unwrap().len(), 255);
    assert_eq!(attempt.response_excerpt.as_ref().unwrap().len(), 255);
    assert_eq!(failed.last_error.unwrap().message.len(), 255);
    let report = Report {
        message: Some("no".to_owned()),
        response_excerpt: Some("€".repeat(1000)),
        ..answered(200)
    };
    let delivered = rules().conclude(&claimed, ClaimId(1), &report, NOW, 0.5).unwrap();
    assert_eq!(delivered.attempts[0].message, None, "a delivery has no error");
    assert_eq!(
        delivered.attempts[0].response_excerpt.as_ref().unwrap().len(),
        255,
        "and an excerpt where they are kept of all"
    );
}

/// An attempt that was interrupted is shown as such, with its number, its start and its lease, and
/// the next one has the next number.
#[test]
fn a_lost_attempt_is_noted_when_the_next_one_starts() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let lost = rules().claim(&record, ClaimId(1), NOW).unwrap();
    let next = rules().claim(&lost, ClaimId(2), at(45)).unwrap();
    assert_eq!(next.claim, Some(Claim { id: ClaimId(2), started_at: at(45), lease_until: at(90) }));
    let [attempt] = next.attempts.as_slice() else { panic!("{:?}", next.attempts) };
    assert_eq!((attempt.number, attempt.started_at, attempt.duration_ms), (1, NOW, 45_000));
    assert_eq!(
        (attempt.error, next.attempt_count, next.budget.interrupted),
        (Some(ErrorKind::Interrupted), 2, 1)
    );
    assert_eq!(next.budget.attempts, 0, "an interruption does not use up the policy's attempts");
}

/// A claim that is given back unused is shown with its reason, and uses up nothing; only its holder
/// may give it back.
#[test]
fn a_claim_that_sent_nothing_uses_up_nothing() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let claimed = rules().claim(&record, ClaimId(1), NOW).unwrap();
    assert_eq!(
        rules().give_back(&claimed, ClaimId(2), "", at(40), at(31)),
        Err(Refusal::NotOurClaim)
    );
    let back = rules()
        .give_back(&claimed, ClaimId(1), &"nothing was sent ".repeat(30), at(40), at(31))
        .unwrap();
    assert_eq!(
        (back.status, back.allowed_at, back.due_at),
        (Status::Retrying, Some(at(40)), Some(at(940)))
    );
    let used = Budget { deferrals: 1, relays: 1, ..Budget::default() };
    assert_eq!((back.budget, back.attempt_count, back.claim.as_ref()), (used, 1, None));
    let [attempt] = back.attempts.as_slice() else { panic!("{:?}", back.attempts) };
    assert_eq!(
        (attempt.number, attempt.error, attempt.duration_ms),
        (1, Some(ErrorKind::Interrupted), 31_000)
    );
    assert!(
        attempt
            .message
            .as_ref()
            .is_some_and(|text| text.starts_with("nothing was sent") && text.len() <= 256)
    );
}

/// After the first interruption in a row the next attempt starts at once; then waits of a base
/// delay, twice that, and so on, each with up to as much again, so that webhooks that were
/// interrupted together do not start together. An outcome ends the row.
#[test]
fn interrupted_attempts_wait_longer_each_time_until_an_outcome() {
    for (id, factor) in [(0, 1.0), (u64::MAX, 2.0)] {
        let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
        let mut claimed = rules().claim(&record, ClaimId(id), NOW).unwrap();
        let mut waits = Vec::new();
        for round in 0..4 {
            let over = claimed.claim.as_ref().unwrap().lease_until;
            let resumes_at = rules().resumes_at(&claimed).unwrap();
            waits.push(resumes_at.since(over).as_secs_f64());
            let waiting = if round == 0 {
                assert_eq!(
                    rules().retry_interrupted(&claimed, over),
                    Err(Refusal::Changed),
                    "nothing to wait for"
                );
                claimed
            } else {
                assert_eq!(
                    rules().claim(&claimed, ClaimId(7), over),
                    Err(Refusal::NotYet(resumes_at))
                );
                assert_eq!(
                    rules().defer(&claimed, at(9999), Why::RateLimit, over),
                    Err(Refusal::NotYet(resumes_at))
                );
                assert!(
                    rules().claim(&claimed, ClaimId(7), resumes_at).is_ok(),
                    "a late look has waited already"
                );
                rules().retry_interrupted(&claimed, over).unwrap()
            };
            assert_eq!(waiting.allowed_at, Some(if round == 0 { NOW } else { resumes_at }));
            claimed = rules().claim(&waiting, ClaimId(id), resumes_at).unwrap();
        }
        let expected = [0.0, 5.0, 10.0, 20.0].map(|wait| wait * factor);
        assert!(
            waits.iter().zip(expected).all(|(wait, expected)| (wait - expected).abs() < 0.01),
            "{waits:?}"
        );
        assert_eq!(claimed.budget.interrupted, 4);
        let answered = rules()
            .conclude(&claimed, ClaimId(id), &answered(503), claimed.updated_at, 0.5)
            .unwrap();
        assert_eq!((answered.status, answered.budget.interrupted), (Status::Retrying, 0));
    }
}

/// The waits follow the webhook's own policy, within its longest delay, and are never less than a
/// second.
#[test]
fn the_wait_after_an_interruption_is_the_policys() {
    let wait = |retry: RetryOverride| {
        let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
        record.retry = Some(retry);
        record.budget.interrupted = 4;
        let claimed = rules().claim(&record, ClaimId(0), NOW).unwrap();
        rules().resumes_at(&claimed).unwrap().since(at(45)).as_secs()
    };
    let of = |base_delay_ms| RetryOverride {
        base_delay_ms: Some(base_delay_ms),
        ..RetryOverride::default()
    };
    assert_eq!([0, 100, 1000, 60_000].map(|base| wait(of(base))), [8, 8, 8, 480]);
    assert_eq!(wait(of(3_600_000)), 3600, "the longest delay of the policy");
    assert_eq!(
        wait(RetryOverride { schedule_ms: Some(vec![2000, 9000]), ..RetryOverride::default() }),
        16
    );
}

/// It may be put off to the very time for which it waits already, and to the last millisecond of
/// what deferrals may take.
#[test]
fn a_deferral_may_go_to_its_bounds() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let tomorrow = at(24 * 3600);
    let deferred = rules().defer(&record, tomorrow, Why::RateLimit, NOW).unwrap();
    assert_eq!(deferred.allowed_at, Some(tomorrow));
    assert!(rules().defer(&deferred, tomorrow, Why::RateLimit, tomorrow).is_ok());
    let later = tomorrow.plus(Duration::from_millis(1));
    assert_eq!(rules().defer(&record, later, Why::RateLimit, NOW), Err(Refusal::BudgetSpent));
}

/// What one destination's other webhooks take says nothing of its circuit: the two budgets are
/// apart.
#[test]
fn the_host_limit_and_the_circuit_have_budgets_of_their_own() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let (day, circuit) = (at(24 * 3600), Why::Error(ErrorKind::CircuitOpen));
    for (first, other) in [(Why::RateLimit, circuit), (circuit, Why::RateLimit)] {
        let deferred = rules().defer(&record, day, first, NOW).unwrap();
        assert_eq!(deferred.budget.deferred_ms + deferred.budget.host_deferred_ms, 24 * 3_600_000);
        let later = day.plus(Duration::from_secs(1));
        assert_eq!(rules().defer(&deferred, later, first, day), Err(Refusal::BudgetSpent));
        assert!(rules().defer(&deferred, later, other, day).is_ok());
    }
}

/// A record of an older version has neither of the new fields, and is worked on; one of this
/// version reads as well without them.
#[test]
fn budgets_of_older_versions_are_read() {
    let old = r#"{"a":1,"i":2,"q":3,"s":4,"r":2,"d":5,"dm":6}"#;
    let budget: Budget = serde_json::from_str(old).unwrap();
    let expected = Budget {
        attempts: 1,
        interrupted: 2,
        relays: 3,
        requeues: 4,
        rescues: 2,
        deferrals: 5,
        deferred_ms: 6,
        ..Budget::default()
    };
    assert_eq!(budget, expected);
    assert_eq!(serde_json::to_string(&budget).unwrap(), old, "what is not used is not written");
    let all = Budget { host_deferred_ms: 7, rescued_revision: 8, unworked_rescues: 9, ..budget };
    assert_eq!(serde_json::from_str::<Budget>(&serde_json::to_string(&all).unwrap()).unwrap(), all);
}

/// Works on it as `deliver` does that is then killed: a claim whose lease runs out.
fn worked_on(record: &Webhook, now: Timestamp) -> Webhook {
    rules().claim(record, ClaimId(1), now).unwrap()
}

/// Three rescues, and no fourth; but while an attempt is under way it may still end well, so it is
/// looked at again when its lease is over.
#[test]
fn there_are_three_rescues_and_a_last_look_at_an_attempt_under_way() {
    let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    for rescues in 1..=3 {
        let now = at(i64::from(rescues) * 600);
        record =
            rules().rescue(&worked_on(&record, now), now.plus(Duration::from_secs(45))).unwrap();
        assert_eq!(
            (record.budget.rescues, record.due_at),
            (rescues, Some(now.plus(Duration::from_secs(45))))
        );
    }
    let claimed = worked_on(&record, at(3000));
    assert_eq!(rules().rescue(&claimed, at(3045)), Err(Refusal::BudgetSpent));
    let looked_at = rules().rescue(&claimed, at(3000)).unwrap();
    assert_eq!((looked_at.budget.rescues, looked_at.due_at), (3, Some(at(3045))));
}

/// A message that the queue gave up on although no worker had looked at the webhook says nothing of
/// the webhook: no rescue is spent, and it waits, longer each time. What the sweep and the audit do
/// meanwhile is no look.
#[test]
fn what_nothing_has_worked_on_is_never_undeliverable() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let interrupted = rules().rescue(&worked_on(&record, NOW), at(45)).unwrap();
    for (mut record, rescues) in [(record, 0), (interrupted, 1)] {
        let (mut now, mut waits) = (at(100), Vec::new());
        for _ in 0..9 {
            record = rules().rescue(&record, now).unwrap();
            let due_at = record.due_at.unwrap();
            waits.push(due_at.since(now).as_secs() / 60);
            record = rules().requeue(&record, due_at, due_at).unwrap();
            now = record.due_at.unwrap();
            record = rules()
                .adopt(
                    &record,
                    now.minus(Duration::from_secs(1)),
                    (Function::Sweep, Why::Unsent),
                    now,
                )
                .unwrap();
        }
        assert_eq!(waits, [0, 15, 30, 60, 120, 240, 360, 360, 360]);
        assert_eq!((record.budget.rescues, record.status.is_finished()), (rescues, false));
        let claimed = worked_on(&record, now);
        assert_eq!(claimed.budget.unworked_rescues, 0, "a look ends the row");
        assert_eq!(rules().rescue(&claimed, now).unwrap().budget.rescues, rescues + 1);
    }
}

/// Deferrals are work on it, so they let a rescue be spent; but without an attempt it is not given
/// up.
#[test]
fn what_was_only_deferred_is_rescued_and_never_given_up() {
    let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    for round in 1..=6 {
        let now = at(round * 100);
        record = rules().defer(&record, now, Why::RateLimit, now).unwrap();
        record = rules().rescue(&record, now).unwrap();
        assert_eq!(record.budget.rescues, u32::try_from(round).unwrap().min(3));
    }
    assert_eq!(record.budget.unworked_rescues, 1, "each deferral begins the waits anew");
}

/// The times and numbers that the design names.
#[test]
fn the_limits_are_those_of_the_design() {
    let limits = rules().limits;
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    assert_eq!(
        (limits.lease, limits.relay_within),
        (Duration::from_secs(45), Duration::from_secs(90))
    );
    assert_eq!(
        (limits.grace, limits.max_grace, limits.max_defer),
        (minutes(15), minutes(360), minutes(1440))
    );
    assert_eq!(
        (limits.retention, limits.dead_letter_retention),
        (minutes(43_200), minutes(43_200))
    );
    assert_eq!((limits.max_interrupted, limits.max_relays, limits.max_rescues), (5, 8, 3));
}

/// Each requeue of the same state waits twice as long as the one before, up to six hours; another
/// status starts anew.
#[test]
fn the_grace_doubles_up_to_six_hours_and_starts_anew() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let mut record = rules().audit(&record, NOW).unwrap();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let now = record.due_at.unwrap();
        record = rules().requeue(&record, now, now).unwrap();
        waits.push(record.due_at.unwrap().since(now).as_secs() / 60);
    }
    assert_eq!(waits, [15, 30, 60, 120, 240, 360, 360]);
    assert_eq!(
        rules().claim(&record, ClaimId(1), record.due_at.unwrap()).unwrap().budget.requeues,
        0
    );
}

/// While a backlog waits, what repeats a message is due again after six hours; what is sent for the
/// first time after a grace, as ever.
#[test]
fn in_a_backlog_a_repeated_message_waits_for_six_hours() {
    let accepted = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let adopted = rules().audit(&accepted, NOW).unwrap();
    let (due_at, six_hours) = (adopted.due_at.unwrap(), Duration::from_secs(6 * 3600));
    assert!(rules().is_repeat(&adopted, due_at));
    let repeated = rules().requeue_in_backlog(&adopted, due_at, due_at).unwrap();
    assert_eq!((repeated.due_at, repeated.budget.requeues), (Some(due_at.plus(six_hours)), 1));
    assert_eq!(rules().requeue_in_backlog(&adopted, NOW, due_at), Err(Refusal::DueMoved));

    let scheduled = rules().create(
        NewWebhook { deliver_at: Some(at(600)), ..new_webhook(TaskId::mint(NOW, [1; 10])) },
        NOW,
    );
    assert!(!rules().is_repeat(&scheduled, at(600)));
    let first = rules().requeue_in_backlog(&scheduled, at(600), at(600)).unwrap();
    assert_eq!(first.due_at, Some(at(600 + 900)));
    assert!(!rules().is_repeat(&first, at(600 + 899)) && rules().is_repeat(&first, at(600 + 900)));
}

/// Of the waits that it may queue itself, `deliver` does eight; what comes after is the sweep's,
/// which is due at the allowed time.
#[test]
fn after_eight_relays_the_sweep_takes_over() {
    let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let mut waits = Vec::new();
    for round in 1..=10 {
        record =
            rules().defer(&record, at(round * 60), Why::RateLimit, at(round * 60 - 60)).unwrap();
        waits.push(record.due_at.unwrap().since(record.allowed_at.unwrap()).as_secs());
        assert_eq!(super::is_relayed(&record), round <= 8);
    }
    assert_eq!(waits, [900, 900, 900, 900, 900, 900, 900, 900, 0, 0]);
}
