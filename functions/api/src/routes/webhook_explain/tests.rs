//! The sentences for each state of a webhook.

use shared::{
    circuit::Settings,
    model::{ClaimId, ErrorKind, Function, MAX_HISTORY_KEPT, Slot, Why},
    retry::Outcome,
    store::TargetState,
    traffic::{
        pace::{Pace, Refusal},
        slots::Counters,
        target::{Target, TargetKey},
    },
    transition::{GiveUp, NewWebhook, Report, SlotWait, testing},
};

use super::*;

const AUDIT_AGE: Duration = Duration::from_secs(900);

fn start() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}

fn after(seconds: u64) -> Timestamp {
    start().plus(Duration::from_secs(seconds))
}

fn report(error: Option<ErrorKind>, code: Option<u16>, retry_after_s: Option<u64>) -> Report {
    let retry_after = retry_after_s.map(Duration::from_secs);
    let outcome = Outcome { error, status_code: code, retry_after };
    Report { outcome, duration: Duration::from_millis(7), message: None, response_excerpt: None }
}

fn concluded(webhook: &Webhook, report: &Report, now: Timestamp) -> Webhook {
    let rules = Rules::default();
    let claimed = rules.claim(webhook, ClaimId(1), now).unwrap();
    rules.conclude(&claimed, ClaimId(1), report, now, 0.5).unwrap()
}

fn coming(webhook: &Webhook, now: Timestamp) -> (Option<&'static str>, Option<Timestamp>, String) {
    coming_with(webhook, &Traffic::default(), now)
}

fn coming_with(
    webhook: &Webhook,
    traffic: &Traffic,
    now: Timestamp,
) -> (Option<&'static str>, Option<Timestamp>, String) {
    let surroundings = Surroundings { traffic: traffic.clone(), ..Surroundings::default() };
    let next = next(webhook, &surroundings, &Rules::default(), AUDIT_AGE, now);
    (next.by, next.at, next.what)
}

fn url_target() -> Target {
    Target::idle(TargetKey::url("https://example.com:443", "hash"))
}

/// The pace of a target that answered 429 at the start and asked for a wait.
fn pace(wait_s: u64) -> Pace {
    let retry_after = Some(Duration::from_secs(wait_s));
    let refusal = Refusal { attempt_started_at: start(), status_code: 429, retry_after };
    Pace::after_refusal(None, &refusal, Duration::from_secs(3600), None, start()).unwrap()
}

fn traffic(target: Target, limit: Option<&str>) -> Traffic {
    let counters = Counters { generation: pace(30).generation(), last: 9, last_late: 0 };
    let state = TargetState { target: Some(target), counters: Some(counters) };
    Traffic { targets: vec![state], limit: limit.map(|limit| limit.parse().unwrap()) }
}

#[test]
fn what_comes_next_for_what_is_queued_scheduled_or_due() {
    let rules = Rules::default();
    let new = testing::webhook(start());
    let (by, at, what) = coming(&new, start());
    assert_eq!((by, at), (Some("deliver"), None));
    assert!(what.contains("Attempt 1") && what.contains(&after(900).to_string()), "{what}");

    let later = NewWebhook { deliver_at: Some(after(3600)), ..testing::new_webhook(new.id.task) };
    let scheduled = rules.create(later, start());
    assert_eq!(coming(&scheduled, start()).0, Some("sweep"));
    assert_eq!(coming(&scheduled, start()).1, Some(after(3600)));

    let unsent = rules.adopt(&new, start(), (Function::Api, Why::Unsent), start()).unwrap();
    let (by, _, what) = coming(&unsent, start());
    assert!(by == Some("sweep") && what.contains("next sweep"), "{what}");
    let audited = rules.audit(&new, after(900)).unwrap();
    assert_eq!(coming(&audited, after(900)).0, Some("deliver"));
}

