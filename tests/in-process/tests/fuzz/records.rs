//! What is stored and what is queued: read as it was written, and every rule takes any record that
//! can be read.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::value::RawValue;
use shared::{
    circuit::{Admission, Settings, State},
    clock::{Clock, SystemClock, Timestamp},
    message::{InvalidMessage, Message},
    model::{ClaimId, Content, ErrorKind, Function, InvalidRecord, SCHEMA, Webhook, Why},
    retry::Outcome,
    status::Status,
    store::{CreateError, DeleteError},
    traffic::{
        pace::{Pace, Refusal as Refused},
        slots::Rate,
        target::Target,
    },
    transition::{Refusal, Report, Rules, next_look},
};

use crate::{
    api::{Api, URL},
    engine,
};

const WORDS: [&str; 20] = [
    "\"v\":",
    "\"r\":",
    "\"id\":",
    "\"s\":",
    "\"at\":",
    "\"due\":",
    "\"cl\":",
    "\"b\":",
    "\"ro\":",
    "\"as\":",
    "\"h\":",
    "\"x\":",
    "pending",
    "in_progress",
    "retrying",
    "delivered",
    "failed",
    "\"webhook_id\":",
    "\"seen\":",
    "\"archive\":true",
];

/// A record: the oldest schema there is, and any that is not newer than this code.
#[test]
fn webhooks() {
    let api = Api::start();
    engine::run(bolero::check!(), "records__webhooks", &WORDS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let record = match Webhook::from_json(text) {
            Ok(record) => record,
            Err(InvalidRecord::TooNew { found }) => return assert!(found > SCHEMA),
            Err(InvalidRecord::Malformed(_)) => return,
        };
        assert!(record.schema <= SCHEMA);
        assert_eq!(
            Webhook::from_json(&record.to_json()).unwrap(),
            record,
            "it is read as it is written"
        );
        judge_rules(&record);
        judge_shown(&api, &record);
    });
}

/// Every transition is granted or refused, and what is granted is a record that is worth writing.
fn judge_rules(record: &Webhook) {
    let rules = Rules::default();
    for now in
        [record.created_at, next_look(record), SystemClock.now(), Timestamp::from_millis(i64::MAX)]
    {
        let claim = record.claim.as_ref().map_or(ClaimId(1), |claim| claim.id);
        let outcome = Outcome {
            error: Some(ErrorKind::HttpStatus),
            status_code: Some(503),
            retry_after: Some(Duration::MAX),
        };
        let report =
            Report { outcome, duration: Duration::MAX, message: None, response_excerpt: None };
        let granted: [Result<Webhook, Refusal>; 11] = [
            rules.claim(record, ClaimId(7), now),
            rules.conclude(record, claim, &report, now, 0.5),
            rules.give_up(record, shared::transition::GiveUp::Unreadable, Function::Dlq, now),
            rules.defer(record, now.plus(Duration::from_secs(30)), Why::RateLimit, now),
            rules.requeue(record, record.due_at.unwrap_or(now), now),
            rules.adopt(record, now, (Function::Api, Why::Unsent), now),
            rules.audit(record, now),
            rules.rescue(record, now),
            rules.archive(record, now),
            rules.resend(record, now),
            rules.redrive(record, now),
        ];
        for next in granted.into_iter().flatten() {
            assert!(
                next.revision > record.revision.min(u64::MAX - 1) && next.id == record.id,
                "{record:?} -> {next:?}"
            );
            assert!(
                is_claimed_rightly(&next) || !is_claimed_rightly(record),
                "{record:?} -> {next:?}"
            );
            assert_eq!(Webhook::from_json(&next.to_json()).unwrap(), next);
        }
    }
}

/// A claim is there while an attempt is made.
fn is_claimed_rightly(record: &Webhook) -> bool {
    record.claim.is_some() == (record.status == Status::InProgress)
}

