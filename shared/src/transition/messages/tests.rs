//! Each transition of a message, and each decision about a delivery without a record.

mod fan_out;
mod histories;

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    applications::{
        message::{KEY_OCCUPIED, occupied_until},
        standing::Found,
    },
    id::{ReferenceId, TaskId},
    model::ClaimId,
    retry::Outcome,
    status::Status,
    transition::{GiveUp, Report},
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

fn rules() -> Rules {
    Rules::default()
}

fn ep(n: u8) -> EndpointId {
    EndpointId::mint([n; 10])
}

fn new(endpoints: u8) -> NewMessage {
    let task = TaskId::mint(NOW, [1; 10]);
    NewMessage {
        id: MessageId { reference: ReferenceId::generated(task), task },
        application: "cust-7".parse().unwrap(),
        referenced: true,
        correlation_id: "cor-1".to_owned(),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan { planned: (1..=endpoints).map(ep).collect(), off: vec![ep(99)] },
    }
}

fn published(endpoints: u8) -> PublishedMessage {
    rules().publish(new(endpoints), NOW)
}

fn due(endpoints: u8, due_at: Timestamp) -> PublishedMessage {
    PublishedMessage { due_at: Some(due_at), expires_at: None, ..published(endpoints) }
}

/// The message with these keys occupied, and an audit that has not come to it.
fn standing(message: PublishedMessage, found: &[(u8, Found)]) -> Standing {
    let found: BTreeMap<_, _> = found.iter().map(|(n, found)| (ep(*n), found.clone())).collect();
    Standing { message, found, audited_until: None }
}

fn record(webhook: Webhook) -> Found {
    Found::Record(Box::new(webhook))
}

fn delivery(message: &PublishedMessage, n: u8) -> Webhook {
    Rules::delivery(message, ep(n)).unwrap()
}

fn claimed(message: &PublishedMessage, n: u8, now: Timestamp) -> Webhook {
    rules().claim(&delivery(message, n), ClaimId(7), now).unwrap()
}

fn report(status_code: u16) -> Report {
    let error = (status_code != 200).then_some(ErrorKind::HttpStatus);
    let outcome = Outcome { error, status_code: Some(status_code), retry_after: None };
    Report { outcome, duration: Duration::ZERO, message: None, response_excerpt: None }
}

fn concluded(message: &PublishedMessage, n: u8, code: u16, now: Timestamp) -> Webhook {
    rules().conclude(&claimed(message, n, now), ClaimId(7), &report(code), now, 0.5).unwrap()
}

#[test]
fn a_published_message_is_due_only_if_it_is_scheduled() {
    let message = published(2);
    assert_eq!((message.revision, message.settled, message.due_at), (1, 0, None));
    assert_eq!((message.created_at, message.allowed_at), (NOW, NOW));
    let lasts = rules().limits.retention + MESSAGE_SPARE;
    assert_eq!(message.expires_at, Some(NOW.plus(lasts)));
    assert_eq!(message.off, [ep(99)]);
    let at = NOW.plus(DAY);
    let scheduled = rules().publish(NewMessage { deliver_at: Some(at), ..new(2) }, NOW);
    assert_eq!(
        (scheduled.due_at, scheduled.allowed_at, scheduled.expires_at),
        (Some(at), at, None)
    );
    let past = rules().publish(NewMessage { deliver_at: Some(NOW.minus(DAY)), ..new(2) }, NOW);
    assert_eq!((past.due_at, past.allowed_at), (None, NOW));
}

