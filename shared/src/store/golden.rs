//! Samples of everything that is stored, and the golden files that pin their bytes.
//!
//! `shared/golden/schema_1` holds what schema version 1 writes: each shape as JSON, and the rows,
//! keys or items of each backend. `shared/golden/schema_2` holds what applications add. Tests read
//! every file into its sample and write every sample into its file. Compatibility breaks as soon as
//! one of the two fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "the functions serve tests alone"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use serde_json::value::RawValue;

use super::{
    Activity, ClockFault, DeadLetterFilter, DestinationActivity, DueCursor, DuePlace,
    FIRST_OVERLAP, IdState, Reservation, ReserveError, Store, SweepReport, Tombstone,
    shard::SHARDS,
};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId, WebhookId},
    lane::Lane,
    message::Message,
    model::{
        Attempt, Budget, Claim, ClaimId, Content, ErrorKind, Function, LastError, SCHEMA, Step,
        Transition, Webhook, Why,
    },
    queue::{Outgoing, Queue},
    retry_override::RetryOverride,
    status::Status,
    trace::Trace,
};

/// When the samples are written: in 2096, because Redis deletes what its own clock finds expired.
pub const NOW: Timestamp = Timestamp::from_millis(4_000_000_000_000);

/// Set to write the golden files that do not exist yet. An existing file never changes.
const WRITE: &str = "POSTHASTE_WRITE_GOLDEN";

/// A name without a folder is one of schema version 1.
fn path(name: &str) -> PathBuf {
    let folder = if name.contains('/') { "golden" } else { "golden/schema_1" };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder).join(name)
}

/// Whether there is such a golden file.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Panics unless the golden file holds exactly `actual` and a line break.
pub fn check(name: &str, actual: &str) {
    let path = path(name);
    if std::env::var_os(WRITE).is_some() && !path.exists() {
        fs::write(&path, format!("{actual}\n")).unwrap();
    }
    assert_same(name, &read(name), actual);
}

/// Panics unless `actual` is what a golden file holds.
pub fn assert_same(name: &str, golden: &str, actual: &str) {
    let differs = golden.lines().zip(actual.lines()).find(|(golden, actual)| golden != actual);
    assert!(
        golden == actual,
        "what is written is not what {} holds; the first difference: {differs:?}",
        path(name).display()
    );
}

/// The golden file without the line break at its end.
pub fn read(name: &str) -> String {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.strip_suffix('\n').expect("a line break ends a golden file").to_owned()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1000 + 7)
}

/// The task id number `n`.
pub fn task(n: u8) -> TaskId {
    TaskId::mint(NOW, [n, 2, 3, 4, 5, 6, 7, 8, 9, n])
}

/// A record with no optional field.
fn least(n: u8) -> Webhook {
    let task = task(n);
    Webhook {
        schema: SCHEMA,
        revision: 1,
        id: WebhookId::direct(ReferenceId::generated(task), task),
        application: None,
        referenced: false,
        correlation_id: format!("cor-{n}"),
        event_type: None,
        trace: None,
        destination: "https://example.com:443".to_owned(),
        path_hash: None,
        status: Status::Pending,
        created_at: NOW,
        updated_at: NOW,
        allowed_at: Some(NOW),
        due_at: None,
        slot: None,
        claim: None,
        attempt_count: 0,
        budget: Budget::default(),
        retry: None,
        last_error: None,
        attempts: Vec::new(),
        history: vec![step(0, Function::Api, Transition::Create, Status::Pending)],
        delivered_at: None,
        failed_at: None,
        archived_at: None,
        expires_at: None,
    }
}

fn referenced(n: u8) -> Webhook {
    let reference = format!("order-{n}").parse().unwrap();
    Webhook { id: WebhookId::direct(reference, task(n)), referenced: true, ..least(n) }
}

fn step(seconds: i64, function: Function, transition: Transition, to: Status) -> Step {
    Step { at: at(seconds), function, transition, to, attempt: 0, allowed_at: None, why: None }
}

fn attempt(number: u32, error: Option<ErrorKind>) -> Attempt {
    let failed = error.is_some();
    Attempt {
        number,
        started_at: at(i64::from(number)),
        duration_ms: 12,
        error,
        status_code: (error == Some(ErrorKind::HttpStatus)).then_some(503),
        endpoint_revision: None,
        message: failed.then(|| "the destination answered 503".to_owned()),
        response_excerpt: failed.then(|| "try \"later\" – é".to_owned()),
    }
}