#[test]
fn what_comes_next_after_an_attempt() {
    let rules = Rules::default();
    let new = testing::webhook(start());
    let claimed = rules.claim(&new, ClaimId(1), start()).unwrap();
    assert_eq!(coming(&claimed, start()).1, Some(after(45)));
    assert!(coming(&claimed, after(46)).2.contains("attempt 2 starts"));

    let retrying = concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(500), None), start());
    let (by, at, what) = coming(&retrying, start());
    assert_eq!((by, at), (Some("deliver"), Some(after(5))));
    assert!(what.contains(&after(905).to_string()), "{what}");
    let put_off =
        concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(503), Some(600)), start());
    assert_eq!(
        (coming(&put_off, start()).0, coming(&put_off, start()).1),
        (Some("sweep"), Some(after(600)))
    );

    let failed = concluded(&new, &report(Some(ErrorKind::HttpStatus), Some(410), None), start());
    assert_eq!(coming(&failed, start()).0, Some("dlq"));
    let archived = rules.archive(&failed, after(1)).unwrap();
    assert_eq!(
        (coming(&archived, after(1)).0, coming(&archived, after(1)).1),
        (None, archived.expires_at)
    );
    let delivered = concluded(&new, &report(None, Some(204), None), start());
    assert_eq!(
        (coming(&delivered, start()).0, coming(&delivered, start()).1),
        (None, delivered.expires_at)
    );
}

#[test]
fn interrupted_attempts_end_in_failure_at_their_limit() {
    let rules = Rules::default();
    let mut webhook = testing::webhook(start());
    for round in 0..5 {
        webhook = rules.claim(&webhook, ClaimId(round), after(round * 460)).unwrap();
    }
    assert!(coming(&webhook, after(9999)).2.contains("the webhook fails"));
    assert!(steps(&webhook)[2].why.contains("may have arrived"));
}

/// The second interruption in a row makes it wait: said before it is noted, and after.
#[test]
fn the_wait_after_an_interruption_is_told() {
    let rules = Rules::default();
    let once = rules.claim(&testing::webhook(start()), ClaimId(0), start()).unwrap();
    let twice = rules.claim(&once, ClaimId(0), after(45)).unwrap();
    let resumes_at = after(45 + 45 + 5);
    let (_, _, what) = coming(&twice, after(90));
    assert!(what.contains(&format!("attempt 3 starts, not before {resumes_at}")), "{what}");
    let waiting = rules.retry_interrupted(&twice, after(90)).unwrap();
    assert_eq!(
        (coming(&waiting, after(90)).0, coming(&waiting, after(90)).1),
        (Some("deliver"), Some(resumes_at))
    );
    let told = steps(&waiting).pop().unwrap();
    assert!(told.why.starts_with("Attempt 2 ended without a recorded outcome"), "{}", told.why);
    assert_eq!(
        (told.transition, told.attempt, told.next_attempt_at),
        ("retry", Some(2), Some(resumes_at))
    );
}

/// What the queue gave up on while no worker looked at it, and what sent nothing, are told as
/// what they are.
#[test]
fn what_is_ours_is_told_as_ours() {
    let rules = Rules::default();
    let once = rules.rescue(&testing::webhook(start()), start()).unwrap();
    let twice = rules.rescue(&once, start()).unwrap();
    let (by, at, what) = coming(&twice, start());
    assert_eq!((by, at), (Some("sweep"), Some(after(900))));
    assert!(what.starts_with("The queue gave up on its message."), "{what}");
    assert!(steps(&twice)[2].why.contains("no worker had processed it"));

    let claimed = rules.claim(&testing::webhook(start()), ClaimId(3), start()).unwrap();
    let back =
        rules.give_back(&claimed, ClaimId(3), "nothing was sent", after(60), after(31)).unwrap();
    assert!(steps(&back)[2].why.contains("sent nothing"));
    assert_eq!(
        (coming(&back, after(31)).0, coming(&back, after(31)).1),
        (Some("deliver"), Some(after(60)))
    );
}