#[test]
fn a_delivery_follows_from_the_message_alone() {
    let message = published(2);
    let webhook = delivery(&message, 2);
    assert_eq!((webhook.revision, webhook.schema, webhook.status), (0, 2, Status::Pending));
    assert_eq!(webhook.id, message.id.delivery(ep(2)));
    assert_eq!(webhook.application, Some(message.application.clone()));
    assert_eq!(webhook.destination, format!("cust-7/{}", ep(2)));
    assert_eq!(webhook.event_type.as_deref(), Some("order.paid"));
    assert!(!webhook.referenced && webhook.due_at.is_none() && webhook.expires_at.is_none());
    assert_eq!((webhook.created_at, webhook.allowed_at), (NOW, Some(NOW)));
    assert_eq!(Rules::delivery(&message, ep(3)), None);
    // What changes about a message does not change its deliveries.
    let later = PublishedMessage {
        revision: 9,
        updated_at: NOW.plus(DAY),
        due_at: Some(NOW.plus(DAY)),
        requeues: 3,
        settled: 1,
        deleting: true,
        expires_at: None,
        ..message.clone()
    };
    assert_eq!(delivery(&later, 2), webhook);
    // A scheduled message, and an entry that was added later, allow later attempts.
    let scheduled = PublishedMessage { allowed_at: NOW.plus(DAY), ..message.clone() };
    let webhook = delivery(&scheduled, 1);
    assert_eq!((webhook.created_at, webhook.allowed_at), (NOW, Some(NOW.plus(DAY))));
    let mut extended = message;
    extended.plan.push(PlanEntry { endpoint: ep(3), extended_at: Some(NOW.plus(HOUR)) });
    let webhook = delivery(&extended, 3);
    assert_eq!((webhook.created_at, webhook.allowed_at), (NOW.plus(HOUR), Some(NOW.plus(HOUR))));
    extended.allowed_at = NOW.plus(DAY);
    assert_eq!(delivery(&extended, 3).allowed_at, Some(NOW.plus(DAY)));
}

#[test]
fn the_first_transition_of_a_delivery_is_one_of_a_webhook() {
    let message = published(1);
    let (rules, first) = (rules(), delivery(&message, 1));
    let claim = rules.claim(&first, ClaimId(1), NOW).unwrap();
    assert_eq!((claim.revision, claim.status), (1, Status::InProgress));
    let deferred = rules.defer(&first, NOW.plus(HOUR), Why::RateLimit, NOW).unwrap();
    assert_eq!((deferred.revision, deferred.due_at), (1, Some(NOW.plus(HOUR))));
    let rescued = rules.rescue(&first, NOW).unwrap();
    assert_eq!((rescued.revision, rescued.due_at), (1, Some(NOW)));
    let given_up = rules.give_up(&first, GiveUp::Unreadable, Function::Deliver, NOW).unwrap();
    assert_eq!((given_up.revision, given_up.status), (1, Status::Failed));
}

#[test]
fn a_delivery_that_did_not_start_in_time_becomes_a_dead_letter() {
    let message = due(1, NOW);
    let first = delivery(&message, 1);
    let over_at = NOW.plus(START_WITHIN);
    assert_eq!(rules().abandon(&first, over_at.minus(MS)), Err(Refusal::NotYet(over_at)));
    let failed = rules().abandon(&first, over_at).unwrap();
    assert_eq!((failed.status, failed.revision, failed.attempt_count), (Status::Failed, 1, 0));
    assert_eq!(failed.last_error.as_ref().unwrap().kind, ErrorKind::Undeliverable);
    assert!(failed.due_at.is_some() && failed.allowed_at.is_none() && failed.history.len() == 2);
    assert_eq!(rules().abandon(&claimed(&message, 1, NOW), over_at), Err(Refusal::Changed));
    let direct = Webhook { revision: 0, ..crate::transition::testing::webhook(NOW) };
    assert_eq!(rules().abandon(&direct, over_at), Err(Refusal::Changed));
}

