//! Every starting record against every event: either the exact refusal, or the resulting status and
//! times.
//!
//! A row names each event exactly once, so a new event or a new kind of record cannot be forgotten.

use std::time::Duration;

use super::{NOW, answered, at, rules};
use crate::{
    clock::Timestamp,
    id::TaskId,
    model::{Budget, ClaimId, Function, Transition, Webhook, Why},
    status::Status::{self, Delivered, Failed, InProgress, Pending, Retrying},
    transition::{
        Refusal::{
            self, Archived, BudgetSpent, DueMoved, Expired, Finished, Held, Interrupted, Leased,
            NotFailed, NotOurClaim, NotYet, OnItsWay,
        },
        testing::new_webhook,
    },
};

/// The claim of the records in progress.
const OURS: ClaimId = ClaimId(7);
const FOREIGN: ClaimId = ClaimId(8);
/// The grace in seconds.
const GRACE: i64 = 900;
const DAYS_30: i64 = 30 * 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Claim,
    Ok,
    Retry,
    Fail,
    ForeignOk,
    ForeignRetry,
    ForeignFail,
    GiveUp,
    Defer,
    Requeue,
    RequeueWrong,
    AdoptNow,
    AdoptLate,
    Audit,
    Rescue,
    Archive,
    Resend,
    Redrive,
}

use Event::{
    AdoptLate, AdoptNow, Archive, Audit, Claim, Defer, Fail, ForeignFail, ForeignOk, ForeignRetry,
    GiveUp, Ok as Success, Redrive, Requeue, RequeueWrong, Rescue, Resend, Retry,
};

const ALL: [Event; 18] = [
    Claim,
    Success,
    Retry,
    Fail,
    ForeignOk,
    ForeignRetry,
    ForeignFail,
    GiveUp,
    Defer,
    Requeue,
    RequeueWrong,
    AdoptNow,
    AdoptLate,
    Audit,
    Rescue,
    Archive,
    Resend,
    Redrive,
];
const OUTCOMES: [Event; 6] = [Success, Retry, Fail, ForeignOk, ForeignRetry, ForeignFail];
const FOREIGN_OUTCOMES: [Event; 3] = [ForeignOk, ForeignRetry, ForeignFail];
const MOVES: [Event; 5] = [GiveUp, Defer, AdoptNow, AdoptLate, Rescue];

/// Applies the event to the record at [`NOW`].
fn happen(event: Event, record: &Webhook) -> Result<Webhook, Refusal> {
    let rules = rules();
    let due_at = record.due_at.unwrap_or(NOW);
    match event {
        Claim => rules.claim(record, ClaimId(9), NOW),
        Success => rules.conclude(record, OURS, &answered(200), NOW, 0.5),
        Retry => rules.conclude(record, OURS, &answered(500), NOW, 0.5),
        Fail => rules.conclude(record, OURS, &answered(410), NOW, 0.5),
        ForeignOk => rules.conclude(record, FOREIGN, &answered(200), NOW, 0.5),
        ForeignRetry => rules.conclude(record, FOREIGN, &answered(500), NOW, 0.5),
        ForeignFail => rules.conclude(record, FOREIGN, &answered(410), NOW, 0.5),
        GiveUp => rules.give_up(record, crate::transition::GiveUp::Unreadable, Function::Dlq, NOW),
        Defer => rules.defer(record, at(30), Why::RateLimit, NOW),
        Requeue => rules.requeue(record, due_at, NOW),
        RequeueWrong => rules.requeue(record, due_at.plus(Duration::from_millis(1)), NOW),
        AdoptNow => rules.adopt(record, NOW, (Function::Api, Why::Unsent), NOW),
        AdoptLate => rules.adopt(record, at(7 * DAYS_30), (Function::Api, Why::Unsent), NOW),
        Audit => rules.audit(record, NOW),
        Rescue => rules.rescue(record, NOW),
        Archive => rules.archive(record, NOW),
        Resend => rules.resend(record, NOW),
        Redrive => rules.redrive(record, NOW),
    }
}