/// The dead letter of an unreadable queue message had no attempt and cannot be sent.
#[test]
fn an_unreadable_message_is_told_as_what_it_is() {
    let rules = Rules::default();
    let task = testing::webhook(start()).id.task;
    let new = NewWebhook { destination: String::new(), ..testing::new_webhook(task) };
    let kept = rules.create(new, start());
    let failed = rules.give_up(&kept, GiveUp::Unreadable, Function::Dlq, start()).unwrap();
    let archived = rules.archive(&failed, start()).unwrap();
    let told: Vec<String> = steps(&archived).into_iter().map(|step| step.why).collect();
    assert_eq!(
        told,
        [
            "The queue held a message that cannot be read. It was kept.",
            "Failed: the message names no webhook, so there is nothing to attempt.",
            "It became a dead letter.",
        ]
    );
    let (by, at, what) = coming(&archived, start());
    assert_eq!((by, at), (None, archived.expires_at));
    assert!(what.contains("cannot be sent") && !what.contains("redrive"), "{what}");
}

#[test]
fn every_step_says_from_where_to_where_and_why() {
    let rules = Rules::default();
    let failing = report(Some(ErrorKind::HttpStatus), Some(500), None);
    let once = concluded(&testing::webhook(start()), &failing, start());
    let put_off =
        rules.defer(&once, after(60), Why::Error(ErrorKind::CircuitOpen), after(5)).unwrap();
    let done = concluded(&put_off, &report(None, Some(204), None), after(60));
    let again = rules.resend(&done, after(61)).unwrap();
    let shown: Vec<(Option<Status>, Status, String)> =
        steps(&again).into_iter().map(|step| (step.from, step.to, step.why)).collect();
    let (pending, busy, retrying, delivered) =
        (Status::Pending, Status::InProgress, Status::Retrying, Status::Delivered);
    let expected = [
        (None, pending, "Accepted."),
        (Some(pending), busy, "Attempt 1 started."),
        (
            Some(busy),
            retrying,
            "Attempt 1 failed with status 500 after 7 ms. The retry policy allows another attempt.",
        ),
        (
            Some(retrying),
            retrying,
            "Deferred without an attempt: the circuit of its URL or destination is open after \
             repeated failures.",
        ),
        (Some(retrying), busy, "Attempt 2 started."),
        (Some(busy), delivered, "Attempt 2 succeeded with status 204 after 7 ms."),
        (Some(delivered), pending, "An operator resent it, with a new budget of attempts."),
    ];
    assert_eq!(shown, expected.map(|(from, to, why)| (from, to, why.to_owned())));
}

#[test]
fn a_shortened_history_does_not_invent_what_came_before() {
    let rules = Rules::default();
    let mut webhook = testing::webhook(start());
    webhook.due_at = Some(start());
    for _ in 0..MAX_HISTORY_KEPT {
        webhook = rules.requeue(&webhook, webhook.due_at.unwrap(), start()).unwrap();
    }
    let steps = steps(&webhook);
    assert_eq!(
        (steps.len(), steps[1].from, steps[2].from),
        (MAX_HISTORY_KEPT, None, Some(Status::Pending))
    );
}