/// Section 4.3, at each border.
#[test]
fn a_delivery_without_a_record_may_start_abandon_or_has_finished() {
    let quiet = published(2);
    let at = |time| Rules::unstarted(&quiet, ep(2), time);
    let first = Box::new(delivery(&quiet, 2));
    assert_eq!(at(NOW), Unstarted::MayStart(first.clone()));
    assert_eq!(at(NOW.plus(START_WITHIN).minus(MS)), Unstarted::MayStart(first.clone()));
    assert_eq!(at(NOW.plus(START_WITHIN)), Unstarted::TooOld(first.clone()));
    assert_eq!(at(NOW.plus(KEY_OCCUPIED).minus(MS)), Unstarted::TooOld(first.clone()));
    assert_eq!(at(NOW.plus(KEY_OCCUPIED)), Unstarted::Finished);
    // A due message waits without limit.
    let waiting = due(2, NOW);
    assert_eq!(
        Rules::unstarted(&waiting, ep(2), NOW.plus(KEY_OCCUPIED * 9)),
        Unstarted::TooOld(first.clone())
    );
    // A settled entry finished, whatever the time.
    for message in [&quiet, &waiting] {
        let settled = PublishedMessage { settled: 2, ..message.clone() };
        assert_eq!(Rules::unstarted(&settled, ep(2), NOW), Unstarted::Finished);
        let leading = PublishedMessage { settled: 1, ..message.clone() };
        assert_eq!(Rules::unstarted(&leading, ep(1), NOW), Unstarted::Finished);
        assert_eq!(Rules::unstarted(&leading, ep(2), NOW), Unstarted::MayStart(first.clone()));
    }
    assert_eq!(Rules::unstarted(&quiet, ep(3), NOW), Unstarted::NotPlanned);
    let deleting = PublishedMessage { deleting: true, ..waiting };
    assert_eq!(Rules::unstarted(&deleting, ep(2), NOW), Unstarted::Deleting);
}

#[test]
fn the_periods_of_an_added_entry_begin_with_its_extension() {
    let mut message = published(1);
    let added = NOW.plus(DAY * 30);
    message.plan.push(PlanEntry { endpoint: ep(2), extended_at: Some(added) });
    assert_eq!(Rules::unstarted(&message, ep(1), added), Unstarted::Finished);
    let first = Box::new(delivery(&message, 2));
    assert_eq!(Rules::unstarted(&message, ep(2), added), Unstarted::MayStart(first.clone()));
    let late = added.plus(START_WITHIN);
    assert_eq!(Rules::unstarted(&message, ep(2), late), Unstarted::TooOld(first));
    assert_eq!(Rules::unstarted(&message, ep(2), added.plus(KEY_OCCUPIED)), Unstarted::Finished);
}

#[test]
fn a_look_that_comes_too_early_goes_back_only_if_nothing_else_holds_the_message() {
    let ahead = |by: Duration, due_at| {
        let message = PublishedMessage { allowed_at: NOW.plus(by), due_at, ..published(1) };
        Rules::unstarted(&message, ep(1), NOW)
    };
    assert_eq!(ahead(MAX_EARLY + MS, None), Unstarted::Early { hand_back: true });
    assert_eq!(ahead(MAX_EARLY + MS, Some(NOW)), Unstarted::Early { hand_back: false });
    assert!(matches!(ahead(MAX_EARLY, None), Unstarted::MayStart(_)));
}

#[test]
fn a_message_settles_when_every_delivery_is_accounted_for() {
    let message = due(2, NOW);
    let finished = |n| (n, record(concluded(&message, n, 200, NOW)));
    let all = standing(message.clone(), &[finished(1), (2, Found::Marker)]);
    let now = NOW.plus(HOUR);
    let settled = rules().settle(&all, now).unwrap();
    assert_eq!((settled.settled, settled.due_at, settled.requeues), (2, None, 0));
    assert_eq!((settled.revision, settled.updated_at), (2, now));
    let lasts = rules().limits.retention + MESSAGE_SPARE;
    assert_eq!(settled.expires_at, Some(now.plus(lasts)));
    assert_eq!(settled.plan, message.plan);

    let some = standing(message.clone(), &[finished(1)]);
    assert_eq!(rules().settle(&some, now), Err(MessageRefusal::Unaccounted));
    let in_flight = (2, record(claimed(&message, 2, NOW)));
    let some = standing(message.clone(), &[finished(1), in_flight]);
    assert_eq!(rules().settle(&some, now), Err(MessageRefusal::Unaccounted));
    let unreadable = standing(message.clone(), &[finished(1), (2, Found::Unreadable)]);
    assert_eq!(rules().settle(&unreadable, now), Err(MessageRefusal::Unaccounted));
    let quiet = standing(published(2), &[finished(1), (2, Found::Marker)]);
    assert_eq!(rules().settle(&quiet, now), Err(MessageRefusal::NotDue));
    let deleting = PublishedMessage { deleting: true, ..message.clone() };
    let deleting = standing(deleting, &[finished(1), (2, Found::Marker)]);
    assert_eq!(rules().settle(&deleting, now), Err(MessageRefusal::Deleting));
}