fn in_progress() -> Webhook {
    Webhook {
        revision: 2,
        status: Status::InProgress,
        event_type: Some("order.paid".to_owned()),
        trace: Some(Trace {
            id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            sampled: true,
            state: Some("vendor=1".to_owned()),
        }),
        updated_at: at(1),
        allowed_at: Some(at(1)),
        due_at: Some(at(46)),
        claim: Some(Claim { id: ClaimId(u64::MAX), started_at: at(1), lease_until: at(46) }),
        attempt_count: 1,
        retry: Some(RetryOverride {
            max_attempts: Some(5),
            base_delay_ms: Some(1000),
            factor: Some(1.5),
            max_delay_ms: Some(60_000),
            jitter: Some(0.25),
            schedule_ms: Some(vec![5000, 300_000]),
        }),
        ..referenced(2)
    }
}

/// Every field of a budget differs from the others.
fn used_budget() -> Budget {
    Budget {
        attempts: 1,
        interrupted: 2,
        relays: 3,
        requeues: 4,
        rescues: 5,
        deferrals: 6,
        deferred_ms: 7,
        host_deferred_ms: 8,
        rescued_revision: 9,
        unworked_rescues: 10,
        ..Budget::default()
    }
}

/// Every kind of error, step, reason and function of schema version 1 occurs. The list stays as it
/// is: a kind that is added later gets a sample and a golden file of its own.
fn retrying() -> Webhook {
    let errors = [
        ErrorKind::HttpStatus,
        ErrorKind::Network,
        ErrorKind::Timeout,
        ErrorKind::Tls,
        ErrorKind::RefusedAddress,
        ErrorKind::Interrupted,
        ErrorKind::CircuitOpen,
        ErrorKind::Undeliverable,
    ];
    let steps = [
        (Function::Api, Transition::Create, None),
        (Function::Deliver, Transition::Claim, Some(Why::LeaseOver)),
        (Function::Deliver, Transition::Retry, Some(Why::RetryAfter)),
        (Function::Deliver, Transition::Defer, Some(Why::RateLimit)),
        (Function::Deliver, Transition::Defer, Some(Why::Error(ErrorKind::CircuitOpen))),
        (Function::Sweep, Transition::Requeue, Some(Why::Scheduled)),
        (Function::Sweep, Transition::Adopt, Some(Why::Audit)),
        (Function::Dlq, Transition::Adopt, Some(Why::Rescue)),
        (Function::Api, Transition::Adopt, Some(Why::Unsent)),
        (Function::Deliver, Transition::Deliver, None),
        (Function::Deliver, Transition::Fail, Some(Why::Error(ErrorKind::HttpStatus))),
        (Function::Dlq, Transition::Archive, None),
        (Function::Api, Transition::Resend, None),
        (Function::Api, Transition::Redrive, None),
    ];
    let history = steps.into_iter().zip(1..).map(|((function, transition, why), number)| Step {
        attempt: number,
        allowed_at: Some(at(60)),
        why,
        ..step(i64::from(number), function, transition, Status::Retrying)
    });
    Webhook {
        revision: 40,
        status: Status::Retrying,
        updated_at: at(20),
        allowed_at: Some(at(60)),
        due_at: Some(at(960)),
        attempt_count: 8,
        budget: used_budget(),
        last_error: Some(LastError {
            kind: ErrorKind::HttpStatus,
            status_code: Some(503),
            message: "the destination answered 503".to_owned(),
        }),
        attempts: errors
            .into_iter()
            .zip(1..)
            .map(|(kind, number)| attempt(number, Some(kind)))
            .collect(),
        history: history.collect(),
        ..referenced(3)
    }
}

fn delivered() -> Webhook {
    Webhook {
        revision: 3,
        status: Status::Delivered,
        updated_at: at(2),
        allowed_at: None,
        attempt_count: 1,
        budget: Budget { attempts: 1, ..Budget::default() },
        attempts: vec![attempt(1, None)],
        delivered_at: Some(at(2)),
        expires_at: Some(at(30 * 24 * 3600)),
        ..referenced(4)
    }
}

fn dead_letter() -> Webhook {
    Webhook {
        revision: 5,
        status: Status::Failed,
        updated_at: at(4),
        allowed_at: None,
        attempt_count: 1,
        last_error: Some(LastError {
            kind: ErrorKind::Timeout,
            status_code: None,
            message: "no answer within 30 s".to_owned(),
        }),
        failed_at: Some(at(3)),
        archived_at: Some(at(4)),
        expires_at: Some(at(30 * 24 * 3600)),
        ..referenced(5)
    }
}