/// The destination answers 429 twice: the first attempt and the second one are told as what they
/// are, and the wait between them without an attempt, too.
#[test]
fn a_refused_attempt_is_told_and_does_not_count() {
    let rules = Rules::default();
    let refused = report(Some(ErrorKind::HttpStatus), Some(429), Some(30));
    let slot = Some(Slot { generation: pace(30).generation(), number: 3 });
    let wait = SlotWait { until: after(700), slot, is_learned: true };
    let claimed = rules.claim(&testing::webhook(start()), ClaimId(1), start()).unwrap();
    let throttled = rules.throttle(&claimed, ClaimId(1), &refused, &wait, start()).unwrap();
    let told = steps(&throttled).pop().unwrap();
    assert_eq!((told.transition, told.attempt), ("defer", Some(1)));
    assert_eq!(
        told.why,
        format!(
            "Attempt 1: the destination answered 429 and asked to wait. The attempt does not \
             count. The next look at its turn is at {}.",
            after(700)
        )
    );
    let budget =
        Explanation::of(&throttled, &Surroundings::default(), &rules, AUDIT_AGE, start()).budget;
    assert_eq!((budget.attempts.used, budget.refused_attempts), (0, 1));
    assert_eq!((budget.paused_ms.used, budget.rate_limited_ms.used), (700_000, 0));
    let max_defer_ms = rules.limits.max_defer.as_millis() as u64;
    let week_ms = 7 * 24 * 3_600_000;
    assert_eq!((budget.paused_ms.of, budget.rate_limited_ms.of), (max_defer_ms, week_ms));

    let later = SlotWait { until: after(900), ..wait };
    let waiting = rules.defer_for_slot(&throttled, &later, after(700)).unwrap();
    let told = steps(&waiting).pop().unwrap();
    assert_eq!(told.attempt, None);
    assert!(told.why.contains("asked for fewer requests"), "{}", told.why);

    let again = rules.claim(&waiting, ClaimId(2), after(900)).unwrap();
    let interrupted = rules.defer_for_slot(&again, &later, after(990));
    let interrupted = interrupted.unwrap();
    let told = steps(&interrupted).pop().unwrap();
    assert!(told.attempt.is_none() && told.why.contains("without an attempt"), "{}", told.why);
}

#[test]
fn a_wait_for_a_configured_rate_names_it() {
    let rules = Rules::default();
    let slot = Some(Slot { generation: "10/1".to_owned(), number: after(3600).as_seconds() * 10 });
    let wait = SlotWait { until: after(3599), slot, is_learned: false };
    let waiting = rules.defer_for_slot(&testing::webhook(start()), &wait, start()).unwrap();
    let told = steps(&waiting).pop().unwrap();
    assert!(told.why.contains("the configured rate of the destination, 10/1s,"), "{}", told.why);
    let limited = Traffic { limit: Some("10/1s".parse().unwrap()), targets: Vec::new() };
    let (by, at, what) = coming_with(&waiting, &limited, start());
    assert_eq!((by, at), (Some("sweep"), Some(after(3599))));
    assert!(what.contains("The configured rate of its host is 10/1s."), "{what}");
    assert!(what.ends_with(&format!("Its slot opens at {}.", after(3600))), "{what}");
    let told = serde_json::to_value(limited.view(&waiting, start())).unwrap();
    assert_eq!(told["slot_opens_at"], after(3600).to_string());
    // A changed rate: the webhook takes a new slot.
    let changed = Traffic { limit: Some("20/1s".parse().unwrap()), targets: Vec::new() };
    assert!(changed.view(&waiting, start()).slot_opens_at.is_none());

    // A deferral for the concurrency limit has no slot.
    let crowded =
        rules.defer(&testing::webhook(start()), after(30), Why::RateLimit, start()).unwrap();
    let told = steps(&crowded).pop().unwrap();
    assert!(told.why.contains("a concurrency limit or the configured rate"), "{}", told.why);
}

/// A webhook looks at its turn a second before its slot opens. Only the latest deferral is told by
/// its rate, because the record has one slot.
#[test]
fn an_attempt_starts_when_its_slot_opens() {
    let rules = Rules::default();
    let wait_until = |seconds: u64| SlotWait {
        until: after(seconds),
        slot: Some(Slot {
            generation: "10/1".to_owned(),
            number: after(seconds + 1).as_seconds() * 10,
        }),
        is_learned: false,
    };
    let waiting =
        rules.defer_for_slot(&testing::webhook(start()), &wait_until(9), start()).unwrap();
    let limited = Traffic { limit: Some("10/1s".parse().unwrap()), targets: Vec::new() };
    let (by, at, what) = coming_with(&waiting, &limited, start());
    assert_eq!((by, at), (Some("deliver"), Some(after(10))));
    assert!(what.contains("Its slot opens at"), "{what}");
    let (_, at, what) = coming_with(&waiting, &limited, after(11));
    assert_eq!(at, None);
    assert!(!what.contains("slot opens"), "{what}");

    let again = rules.defer_for_slot(&waiting, &wait_until(19), after(9)).unwrap();
    let names_rate: Vec<bool> =
        steps(&again).iter().map(|step| step.why.contains("10/1s")).collect();
    assert_eq!(names_rate, [false, false, true]);
}