/// What is stored can be asked for, and be deleted.
fn judge_shown(api: &Api, record: &Webhook) {
    let content = Content {
        url: URL.to_owned(),
        headers: Vec::new(),
        payload: RawValue::from_string("1".to_owned()).unwrap(),
    };
    match api.wait(api.context.store.create(record, &content)) {
        Ok(()) => {}
        Err(CreateError::Conflict(_) | CreateError::Tombstone(_)) => return,
        // Databases count to 2^63.
        Err(CreateError::Store(error)) => {
            return assert!(i64::try_from(record.revision).is_err(), "{record:?}: {error:?}");
        }
    }
    let id = &record.id;
    for path in [
        format!("/webhook-status/{id}"),
        format!("/webhooks/{id}/explain"),
        format!("/dead-letters/{id}"),
    ] {
        api.get(&path);
    }
    for path in ["/webhook-statuses", "/dead-letters", "/destinations", "/health", "/metrics"] {
        api.get(path);
    }
    api.call(Request::delete(format!("/webhook-status/{id}")).body(Body::empty()).unwrap());
    let deleted = api.wait(api.context.store.delete(id));
    assert!(matches!(deleted, Ok(()) | Err(DeleteError::Missing)), "{deleted:?}");
}

/// A queue message.
#[test]
fn messages() {
    engine::run(bolero::check!(), "records__messages", &WORDS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let message = match Message::from_json(text) {
            Ok(message) => message,
            Err(InvalidMessage::TooNew { found }) => return assert!(found > SCHEMA),
            Err(InvalidMessage::Malformed(_)) => return,
        };
        assert!(message.v <= SCHEMA);
        let is_usable = |seen: &Webhook| {
            seen.id == message.webhook_id && seen.schema <= SCHEMA && seen.expires_at.is_none()
        };
        assert!(message.seen.as_ref().is_none_or(|seen| is_usable(seen)));
        let again = Message::from_json(&message.to_json()).unwrap();
        assert_eq!(again.webhook_id, message.webhook_id);
        // A large record is left out, and with it nothing else.
        assert!(again.seen == message.seen || again.seen.is_none());
    });
}

/// A target as workers share it: its circuit and its pace.
#[test]
fn targets() {
    let settings = Settings::default();
    let words = [
        "\"k\":", "\"r\":", "\"c\":", "\"f\":", "\"o\":", "\"u\":", "\"p\":", "\"t\":", "\"s\":",
        "\"g\":",
    ];
    engine::run(bolero::check!(), "records__targets", &words, |bytes| {
        let Ok(target) = serde_json::from_slice::<Target>(bytes) else { return };
        for now in [
            target.touched_at,
            Timestamp::from_millis(0),
            SystemClock.now(),
            Timestamp::from_millis(i64::MAX),
        ] {
            let refusal = Refused {
                attempt_started_at: now,
                status_code: 429,
                retry_after: Some(Duration::from_secs(5)),
            };
            let pace = target.pace(now);
            let refused = Pace::after_refusal(pace, &refusal, Duration::MAX, None, now);
            let next = [
                target.probed(&settings, now),
                target.released(now),
                target.failed(1, &settings, now),
                target.opened_for_retries(&settings, now),
                target.succeeded(now),
                refused.map_or_else(|| target.succeeded(now), |pace| target.paused(pace, now)),
            ];
            for next in next {
                assert!(next.revision > target.revision.min(u64::MAX - 1), "{next:?}");
                assert_eq!(
                    next.circuit.admit(now) == Admission::Go,
                    next.circuit.state(now) == State::Closed,
                    "{next:?}"
                );
                check_rate(&next, now);
            }
            check_rate(&target, now);
            if let Admission::Wait(until) = target.circuit.admit(now) {
                assert!(until > now, "a wait ends later");
            }
        }
    });
}

/// No stored pace makes the arithmetic panic, and a webhook that waits is looked at later.
fn check_rate(target: &Target, now: Timestamp) {
    let Some(rate) = Rate::of(target.pace(now), None, now) else { return };
    let take = rate.take(1, false, now);
    for slot in [take.floor, take.floor.saturating_add(1), i64::MIN, i64::MAX] {
        rate.opens_at(slot);
        rate.is_late(slot, now);
        assert!(rate.look_at(slot, now, 0.5) >= now);
    }
}