/// The event's name in the record's history.
fn noted_as(event: Event) -> Transition {
    match event {
        Claim => Transition::Claim,
        Success | ForeignOk => Transition::Deliver,
        Retry | ForeignRetry => Transition::Retry,
        Fail | ForeignFail | GiveUp => Transition::Fail,
        Defer => Transition::Defer,
        Requeue | RequeueWrong => Transition::Requeue,
        AdoptNow | AdoptLate | Audit | Rescue => Transition::Adopt,
        Archive => Transition::Archive,
        Resend => Transition::Resend,
        Redrive => Transition::Redrive,
    }
}

/// The expectation of a cell. Times are in seconds from [`NOW`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Refused(Refusal),
    Becomes {
        status: Status,
        due: Option<Timestamp>,
        allowed: Option<Timestamp>,
        expires: Option<Timestamp>,
    },
}

const fn no(refusal: Refusal) -> Cell {
    Cell::Refused(refusal)
}

/// An unfinished record: allowed at a time, and due at a time or in no index.
fn goes_on(status: Status, allowed: i64, due: Option<i64>) -> Cell {
    Cell::Becomes { status, due: due.map(at), allowed: Some(at(allowed)), expires: None }
}

/// Delivered at [`NOW`].
fn delivered_now() -> Cell {
    Cell::Becomes { status: Delivered, due: None, allowed: None, expires: Some(at(DAYS_30)) }
}

/// Failed, and due for archiving `due` seconds later.
fn failed(due: i64) -> Cell {
    Cell::Becomes { status: Failed, due: Some(at(due)), allowed: None, expires: None }
}

fn archived_now() -> Cell {
    Cell::Becomes { status: Failed, due: None, allowed: None, expires: Some(at(DAYS_30)) }
}

fn check(name: &str, record: &Webhook, cells: &[(&[Event], Cell)]) {
    for event in ALL {
        let named: Vec<Cell> = cells
            .iter()
            .filter(|(events, _)| events.contains(&event))
            .map(|(_, cell)| *cell)
            .collect();
        let [expected] = named.as_slice() else {
            panic!("{name} × {event:?} stands {} times in the table", named.len())
        };
        let result = happen(event, record);
        let found = match &result {
            Err(refusal) => no(*refusal),
            Ok(next) => Cell::Becomes {
                status: next.status,
                due: next.due_at,
                allowed: next.allowed_at,
                expires: next.expires_at,
            },
        };
        assert_eq!(found, *expected, "{name} × {event:?}");
        let Ok(next) = result else { continue };
        assert_eq!(
            (next.revision, next.updated_at),
            (record.revision + 1, NOW),
            "{name} × {event:?}"
        );
        let step = next.history.last().unwrap();
        assert_eq!(
            (step.transition, step.to, step.at),
            (noted_as(event), next.status, NOW),
            "{name} × {event:?}"
        );
        assert_eq!(
            (next.claim.is_some(), &next.id),
            (next.status == InProgress, &record.id),
            "{name} × {event:?}"
        );
    }
}

// ----- the records

fn pending() -> Webhook {
    let created = at(-3600);
    rules().create(new_webhook(TaskId::mint(created, [1; 10])), created)
}

/// Accepted with a schedule in an hour.
fn scheduled() -> Webhook {
    let mut new = new_webhook(TaskId::mint(at(-3600), [1; 10]));
    new.deliver_at = Some(at(3600));
    rules().create(new, at(-3600))
}

fn held(due: i64) -> Webhook {
    rules().adopt(&pending(), at(due), (Function::Api, Why::Unsent), at(-3600)).unwrap()
}

/// Claimed by us this many seconds ago. The lease is 45 s.
fn claimed(record: &Webhook, seconds_ago: i64) -> Webhook {
    rules().claim(record, OURS, at(-seconds_ago)).unwrap()
}

fn with_budget(record: Webhook, budget: Budget) -> Webhook {
    Webhook { budget, ..record }
}

/// Waits since an attempt this many seconds ago with status 500. Allowed 5 s after that.
fn retrying(seconds_ago: i64) -> Webhook {
    rules()
        .conclude(&claimed(&pending(), seconds_ago), OURS, &answered(500), at(-seconds_ago), 0.5)
        .unwrap()
}