/// The configured rate bounds the learned one: what is shown of it, and when a slot opens.
#[test]
fn a_learned_rate_is_told_within_the_configured_one() {
    let limited = traffic(url_target().paused(pace(30), start()), Some("1/2s"));
    let slot = Some(Slot { generation: pace(30).generation(), number: 2 });
    let wait = SlotWait { until: after(30), slot, is_learned: true };
    let waiting =
        Rules::default().defer_for_slot(&testing::webhook(start()), &wait, start()).unwrap();
    let told = serde_json::to_value(limited.view(&waiting, after(34))).unwrap();
    assert_eq!(told["targets"][0]["learned_rate"], 0.5);
    assert_eq!(told["targets"][0]["waiting"], 7, "nine are taken, and two have opened");
    assert_eq!(told["slot_opens_at"], after(34).to_string());
}

/// A webhook that waits by a delayed message has an unchanged record.
#[test]
fn a_pending_webhook_that_waits_is_told_what_holds_it_back() {
    let new = testing::webhook(start());
    let (by, at, what) =
        coming_with(&new, &traffic(url_target().paused(pace(30), start()), None), start());
    assert_eq!((by, at), (Some("deliver"), Some(after(30))));
    let paused =
        format!("Its URL is paused until {} because the destination answered 429.", after(30));
    assert!(what.contains(&paused), "{what}");
    assert!(what.ends_with("sends it again with a delay."), "{what}");

    let slowed = traffic(url_target().paused(pace(30), start()), None);
    let (_, at, what) = coming_with(&new, &slowed, after(32));
    assert_eq!(at, None);
    assert!(what.contains("its URL gets requests at a learned rate."), "{what}");
    let told = serde_json::to_value(slowed.view(&new, after(32))).unwrap();
    assert_eq!(told["targets"][0]["learned_rate"], 2.0, "it doubles each 2 s");
    assert_eq!(told["targets"][0]["waiting"], 7, "nine are taken, and two have opened");
    assert!(!what.contains("paused"), "{what}");

    let settings = Settings { failures: 1, ..Settings::default() };
    let open = url_target().failed(1, &settings, start());
    let (by, at, what) = coming_with(&new, &traffic(open.clone(), None), start());
    assert_eq!((by, at), (Some("deliver"), Some(after(30))));
    assert!(what.contains(&format!("circuit of its URL is open until {}.", after(30))), "{what}");
    let (_, at, what) = coming_with(&new, &traffic(open, None), after(31));
    assert_eq!(at, None);
    assert!(what.contains("The circuit of its URL is half-open: one webhook probes it"), "{what}");

    let origin = Target::idle(TargetKey::origin("https://example.com:443"));
    let origin = traffic(origin.opened_for_retries(&settings, start()), None);
    let (_, _, what) = coming_with(&new, &origin, start());
    assert!(what.contains("for webhooks whose latest attempt got a 5xx"), "{what}");
}

/// The later time counts: the end of the wait after an attempt, or of the pause.
#[test]
fn a_pause_can_only_move_the_next_attempt_back() {
    let failing = report(Some(ErrorKind::HttpStatus), Some(500), None);
    let retrying = concluded(&testing::webhook(start()), &failing, start());
    for (pause_s, next_s) in [(30, 30), (2, 5)] {
        let paused = traffic(url_target().paused(pace(pause_s), start()), None);
        let (by, at, what) = coming_with(&retrying, &paused, start());
        assert_eq!((by, at), (Some("deliver"), Some(after(next_s))));
        assert!(what.contains("is paused until"), "{what}");
        assert_eq!(what.contains("with a delay"), pause_s == 30, "{what}");
    }
}