/// The clock of the process that settles may be behind, and a message may settle before it is
/// allowed, when its deliveries were deleted.
#[test]
fn a_settled_message_lives_from_the_latest_of_its_times() {
    let lasts = rules().limits.retention + MESSAGE_SPARE;
    let gone = [(1, Found::Marker)];
    let behind = standing(PublishedMessage { updated_at: NOW.plus(DAY), ..due(1, NOW) }, &gone);
    assert_eq!(rules().settle(&behind, NOW).unwrap().expires_at, Some(NOW.plus(DAY + lasts)));
    let ahead = standing(PublishedMessage { allowed_at: NOW.plus(DAY * 9), ..due(1, NOW) }, &gone);
    assert_eq!(rules().settle(&ahead, NOW).unwrap().expires_at, Some(NOW.plus(DAY * 9 + lasts)));
}

#[test]
fn a_message_that_is_deleted_is_due_until_it_is_gone() {
    for (message, due_at) in [
        (published(1), NOW),
        (due(1, NOW.minus(HOUR)), NOW.minus(HOUR)),
        (due(1, NOW.plus(HOUR)), NOW),
    ] {
        let deleting = rules().start_deleting(&message, NOW).unwrap();
        assert_eq!((deleting.deleting, deleting.due_at), (true, Some(due_at)));
        assert_eq!((deleting.expires_at, deleting.revision), (None, 2));
        let again = rules().start_deleting(&deleting, NOW);
        assert_eq!(again, Err(MessageRefusal::Deleting));
    }
}

#[test]
fn an_adopted_message_is_due_and_settled_as_far_as_is_certain() {
    let message = published(3);
    let finished = (1, record(concluded(&message, 1, 200, NOW)));
    let adopt = |standing: &Standing, due_at| rules().adopt_message(standing, due_at, NOW);
    let next = adopt(&standing(message.clone(), std::slice::from_ref(&finished)), NOW).unwrap();
    assert_eq!((next.due_at, next.settled, next.expires_at), (Some(NOW), 1, None));
    assert_eq!((next.revision, next.requeues), (2, 0));
    // A later entry does not count across an open one.
    let gap = standing(message.clone(), &[(2, Found::Expired)]);
    assert_eq!(adopt(&gap, NOW).unwrap().settled, 0);
    // A due message moves forward only, and its settled entries stay as they are.
    let waiting = PublishedMessage { requeues: 4, ..due(3, NOW.plus(HOUR)) };
    let known = standing(waiting, &[finished]);
    assert_eq!(adopt(&known, NOW.plus(HOUR)), Err(MessageRefusal::Held));
    let next = adopt(&known, NOW).unwrap();
    assert_eq!((next.due_at, next.settled, next.requeues), (Some(NOW), 0, 4));
    // Nothing is left to do.
    let gone = [(1, Found::Marker), (2, Found::Expired), (3, Found::Marker)];
    let over = standing(message.clone(), &gone);
    assert_eq!(adopt(&over, NOW), Err(MessageRefusal::Accounted));
    assert!(adopt(&Standing::of_new(message), NOW).is_ok());
    assert_eq!(adopt(&Standing::of_new(published(0)), NOW), Err(MessageRefusal::Accounted));
}

/// An entry whose record is gone counts only once the audit has passed: before, it may be one that
/// never started.
#[test]
fn a_vacant_key_counts_as_settled_only_after_the_audit() {
    let late = NOW.plus(KEY_OCCUPIED);
    let message = published(2);
    let minute_end = message.audited_at();
    assert!(minute_end > NOW && minute_end.since(NOW) <= Duration::from_secs(60));
    let audited = |until| Standing { audited_until: until, ..Standing::of_new(message.clone()) };
    assert_eq!(audited(None).leading_settled(late), 0);
    assert_eq!(audited(Some(minute_end.minus(MS))).leading_settled(late), 0);
    assert_eq!(audited(Some(minute_end)).leading_settled(late), 2);
    assert_eq!(audited(Some(minute_end)).leading_settled(late.minus(MS)), 0);
    // What is settled stays settled.
    let settled = PublishedMessage { settled: 1, ..message.clone() };
    assert_eq!(Standing::of_new(settled).leading_settled(NOW), 1);
    let adopted = rules().adopt_message(&audited(None), late, late).unwrap();
    assert_eq!(adopted.settled, 0, "it starts, or ends as a dead letter");
}

