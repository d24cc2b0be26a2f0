//! Invariants after any sequence of events: random walks, with a check of each step.

use std::time::Duration;

use proptest::prelude::*;

use super::{NOW, answered, rules};
use crate::{
    clock::Timestamp,
    id::TaskId,
    message::Message,
    model::{ClaimId, ErrorKind, Function, MAX_ATTEMPTS_KEPT, MAX_HISTORY_KEPT, Webhook, Why},
    retry::Outcome,
    retry_override::RetryOverride,
    status::Status,
    transition::{GiveUp, NewWebhook, Refusal, Report, Rules, testing::new_webhook},
};

/// An event that a caller tries. What it needs from the record (the claim, the due time) is filled
/// in when it happens.
#[derive(Clone, Debug)]
enum Event {
    Pass(Duration),
    Claim,
    Conclude { ours: bool, report: Report, unit: f64 },
    GiveUp(GiveUp),
    RetryInterrupted,
    GiveBack(Duration),
    Defer(Duration),
    Requeue { seen: bool },
    Adopt(Duration),
    Audit,
    Rescue,
    Archive,
    Resend,
    Redrive,
}

fn error_kind() -> impl Strategy<Value = ErrorKind> {
    prop_oneof![
        Just(ErrorKind::Network),
        Just(ErrorKind::Timeout),
        Just(ErrorKind::Tls),
        Just(ErrorKind::RefusedAddress),
        Just(ErrorKind::Interrupted),
        Just(ErrorKind::CircuitOpen),
        Just(ErrorKind::Undeliverable),
    ]
}

fn give_up() -> impl Strategy<Value = GiveUp> {
    prop_oneof![
        Just(GiveUp::Interrupted),
        Just(GiveUp::CircuitOpen),
        Just(GiveUp::Undeliverable),
        Just(GiveUp::Unreadable)
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let code =
        prop_oneof![Just(200), Just(404), Just(410), Just(429), Just(500), Just(503), 100_u16..600];
    let answer = (code, proptest::option::of(0_u64..100_000)).prop_map(|(code, retry_after_s)| {
        let report = answered(code);
        Report {
            outcome: Outcome {
                retry_after: retry_after_s.map(Duration::from_secs),
                ..report.outcome
            },
            ..report
        }
    });
    let broken = (error_kind(), "\\PC{0,300}").prop_map(|(kind, text)| Report {
        outcome: Outcome { error: Some(kind), status_code: None, retry_after: None },
        duration: Duration::from_secs(30),
        message: Some(text.clone()),
        response_excerpt: Some(text),
    });
    prop_oneof![3 => answer, 1 => broken]
}

fn wait() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0_u64..10_000).prop_map(Duration::from_millis),
        4 => (0_u64..7200).prop_map(Duration::from_secs),
        1 => (0_u64..40).prop_map(|days| Duration::from_secs(days * 24 * 3600)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => wait().prop_map(Event::Pass),
        6 => Just(Event::Claim),
        5 => (proptest::bool::weighted(0.8), report(), 0.0..1.0)
            .prop_map(|(ours, report, unit)| Event::Conclude { ours, report, unit }),
        1 => give_up().prop_map(Event::GiveUp),
        3 => Just(Event::RetryInterrupted),
        1 => wait().prop_map(Event::GiveBack),
        2 => wait().prop_map(Event::Defer),
        2 => any::<bool>().prop_map(|seen| Event::Requeue { seen }),
        1 => wait().prop_map(Event::Adopt),
        1 => Just(Event::Audit),
        2 => Just(Event::Rescue),
        2 => Just(Event::Archive),
        1 => Just(Event::Resend),
        1 => Just(Event::Redrive),
    ]
}

fn new() -> impl Strategy<Value = NewWebhook> {
    let overrides = (
        proptest::option::of(1_u32..=50),
        proptest::option::of(1.0_f64..100.0),
        proptest::option::of(0.0_f64..1.0),
    )
        .prop_map(|(max_attempts, factor, jitter)| RetryOverride {
            max_attempts,
            factor,
            jitter,
            ..RetryOverride::default()
        });
    (
        proptest::option::of(overrides),
        proptest::option::of(wait()),
        "\\PC{0,40}",
        proptest::option::of("\\PC{1,20}"),
    )
        .prop_map(|(retry, wait, correlation_id, event_type)| NewWebhook {
            retry,
            deliver_at: wait.map(|wait| NOW.plus(wait)),
            correlation_id,
            trace: None,
            event_type,
            ..new_webhook(TaskId::mint(NOW, [1; 10]))
        })
}