fn delivered(seconds_ago: i64) -> Webhook {
    let record =
        rules().create(new_webhook(TaskId::mint(at(-seconds_ago), [1; 10])), at(-seconds_ago));
    rules()
        .conclude(&claimed(&record, seconds_ago), OURS, &answered(200), at(-seconds_ago), 0.5)
        .unwrap()
}

fn failed_before(seconds_ago: i64) -> Webhook {
    let record =
        rules().create(new_webhook(TaskId::mint(at(-seconds_ago), [1; 10])), at(-seconds_ago));
    rules()
        .conclude(&claimed(&record, seconds_ago), OURS, &answered(410), at(-seconds_ago), 0.5)
        .unwrap()
}

fn archived(seconds_ago: i64) -> Webhook {
    rules().archive(&failed_before(seconds_ago), at(-seconds_ago)).unwrap()
}

// ----- the rows

/// A pending webhook: in no index, in the index early and late, and scheduled. No worker can write
/// an outcome for it.
#[test]
fn pending_against_every_event() {
    let common: [(&[Event], Cell); 5] = [
        (&OUTCOMES, no(NotOurClaim)),
        (&[GiveUp], failed(GRACE)),
        (&[RequeueWrong], no(DueMoved)),
        (&[Archive, Redrive], no(NotFailed)),
        (&[Resend], no(OnItsWay)),
    ];
    let row = |name, record: &Webhook, cells: &[(&[Event], Cell)]| {
        check(name, record, &[&common, cells].concat());
    };
    let past = -3600;
    row(
        "pending",
        &pending(),
        &[
            (&[Claim], goes_on(InProgress, past, None)),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], no(DueMoved)),
            (&[AdoptNow, Rescue], goes_on(Pending, past, Some(0))),
            (&[AdoptLate], goes_on(Pending, past, Some(7 * DAYS_30))),
            (&[Audit], goes_on(Pending, past, Some(GRACE))),
        ],
    );
    row(
        "pending, due in 100 s",
        &held(100),
        &[
            (&[Claim], goes_on(InProgress, past, Some(100))),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], goes_on(Pending, past, Some(GRACE))),
            (&[AdoptNow, Rescue], goes_on(Pending, past, Some(0))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    row(
        "pending, due a while ago",
        &held(-100),
        &[
            (&[Claim], goes_on(InProgress, past, Some(-100))),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], goes_on(Pending, past, Some(GRACE))),
            (&[Rescue], goes_on(Pending, past, Some(0))),
            (&[AdoptNow, AdoptLate, Audit], no(Held)),
        ],
    );
    row(
        "scheduled in an hour",
        &scheduled(),
        &[
            (&[Claim, Defer], no(NotYet(at(3600)))),
            (&[Requeue], goes_on(Pending, 3600, Some(3600 + GRACE))),
            (&[AdoptNow], goes_on(Pending, 3600, Some(0))),
            (&[Rescue], goes_on(Pending, 3600, Some(3600))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    let spent = with_budget(
        pending(),
        Budget { rescues: 3, host_deferred_ms: 24 * 3600 * 1000 - 29_999, ..Budget::default() },
    );
    row(
        "pending, rescues and deferrals spent",
        &spent,
        &[
            (&[Claim], goes_on(InProgress, past, None)),
            (&[Defer], no(BudgetSpent)),
            (&[Requeue], no(DueMoved)),
            (&[AdoptNow, Rescue], goes_on(Pending, past, Some(0))),
            (&[AdoptLate], goes_on(Pending, past, Some(7 * DAYS_30))),
            (&[Audit], goes_on(Pending, past, Some(GRACE))),
        ],
    );
}

/// A webhook with an attempt in flight, or with one whose worker is lost. Only our claim writes an
/// outcome, even after its lease if no other worker claimed. While the lease is live, every other
/// event is refused.
#[test]
fn in_progress_against_every_event() {
    let past = -3600;
    let common: [(&[Event], Cell); 7] = [
        (&FOREIGN_OUTCOMES, no(NotOurClaim)),
        (&[Success], delivered_now()),
        (&[Fail], failed(GRACE)),
        (&[Retry], goes_on(Retrying, 5, Some(5 + GRACE))),
        (&[RequeueWrong], no(DueMoved)),
        (&[Archive, Redrive], no(NotFailed)),
        (&[Resend], no(OnItsWay)),
    ];
    let row = |name, record: &Webhook, cells: &[(&[Event], Cell)]| {
        check(name, record, &[&common, cells].concat());
    };
    let list_unindexed: [(&[Event], Cell); 4] = [
        (&[Requeue], no(DueMoved)),
        (&[AdoptNow], goes_on(InProgress, past, Some(0))),
        (&[AdoptLate], goes_on(InProgress, past, Some(7 * DAYS_30))),
        (&[Audit], goes_on(InProgress, past, Some(GRACE))),
    ];
    let live: [(&[Event], Cell); 2] = [
        (&[Claim, GiveUp, Defer], no(Leased(at(35)))),
        (&[Rescue], goes_on(InProgress, past, Some(35))),
    ];
    row("lease live", &claimed(&pending(), 10), &[&live[..], &list_unindexed].concat());
    let rescued_often =
        with_budget(claimed(&pending(), 10), Budget { rescues: 3, ..Budget::default() });
    row("lease live, rescues spent", &rescued_often, &[&live[..], &list_unindexed].concat());
    row(
        "lease live, due",
        &claimed(&held(-20), 10),
        &[
            &live[..],
            &[
                (&[Requeue], goes_on(InProgress, past, Some(35 + GRACE))),
                (&[AdoptNow, AdoptLate, Audit], no(Held)),
            ],
        ]
        .concat(),
    );
    row(
        "lease over",
        &claimed(&pending(), 45),
        &[
            &list_unindexed[..],
            &[
                (&[Claim], goes_on(InProgress, past, None)),
                (&[GiveUp], failed(GRACE)),
                (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
                (&[Rescue], goes_on(InProgress, past, Some(0))),
            ],
        ]
        .concat(),
    );
    row(
        "lease over, due",
        &claimed(&held(-100), 45),
        &[
            (&[Claim], goes_on(InProgress, past, Some(-100))),
            (&[GiveUp], failed(GRACE)),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Rescue], goes_on(InProgress, past, Some(0))),
            (&[Requeue], goes_on(InProgress, past, Some(GRACE))),
            (&[AdoptNow, AdoptLate, Audit], no(Held)),
        ],
    );
    let spent = with_budget(
        claimed(&pending(), 45),
        Budget { interrupted: 4, rescues: 3, ..Budget::default() },
    );
    row(
        "lease over, interruptions and rescues spent",
        &spent,
        &[
            &list_unindexed[..],
            &[
                (&[Claim, Defer], no(Interrupted)),
                (&[Rescue], no(BudgetSpent)),
                (&[GiveUp], failed(GRACE)),
            ],
        ]
        .concat(),
    );
}

/// The last attempt that the policy grants ends the webhook, whatever the earlier outcomes were.
#[test]
fn the_last_granted_attempt_fails_it() {
    for (used, status_code, expected) in [
        (0, 500, goes_on(Retrying, 5, Some(5 + GRACE))),
        (1, 500, goes_on(Retrying, 10, Some(10 + GRACE))),
        (2, 500, failed(GRACE)),
        (0, 404, goes_on(Retrying, 5, Some(5 + GRACE))),
        (1, 404, failed(GRACE)),
        (2, 404, failed(GRACE)),
    ] {
        let record =
            with_budget(claimed(&pending(), 10), Budget { attempts: used, ..Budget::default() });
        let next = rules().conclude(&record, OURS, &answered(status_code), NOW, 0.5).unwrap();
        let found = Cell::Becomes {
            status: next.status,
            due: next.due_at,
            allowed: next.allowed_at,
            expires: next.expires_at,
        };
        assert_eq!(found, expected, "{status_code} after {used} attempts");
    }
}

/// A waiting webhook: no attempt and no outcome before its time. It stays in the due index.
#[test]
fn retrying_against_every_event() {
    let common: [(&[Event], Cell); 5] = [
        (&OUTCOMES, no(NotOurClaim)),
        (&[GiveUp], failed(GRACE)),
        (&[RequeueWrong], no(DueMoved)),
        (&[Archive, Redrive], no(NotFailed)),
        (&[Resend], no(OnItsWay)),
    ];
    let row = |name, record: &Webhook, cells: &[(&[Event], Cell)]| {
        check(name, record, &[&common, cells].concat());
    };
    row(
        "allowed, queued by deliver",
        &retrying(10),
        &[
            (&[Claim], goes_on(InProgress, -5, Some(GRACE - 5))),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], goes_on(Retrying, -5, Some(GRACE))),
            (&[AdoptNow, Rescue], goes_on(Retrying, -5, Some(0))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    row(
        "allowed this moment",
        &retrying(5),
        &[
            (&[Claim], goes_on(InProgress, 0, Some(GRACE))),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], goes_on(Retrying, 0, Some(GRACE))),
            (&[AdoptNow, Rescue], goes_on(Retrying, 0, Some(0))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    row(
        "allowed in 5 s",
        &retrying(0),
        &[
            (&[Claim], no(NotYet(at(5)))),
            (&[Defer], goes_on(Retrying, 30, Some(30 + GRACE))),
            (&[Requeue], goes_on(Retrying, 5, Some(5 + GRACE))),
            (&[AdoptNow], goes_on(Retrying, 5, Some(0))),
            (&[Rescue], goes_on(Retrying, 5, Some(5))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    let put_off = rules().defer(&pending(), at(3600), Why::RateLimit, at(-60)).unwrap();
    row(
        "allowed in an hour, the sweep's",
        &put_off,
        &[
            (&[Claim, Defer], no(NotYet(at(3600)))),
            (&[Requeue], goes_on(Retrying, 3600, Some(3600 + GRACE))),
            (&[AdoptNow], goes_on(Retrying, 3600, Some(0))),
            (&[Rescue], goes_on(Retrying, 3600, Some(3600))),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
    let budget = Budget { attempts: 1, relays: 8, rescues: 3, ..Budget::default() };
    row(
        "relays and rescues spent",
        &with_budget(retrying(10), budget),
        &[
            (&[Claim], goes_on(InProgress, -5, Some(GRACE - 5))),
            (&[Defer], goes_on(Retrying, 30, Some(30))),
            (&[Requeue], goes_on(Retrying, -5, Some(GRACE))),
            (&[AdoptNow], goes_on(Retrying, -5, Some(0))),
            (&[Rescue], no(BudgetSpent)),
            (&[AdoptLate, Audit], no(Held)),
        ],
    );
}

/// A finished webhook does not change, except by archive, and by an operator who sends it again
/// before it expires.
#[test]
fn finished_against_every_event() {
    let again = goes_on(Pending, 0, Some(GRACE));
    for (name, seconds_ago, resend) in
        [("delivered", 60, again), ("delivered, expired", DAYS_30, no(Expired))]
    {
        check(
            name,
            &delivered(seconds_ago),
            &[
                (&[Claim], no(Finished(Delivered))),
                (&OUTCOMES, no(Finished(Delivered))),
                (&MOVES, no(Finished(Delivered))),
                (&[Audit], no(Finished(Delivered))),
                (&[Requeue, RequeueWrong], no(DueMoved)),
                (&[Archive, Redrive], no(NotFailed)),
                (&[Resend], resend),
            ],
        );
    }
    check(
        "failed",
        &failed_before(60),
        &[
            (&[Claim], no(Finished(Failed))),
            (&OUTCOMES, no(Finished(Failed))),
            (&MOVES, no(Finished(Failed))),
            (&[Audit], no(Held)),
            (&[Requeue], failed(GRACE)),
            (&[RequeueWrong], no(DueMoved)),
            (&[Archive], archived_now()),
            (&[Resend], again),
            (&[Redrive], no(NotFailed)),
        ],
    );
    for (name, seconds_ago, start_again) in
        [("archived", 60, again), ("archived, expired", DAYS_30, no(Expired))]
    {
        check(
            name,
            &archived(seconds_ago),
            &[
                (&[Claim], no(Finished(Failed))),
                (&OUTCOMES, no(Finished(Failed))),
                (&MOVES, no(Finished(Failed))),
                (&[Audit], no(Finished(Failed))),
                (&[Requeue, RequeueWrong], no(DueMoved)),
                (&[Archive], no(Archived)),
                (&[Resend, Redrive], start_again),
            ],
        );
    }
}