#[test]
fn the_audit_goes_by_the_index_alone() {
    let message = published(1);
    let audit = |standing: &Standing, now| rules().audit_message(standing, now);
    let vacant = Standing::of_new(message.clone());
    let grace = rules().limits.grace;
    assert_eq!(audit(&vacant, NOW).unwrap().due_at, Some(NOW.plus(grace)));
    assert!(audit(&vacant, NOW.plus(KEY_OCCUPIED)).is_ok(), "it may never have started");
    let ahead = PublishedMessage { allowed_at: NOW.plus(DAY), ..message.clone() };
    let next = audit(&Standing::of_new(ahead), NOW).unwrap();
    assert_eq!(next.due_at, Some(NOW.plus(DAY)));
    let settled = PublishedMessage { settled: 1, ..message.clone() };
    let settled = Standing::of_new(settled);
    assert_eq!(audit(&settled, NOW), Err(MessageRefusal::Accounted));
    let waiting = Standing::of_new(due(1, NOW));
    assert_eq!(audit(&waiting, NOW), Err(MessageRefusal::Held));
    for (found, unheld) in [
        (record(claimed(&message, 1, NOW)), true),
        (record(concluded(&message, 1, 503, NOW)), false),
        (record(concluded(&message, 1, 200, NOW)), false),
        (Found::Expired, false),
        (Found::Marker, false),
        (Found::Unreadable, false),
    ] {
        let standing = standing(message.clone(), &[(1, found.clone())]);
        assert_eq!(standing.is_unheld(), unheld, "{found:?}");
        assert_eq!(audit(&standing, NOW).is_ok(), unheld, "{found:?}");
    }
    let deleting = PublishedMessage { deleting: true, ..message };
    assert!(standing(deleting, &[(1, Found::Marker)]).is_unheld());
}

#[test]
fn the_sweep_moves_a_message_on_by_a_grace_that_doubles() {
    let limits = rules().limits;
    let mut message = due(1, NOW);
    let mut graces = Vec::new();
    for _ in 0..8 {
        let seen = message.due_at.unwrap();
        let moved = rules().requeue_message(&message, seen.minus(MS), false, NOW);
        assert_eq!(moved, Err(MessageRefusal::DueMoved));
        message = rules().requeue_message(&message, seen, false, NOW).unwrap();
        graces.push(message.due_at.unwrap().since(NOW).as_secs() / limits.grace.as_secs());
    }
    assert_eq!(graces, [1, 2, 4, 8, 16, 24, 24, 24]);
    assert_eq!(message.revision, 9);
    let repeated = due(1, NOW.plus(limits.grace));
    let seen = repeated.due_at.unwrap();
    let next = rules().requeue_message(&repeated, seen, true, NOW).unwrap();
    assert_eq!(next.due_at, Some(NOW.plus(limits.max_grace)));
    let first = rules().requeue_message(&due(1, NOW), NOW, true, NOW).unwrap();
    assert_eq!(first.due_at, Some(NOW.plus(limits.grace)));
    let later = PublishedMessage { allowed_at: NOW.plus(DAY), deleting: true, ..due(1, NOW) };
    let next = rules().requeue_message(&later, NOW, false, NOW).unwrap();
    assert_eq!(next.due_at, Some(NOW.plus(limits.grace)), "a deletion does not wait for the date");
    let quiet = rules().requeue_message(&published(1), NOW, false, NOW);
    assert_eq!(quiet, Err(MessageRefusal::DueMoved));
}