/// A webhook, the time, and the promises about it.
struct Walk {
    rules: Rules,
    now: Timestamp,
    record: Webhook,
    claims: u64,
    /// The latest outcome, and the time before which it allowed no attempt.
    latest: Option<(Outcome, Timestamp)>,
    /// Whether `deliver` has worked on it since it was accepted, sent again or rescued.
    worked_on: bool,
}

impl Walk {
    fn happen(&mut self, event: &Event) -> Result<Webhook, Refusal> {
        let (rules, record, now) = (&self.rules, &self.record, self.now);
        match event {
            Event::Pass(wait) => {
                self.now = now.plus(*wait);
                Err(Refusal::Held)
            }
            Event::Claim => {
                self.claims += 1;
                rules.claim(record, ClaimId(self.claims), now)
            }
            Event::Conclude { ours, report, unit } => {
                let held = record.claim.as_ref().map_or(ClaimId(0), |claim| claim.id);
                rules.conclude(
                    record,
                    if *ours { held } else { ClaimId(u64::MAX) },
                    report,
                    now,
                    *unit,
                )
            }
            Event::GiveUp(reason) => rules.give_up(record, *reason, Function::Deliver, now),
            Event::RetryInterrupted => rules.retry_interrupted(record, now),
            Event::GiveBack(wait) => {
                let held = record.claim.as_ref().map_or(ClaimId(0), |claim| claim.id);
                rules.give_back(record, held, "nothing was sent", now.plus(*wait), now)
            }
            Event::Defer(wait) => rules.defer(record, now.plus(*wait), Why::RateLimit, now),
            Event::Requeue { seen } => {
                let due_at = record.due_at.filter(|_| *seen).unwrap_or_default();
                rules.requeue(record, due_at, now)
            }
            Event::Adopt(wait) => {
                rules.adopt(record, now.plus(*wait), (Function::Api, Why::Unsent), now)
            }
            Event::Audit => rules.audit(record, now),
            Event::Rescue => rules.rescue(record, now),
            Event::Archive => rules.archive(record, now),
            Event::Resend => rules.resend(record, now),
            Event::Redrive => rules.redrive(record, now),
        }
    }
}

/// The invariants of any record.
fn check_record(rules: &Rules, record: &Webhook) {
    let finished = record.status.is_finished();
    assert_eq!(record.allowed_at.is_some(), !finished, "an allowed time exactly while unfinished");
    assert_eq!(
        record.claim.is_some(),
        record.status == Status::InProgress,
        "a claim exactly while in progress"
    );
    let gone_from_index = record.status == Status::Delivered || record.is_dead_letter();
    assert_eq!(
        record.expires_at.is_some(),
        gone_from_index,
        "it expires exactly when nothing more happens by itself"
    );
    if gone_from_index {
        assert_eq!(record.due_at, None);
    }
    if matches!(record.status, Status::Retrying | Status::Failed) && !record.is_dead_letter() {
        assert!(record.due_at.is_some(), "what waits is in the due index");
    }
    assert_eq!(record.delivered_at.is_some(), record.status == Status::Delivered);
    assert_eq!(record.failed_at.is_some(), record.status == Status::Failed);
    let (limits, budget) = (&rules.limits, &record.budget);
    assert!(budget.interrupted <= limits.max_interrupted - u32::from(!finished), "{budget:?}");
    assert!(
        budget.relays <= limits.max_relays && budget.rescues <= limits.max_rescues,
        "{budget:?}"
    );
    for deferred_ms in [budget.deferred_ms, budget.host_deferred_ms] {
        assert!(u128::from(deferred_ms) <= limits.max_defer.as_millis(), "{budget:?}");
    }
    assert!(record.attempts.len() <= MAX_ATTEMPTS_KEPT && record.history.len() <= MAX_HISTORY_KEPT);
    assert!(record.attempts.is_sorted_by(|a, b| a.number < b.number));
    let json = record.to_json();
    assert_eq!(Webhook::from_json(&json).unwrap(), *record, "{json}");
    let message = Message::from_json(&Message::with_seen(record).to_json()).unwrap();
    assert!(message.webhook_id == record.id && message.seen.is_none_or(|seen| *seen == *record));
}