/// A record of each status, by the name of its golden file.
pub fn records() -> [(&'static str, Webhook); 5] {
    [
        ("record_pending.json", least(1)),
        ("record_in_progress.json", in_progress()),
        ("record_retrying.json", retrying()),
        ("record_delivered.json", delivered()),
        ("record_dead_letter.json", dead_letter()),
    ]
}

/// What a record carries: small, except that the dead letter's payload does not compress.
pub fn content(webhook: &Webhook) -> Content {
    let mut state = 1_u32;
    let mut digits = String::new();
    while webhook.status == Status::Failed && digits.len() < 3000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        digits += &(state >> 8).to_string();
    }
    let headers = [("x-tenant", "7"), ("x-text", "\"quoted\", é")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Content {
        url: format!("https://example.com/hooks/{}?a=b", webhook.id.reference),
        headers: if webhook.referenced { headers.to_vec() } else { Vec::new() },
        payload: RawValue::from_string(format!("{{\"n\": 1.0, \"digits\":\"{digits}\"}}")).unwrap(),
    }
}

/// A message of each kind, by the name of its golden file.
pub fn messages() -> [(&'static str, Message); 3] {
    let webhook = in_progress();
    [
        ("message_look_at.json", Message::look_at(webhook.id.clone())),
        ("message_with_seen.json", Message::with_seen(&webhook)),
        ("message_archive.json", Message::archive(webhook.id)),
    ]
}

/// A place of each kind.
pub fn due_cursor() -> DueCursor {
    let after = DuePlace::After { due_at: at(46), name: "order-2".to_owned() };
    DueCursor::new(vec![DuePlace::Start, after, DuePlace::End])
}

/// A reservation of each kind, by the name of its golden file.
pub fn reservations() -> [(&'static str, Reservation); 2] {
    let fresh = Reservation {
        task: task(6),
        settled: Vec::new(),
        fingerprint: "3a".repeat(32),
        answer: None,
        expires_at: at(24 * 3600),
    };
    let answered = Reservation {
        settled: vec![None, Some(task(7))],
        answer: Some(r#"{"webhook_id":"é"}"#.to_owned()),
        ..fresh.clone()
    };
    [("reservation_fresh.json", fresh), ("reservation_answered.json", answered)]
}

/// A report with the fields that are always there, and one with every field.
pub fn sweep_reports() -> [(&'static str, SweepReport); 2] {
    let least =
        SweepReport { ran_at: NOW, lag_ms: 5, counts: [1, 2, 3, 4, 5], ..Default::default() };
    // Versions before applications knew the parts of schema 1 alone.
    let left = DuePlace::After { due_at: at(3), name: String::new() };
    let left = DueCursor::new(vec![left; usize::from(SHARDS)]);
    let full = SweepReport {
        unreadable: 6,
        unreadable_may_be_more: true,
        resume: Some(due_cursor()),
        began_at: Some(at(1)),
        clock_fault: Some(ClockFault { found_at: at(2), ahead_ms: 3_600_000, left: Some(left) }),
        ..least.clone()
    };
    [("sweep_report_least.json", least), ("sweep_report_full.json", full)]
}

/// The report after the search for entries of a clock that was ahead.
pub fn searched_sweep_report() -> SweepReport {
    let [(_, least), _] = sweep_reports();
    let fault = ClockFault { found_at: at(2), ahead_ms: 3_600_000, left: None };
    SweepReport { clock_fault: Some(fault), ..least }
}

/// What one invocation counted.
pub fn activity() -> Activity {
    let error = LastError {
        kind: ErrorKind::HttpStatus,
        status_code: Some(503),
        message: "the destination answered 503".to_owned(),
    };
    let failing = DestinationActivity {
        delivered: 1,
        failed: 2,
        waiting: 3,
        last_error: Some((at(30), error)),
    };
    let well = DestinationActivity { delivered: 4, ..DestinationActivity::default() };
    Activity {
        counters: BTreeMap::from([("delivered".to_owned(), 5), ("failed".to_owned(), 2)]),
        destinations: BTreeMap::from([
            ("https://down.example.com:443".to_owned(), failing),
            ("https://example.com:443".to_owned(), well),
        ]),
    }
}

/// A webhook that [`write_all`] deletes, one that it never creates, and the tombstone of each.
pub fn tombstones() -> [(WebhookId, Tombstone); 2] {
    let reference = least(1).id.reference;
    [(8, Tombstone::Deleted), (9, Tombstone::Unused)]
        .map(|(n, why)| (WebhookId::direct(reference.clone(), task(n)), why))
}

/// Writes the samples to the store and the queue. Their clock must say [`NOW`].
pub async fn write_all(store: &dyn Store, queue: &dyn Queue) {
    for (_, record) in records() {
        store.create(&record, &content(&record)).await.unwrap();
    }
    let [(deleted, _), (unused, _)] = tombstones();
    let webhook = Webhook { id: deleted, ..least(1) };
    store.create(&webhook, &content(&webhook)).await.unwrap();
    store.delete(&webhook.id).await.unwrap();
    store.tombstone_id(&unused).await.unwrap();
    store.advance_audit(None, NOW).await.unwrap();
    for (_, report) in sweep_reports() {
        store.report_sweep(&report).await.unwrap();
    }
    for (name, reservation) in reservations() {
        store.reserve(name, &reservation).await.unwrap();
    }
    store.add_activity(&activity(), NOW).await.unwrap();
    for (lane, body) in bodies() {
        let message = Outgoing { body, delay: Duration::ZERO, group: "g".to_owned() };
        queue.send(lane, &[message]).await.unwrap();
    }
}

/// The bodies of the messages in each lane.
fn bodies() -> [(Lane, String); 3] {
    let [look_at, with_seen, archive] = messages().map(|(_, message)| message.to_json());
    [(Lane::Webhooks, look_at), (Lane::Webhooks, with_seen), (Lane::DeadLetters, archive)]
}

/// Panics unless store and queue read everything that [`write_all`] writes, in every way. Receives
/// the messages.
pub async fn assert_all_read(store: &dyn Store, queue: &dyn Queue) {
    for (name, record) in records() {
        let read = store.open(&record.id).await.unwrap().unwrap();
        assert_eq!(read, (record.clone(), content(&record)), "{name}");
    }
    for (id, why) in tombstones() {
        assert_eq!(store.tombstone_id(&id).await.unwrap(), IdState::Tombstone(why));
    }
    assert_eq!(store.counts().await.unwrap(), [1; 5]);
    let due = store.due(NOW.plus(Duration::from_secs(3600)), None, 10).await.unwrap();
    assert_eq!(due.entries.len(), 2);
    assert_eq!(store.dead_letters(&DeadLetterFilter::All, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(
        store.audited_until().await.unwrap(),
        Some(NOW.minus(FIRST_OVERLAP)),
        "no version before applications audited messages"
    );
    let [_, (_, report)] = sweep_reports();
    assert_eq!(store.last_sweep().await.unwrap(), Some(report));
    for (name, reservation) in reservations() {
        let another = Reservation { task: task(9), ..reservation.clone() };
        let taken = store.reserve(name, &another).await;
        assert!(
            matches!(&taken, Err(ReserveError::Taken(found)) if found.reservation == reservation),
            "{name}: {taken:?}"
        );
    }
    let activity = activity();
    assert_eq!(store.counters().await.unwrap(), activity.counters);
    let destinations = store.destinations(NOW).await.unwrap().into_iter();
    let destinations = destinations.map(|one| (one.destination, one.activity));
    assert_eq!(destinations.collect::<BTreeMap<_, _>>(), activity.destinations);
    for lane in Lane::ALL {
        assert_received(queue, lane).await;
    }
}

/// Panics unless the lane holds exactly its samples, each received for the first time.
async fn assert_received(queue: &dyn Queue, lane: Lane) {
    let expected: BTreeSet<(String, u32, Timestamp)> = bodies()
        .into_iter()
        .filter(|(of, _)| *of == lane)
        .map(|(_, body)| (body, 1, NOW))
        .collect();
    assert_eq!(queue.depth(lane).await.unwrap().ready, expected.len() as u64);
    let received = queue.receive(lane, 10, Duration::ZERO, Duration::ZERO).await.unwrap();
    assert_eq!(received.len(), expected.len(), "{received:?}");
    let received = received.into_iter().map(|one| (one.body, one.receives, one.sent_at));
    assert_eq!(received.collect::<BTreeSet<_>>(), expected);
}

pub mod applications;
#[cfg(test)]
mod previous_release;
#[cfg(test)]
mod tests;
mod traffic;

pub use traffic::{assert_targets_read, counters, rate_limited, targets, throttled, write_targets};