#[test]
fn times_of_a_clock_that_was_ahead_are_taken_back() {
    let ahead = NOW.plus(DAY);
    let wrong = PublishedMessage {
        created_at: ahead,
        updated_at: ahead,
        allowed_at: ahead,
        ..due(1, ahead.plus(HOUR))
    };
    let next = rules().take_back_message(&wrong, NOW).unwrap();
    assert_eq!((next.allowed_at, next.due_at, next.updated_at), (NOW, Some(NOW), NOW));
    let delivery = Rules::delivery(&next, ep(1)).unwrap();
    assert_eq!((delivery.allowed_at, delivery.created_at), (Some(NOW), ahead));
    assert!(matches!(Rules::unstarted(&next, ep(1), NOW), Unstarted::MayStart(_)));
    let scheduled = PublishedMessage { allowed_at: ahead.plus(HOUR), ..wrong.clone() };
    let next = rules().take_back_message(&scheduled, NOW).unwrap();
    assert_eq!((next.allowed_at, next.due_at), (ahead.plus(HOUR), Some(ahead.plus(HOUR))));
    for right in [
        due(1, ahead),
        PublishedMessage { updated_at: NOW.plus(super::super::MAX_AHEAD), ..wrong.clone() },
        PublishedMessage { due_at: None, ..wrong },
    ] {
        assert_eq!(rules().take_back_message(&right, NOW), Err(MessageRefusal::Held));
    }
}

#[test]
fn a_message_outlasts_its_deliveries() {
    let (rules, message) = (rules(), published(1));
    let lasts = |record: &Webhook, now| rules.prolong(&message, record, now);
    let expires_at = message.expires_at.unwrap();
    let finished = concluded(&message, 1, 200, NOW);
    assert_eq!(lasts(&finished, NOW), None, "it lives 15 days longer");
    let half = MESSAGE_SPARE / 2;
    let at = |time| Webhook { expires_at: Some(time), ..finished.clone() };
    assert_eq!(lasts(&at(expires_at.minus(half)), NOW), None);
    let next = lasts(&at(expires_at.minus(half).plus(MS)), NOW).unwrap();
    let needed = expires_at.minus(half).plus(MS).plus(rules.limits.retention + MESSAGE_SPARE);
    assert_eq!((next.expires_at, next.revision, next.due_at), (Some(needed), 2, None));
    let waits = Webhook { expires_at: None, due_at: Some(expires_at), ..finished.clone() };
    assert!(lasts(&waits, NOW).is_some());
    let claimed = Webhook { due_at: None, expires_at: None, ..finished.clone() };
    assert!(lasts(&claimed, expires_at.minus(half)).is_none());
    assert!(lasts(&claimed, expires_at.minus(half).plus(MS)).is_some());
    assert_eq!(rules.prolong(&due(1, NOW), &waits, NOW), None, "without limit while due");
}

#[test]
fn keys_stay_occupied_for_twenty_days_more() {
    let message = published(1);
    let entry = message.plan[0];
    let later = NOW.plus(DAY);
    assert_eq!(message.marker_until(&entry, later), later.plus(KEY_OCCUPIED));
    assert_eq!(message.marker_until(&entry, NOW.minus(DAY)), NOW.plus(KEY_OCCUPIED));
    let added = PlanEntry { extended_at: Some(NOW.plus(DAY * 2)), ..entry };
    assert_eq!(message.marker_until(&added, later), NOW.plus(DAY * 2 + KEY_OCCUPIED));
    assert_eq!(occupied_until(NOW), NOW.plus(KEY_OCCUPIED));
}

#[test]
fn an_attempt_follows_its_endpoint() {
    let message = published(1);
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let terms = EndpointTerms { revision: 5, retry };
    let rules = rules().for_endpoint(&terms);
    let claimed = claimed(&message, 1, NOW);
    let next = rules.conclude(&claimed, ClaimId(7), &report(503), NOW, 0.5).unwrap();
    assert_eq!(next.status, Status::Failed, "the endpoint grants one attempt");
    let noted = with_endpoint_revision(next, &terms);
    assert_eq!(noted.attempts[0].endpoint_revision, Some(5));
    assert_eq!(with_endpoint_revision(claimed.clone(), &terms), claimed);
}
