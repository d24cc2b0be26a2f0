//! The rules, in three ways: every starting record against every event ([`table`]), what holds after any sequence of events
//! ([`properties`]), and what a record weighs (here).

mod properties;
mod table;

use std::time::Duration;

use super::{NewWebhook, Refusal, Report, Rules, testing::new_webhook};
use crate::{
    clock::Timestamp,
    id::TaskId,
    message::Message,
    model::{Claim, ClaimId, ErrorKind, Webhook},
    retry::Outcome,
};

/// The moment at which everything in the table happens.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// So many seconds after [`NOW`].
const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1000)
}

/// What a worker reports that was answered with this status code.
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

/// The record weighs less than a write unit (1 KiB) all through the life of one that succeeds at once, and leaves room for a small
/// content beside it. Proved on the largest usual values: 36 characters of correlation id, 20 of reference id.
#[test]
fn a_record_that_succeeds_at_once_weighs_less_than_a_write_unit() {
    let mut new = new_webhook(TaskId::mint(NOW, [0xff; 10]));
    new.id.reference = "order-20231114-00017".parse().unwrap();
    new.correlation_id = "9f0c2b4e-8d3a-4c5b-9e6f-0123456789ab".to_owned();
    new.destination = "https://hooks.customer-one.example.com:443".to_owned();
    let created = rules().create(new, NOW);
    let claim = ClaimId(u64::MAX);
    let claimed = rules().claim(&created, claim, NOW.plus(Duration::from_millis(3))).unwrap();
    let delivered = rules().conclude(&claimed, claim, &answered(200), NOW.plus(Duration::from_millis(250)), 0.5).unwrap();
    for (name, record, limit) in [("created", created, 400), ("claimed", claimed, 550), ("delivered", delivered, 700)] {
        let size = record.to_json().len();
        println!("{name}: {size} bytes, {} with its message", Message::with_seen(&record).to_json().len());
        assert!(size < limit, "{name}: {size} bytes, {}", record.to_json());
        assert_eq!(Webhook::from_json(&record.to_json()).unwrap(), record);
    }
}

/// A list within a record keeps how it began and what is newest. Proved by a webhook that is resent until both lists have
/// overflowed twice.
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
        assert!(record.attempts.is_sorted_by_key(|attempt| attempt.number) && record.attempts.len() <= 50);
        assert!(record.history.is_sorted_by_key(|step| step.at) && record.history.len() <= 50);
        record = rules().resend(&record, now).unwrap();
    }
    assert_eq!((record.attempt_count, record.attempts.len(), record.history.len()), (110, 50, 50));
}

/// Nothing that a destination answers makes a record grow beyond its bounds, and a cut is between two characters.
#[test]
fn what_is_kept_of_an_answer_is_cut() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let claimed = rules().claim(&record, ClaimId(1), NOW).unwrap();
    let long = "€".repeat(1000);
    let report = Report { message: Some(long.clone()), response_excerpt: Some(long), ..answered(500) };
    let failed = rules().conclude(&claimed, ClaimId(1), &report, NOW, 0.5).unwrap();
    let attempt = &failed.attempts[0];
    assert_eq!(attempt.message.as_ref().unwrap().len(), 255);
    assert_eq!(attempt.response_excerpt.as_ref().unwrap().len(), 255);
    assert_eq!(failed.last_error.unwrap().message.len(), 255);
}

/// An attempt that was interrupted is shown as such, with its number, its start and its lease, and the next one has the next number.
#[test]
fn a_lost_attempt_is_noted_when_the_next_one_starts() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let lost = rules().claim(&record, ClaimId(1), NOW).unwrap();
    let next = rules().claim(&lost, ClaimId(2), at(45)).unwrap();
    assert_eq!(next.claim, Some(Claim { id: ClaimId(2), started_at: at(45), lease_until: at(90) }));
    let [attempt] = next.attempts.as_slice() else { panic!("{:?}", next.attempts) };
    assert_eq!((attempt.number, attempt.started_at, attempt.duration_ms), (1, NOW, 45_000));
    assert_eq!((attempt.error, next.attempt_count, next.budget.interrupted), (Some(ErrorKind::Interrupted), 2, 1));
    assert_eq!(next.budget.attempts, 0, "an interruption does not use up the policy's attempts");
}

/// Each requeue of the same state waits twice as long as the one before, up to six hours; another status starts anew.
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
    assert_eq!(rules().claim(&record, ClaimId(1), record.due_at.unwrap()).unwrap().budget.requeues, 0);
}

/// While a backlog waits, what repeats a message is due again after six hours; what is sent for the first time after a grace, as ever.
#[test]
fn in_a_backlog_a_repeated_message_waits_for_six_hours() {
    let accepted = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let adopted = rules().audit(&accepted, NOW).unwrap();
    let (due_at, six_hours) = (adopted.due_at.unwrap(), Duration::from_secs(6 * 3600));
    assert!(rules().is_repeat(&adopted, due_at));
    let repeated = rules().requeue_in_backlog(&adopted, due_at, due_at).unwrap();
    assert_eq!((repeated.due_at, repeated.budget.requeues), (Some(due_at.plus(six_hours)), 1));
    assert_eq!(rules().requeue_in_backlog(&adopted, NOW, due_at), Err(Refusal::DueMoved));

    let scheduled = rules().create(NewWebhook { deliver_at: Some(at(600)), ..new_webhook(TaskId::mint(NOW, [1; 10])) }, NOW);
    assert!(!rules().is_repeat(&scheduled, at(600)));
    let first = rules().requeue_in_backlog(&scheduled, at(600), at(600)).unwrap();
    assert_eq!(first.due_at, Some(at(600 + 900)));
    assert!(!rules().is_repeat(&first, at(600 + 899)) && rules().is_repeat(&first, at(600 + 900)));
}

/// Of the waits that it may queue itself, `deliver` does eight; what comes after is the sweep's, which is due at the allowed time.
#[test]
fn after_eight_relays_the_sweep_takes_over() {
    let mut record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let mut waits = Vec::new();
    for round in 1..=10 {
        record = rules().defer(&record, at(round * 60), crate::model::Why::RateLimit, at(round * 60 - 60)).unwrap();
        waits.push(record.due_at.unwrap().since(record.allowed_at.unwrap()).as_secs());
        assert_eq!(super::is_relayed(&record), round <= 8);
    }
    assert_eq!(waits, [900, 900, 900, 900, 900, 900, 900, 900, 0, 0]);
}