/// The invariants of a step from one record to the next.
fn check_step(walk: &Walk, event: &Event, next: &Webhook) {
    let (before, now) = (&walk.record, walk.now);
    assert_eq!(next.revision, before.revision + 1, "each success is a write of its own");
    assert_eq!((next.updated_at, &next.id, next.created_at), (now, &before.id, before.created_at));
    assert_eq!(
        next.attempt_count,
        before.attempt_count + u32::from(matches!(event, Event::Claim)),
        "one attempt, one claim"
    );
    assert_eq!(next.history[0], before.history[0], "how it began is kept");
    assert!(before.attempts.is_empty() || next.attempts[0] == before.attempts[0]);
    if matches!(event, Event::Claim) {
        assert!(before.allowed_at.is_some_and(|at| at <= now), "no attempt before it is allowed");
        assert!(
            walk.latest.is_none_or(|(_, at)| at <= now),
            "no attempt before the latest outcome's time"
        );
        assert!(
            before.claim.as_ref().is_none_or(|claim| claim.lease_until <= now),
            "one worker at a time"
        );
        assert!(
            before.budget.interrupted == 0
                || walk.rules.resumes_at(before).is_none_or(|at| at <= now),
            "it waits"
        );
        if let Some((outcome, _)) = walk.latest {
            let policy = walk.rules.retry.with(before.retry.as_ref());
            let granted = policy.attempts_granted(outcome.error.unwrap(), outcome.status_code);
            assert!(before.budget.attempts < granted, "the policy grants it");
        }
    }
    if let Event::GiveUp(GiveUp::CircuitOpen | GiveUp::Undeliverable) = event {
        assert!(before.was_attempted(), "nothing fails untried");
    }
    if matches!(event, Event::Rescue) && next.budget.rescues > before.budget.rescues {
        assert!(walk.worked_on, "a rescue is spent only after work on it");
    }
    assert!(
        !matches!(event, Event::Conclude { ours: false, .. }),
        "only the holder of the claim writes an outcome"
    );
    assert!(!before.is_expired(now), "what is gone stays gone");
    if !matches!(event, Event::Resend | Event::Redrive) {
        assert!(
            next.allowed_at.is_none() || next.allowed_at >= before.allowed_at,
            "nothing pulls an attempt forward"
        );
        assert!(
            !before.status.is_finished() || before.status == next.status,
            "only an operator leaves a final status"
        );
    }
    if !before.status.is_finished() && before.due_at.is_some() && !next.status.is_finished() {
        assert!(next.due_at.is_some(), "what is held stays held");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 20_000,
        ..ProptestConfig::default() })]

    /// Every record that a sequence of events can lead to keeps the invariants. Every step is one
    /// that `docs/architecture.md#transitions` allows. A refusal changes nothing, because it has no
    /// record. The sequences are random, with right and wrong claims, outcomes and due times.
    #[test]
    fn any_walk_keeps_the_rules(new in new(), events in proptest::collection::vec(event(),
        1..120)) {
        let rules = rules();
        let record = rules.create(new, NOW);
        check_record(&rules, &record);
        let mut walk = Walk { rules, now: NOW, record, claims: 0, latest: None, worked_on: false };
        for event in &events {
            let Ok(next) = walk.happen(event) else { continue };
            check_record(&walk.rules, &next);
            check_step(&walk, event, &next);
            match event {
                Event::Conclude { report, .. } => {
                    let asked = report.outcome.retry_after.unwrap_or_default()
                        .min(walk.rules.retry.retry_after_cap);
                    walk.latest = Some((report.outcome, walk.now.plus(asked)));
                }
                Event::Resend | Event::Redrive => walk.latest = None,
                _ => {}
            }
            walk.worked_on = match event {
                Event::Claim | Event::Conclude { .. } | Event::Defer(_) | Event::RetryInterrupted
                | Event::GiveBack(_) => true,
                Event::Rescue | Event::Resend | Event::Redrive => false,
                _ => walk.worked_on,
            };
            walk.record = next;
        }
    }

    /// A webhook whose workers all die is given up after five attempts.
    #[test]
    fn a_webhook_that_kills_its_workers_ends(waits in proptest::collection::vec(45_u64..10_000,
        30..40)) {
        let rules = rules();
        let mut now = NOW;
        let mut record = rules.create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
        for (index, wait) in waits.iter().enumerate() {
            match rules.claim(&record, ClaimId(index as u64), now) {
                Ok(next) => record = next,
                Err(Refusal::NotYet(at)) => {
                    prop_assert!(at > now);
                    record = rules.retry_interrupted(&record, now).unwrap_or(record);
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::Interrupted);
                    record = rules.give_up(&record, GiveUp::Interrupted, Function::Deliver,
                        now).unwrap();
                    break;
                }
            }
            now = now.plus(Duration::from_secs(*wait));
        }
        prop_assert_eq!((record.status, record.attempt_count, record.attempts.len()),
            (Status::Failed, 5, 5));
        let is_interrupted = |error| error == Some(ErrorKind::Interrupted);
        prop_assert!(record.attempts.iter().all(|attempt| is_interrupted(attempt.error)));
    }
}
