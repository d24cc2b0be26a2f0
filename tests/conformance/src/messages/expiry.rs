//! Expiry: of messages, which outlast their deliveries, and of deliveries, which keep their keys.

use std::time::Duration;

use shared::{
    applications::{
        message::{KEY_OCCUPIED, MESSAGE_SPARE, PublishedMessage},
        standing::Found,
    },
    model::Webhook,
    store::{DeleteError, MessageFilter, SweepReport, WriteError, WriteMessageError},
};

use super::published::{State, content, days, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        an_expired_message_does_not_exist,
        a_message_lasts_as_long_as_a_delivery_needs_it,
        a_due_message_never_expires,
        an_expired_delivery_keeps_its_key,
        a_clock_briefly_ahead_deletes_no_message,
    ]
}

async fn is_listed(fixture: &Fixture, message: &PublishedMessage) -> bool {
    let filter = MessageFilter::all(message.application.clone());
    let listed = fixture.store.list_messages(&filter, None, 10).await.unwrap().items;
    listed.iter().any(|listed| listed.id == message.id)
}

/// Checks that every reader has the message and its content. The record may say a later expiry than
/// the case wrote.
async fn assert_exists(fixture: &Fixture, message: &PublishedMessage) {
    for store in [&fixture.store, &fixture.other] {
        let (found, opened) = store.open_message(&message.id).await.unwrap().unwrap();
        let plan = message.plan.clone();
        assert_eq!((&found.id, &found.plan, &opened), (&message.id, &plan, &content(&message.id)));
        assert_eq!(store.message(&message.id).await.unwrap().as_ref(), Some(&found));
        let standing = store.standing(&message.id).await.unwrap().unwrap();
        assert_eq!(standing.message, found);
        let first = message.id.delivery(plan[0].endpoint);
        assert_eq!(store.delivery(&first).await.unwrap().unwrap().message, found);
    }
    eventually("it is listed", || async { same(&is_listed(fixture, message).await, &true) }).await;
}

async fn assert_gone(fixture: &Fixture, message: &PublishedMessage) {
    let next = fixture.rules.start_deleting(message, fixture.now()).unwrap();
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.message(&message.id).await.unwrap(), None);
        assert_eq!(store.open_message(&message.id).await.unwrap(), None);
        assert_eq!(store.standing(&message.id).await.unwrap(), None);
        let first = message.id.delivery(message.plan[0].endpoint);
        assert_eq!(store.delivery(&first).await.unwrap(), None);
        let written = store.write_message(message, &next).await;
        assert!(matches!(written, Err(WriteMessageError::Missing)), "{written:?}");
        let deleted = store.delete_message(message).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    }
    assert!(!is_listed(fixture, message).await);
}

/// A message is readable until it expires, 15 days after the retention, and never after, even while
/// its bytes are still stored. The case has one whose delivery never started, and one whose
/// delivery was delivered. It sets the clock to a minute before the expiry, and then past it.
async fn an_expired_message_does_not_exist(fixture: Fixture) {
    let messages = [fixture.published(1).await, fixture.published(1).await];
    State::Delivered.reach(&fixture, &unstarted(&messages[1], 0)).await;
    let lasts = fixture.rules.limits.retention + MESSAGE_SPARE;
    fixture.clock.advance(lasts.checked_sub(Duration::from_secs(60)).unwrap());
    for message in &messages {
        assert_exists(&fixture, message).await;
    }
    fixture.clock.advance(Duration::from_secs(61));
    for _ in 0..2 {
        for message in &messages {
            assert_gone(&fixture, message).await;
        }
        fixture.tidied().await;
    }
}

/// A message and its content exist while a delivery is unfinished or a dead letter, whatever the
/// message's expiry. The case has a delivery that is attempted on days 0, 40 and 46, is a dead
/// letter until day 70, and is then redriven and delivered. Housekeeping runs in between.
async fn a_message_lasts_as_long_as_a_delivery_needs_it(fixture: Fixture) {
    let message = fixture.published(2).await;
    let mut delivery = State::Retrying.reach(&fixture, &unstarted(&message, 0)).await;
    let attempt = async |delivery: &Webhook, status_code: u16| {
        let now = fixture.now();
        let claimed = fixture.rules.claim(delivery, OURS, now).unwrap();
        let opened = fixture.store.write_and_open(delivery, &claimed).await.unwrap();
        assert_eq!(opened, content(&message.id));
        let report = answered(status_code);
        let conclude = fixture
            .step(&claimed, |rules, claimed| rules.conclude(claimed, OURS, &report, now, 0.5));
        conclude.await
    };
    let assert_stored = async |delivery: &Webhook| {
        assert_exists(&fixture, &message).await;
        let opened = Some((delivery.clone(), content(&message.id)));
        assert_eq!(fixture.other.open(&delivery.id).await.unwrap(), opened);
    };
    fixture.clock.advance(days(40));
    delivery = attempt(&delivery, 500).await;
    fixture.clock.advance(days(6));
    fixture.tidied().await;
    assert_stored(&delivery).await;
    let failed = attempt(&delivery, 410).await;
    let now = fixture.now();
    delivery = fixture.step(&failed, |rules, failed| rules.archive(failed, now)).await;
    fixture.clock.advance(days(24));
    fixture.tidied().await;
    assert_stored(&delivery).await;
    let now = fixture.now();
    delivery = fixture.step(&delivery, |rules, letter| rules.redrive(letter, now)).await;
    assert_stored(&delivery).await;
    attempt(&delivery, 200).await;
    fixture.clock.advance(days(80));
    assert_gone(&fixture, &message).await;
    fixture.tidied().await;
    assert_gone(&fixture, &message).await;
}

/// A due message and its content exist without limit, and so do its deliveries that have not
/// started. The case reads them a year later, after housekeeping.
async fn a_due_message_never_expires(fixture: Fixture) {
    let published = fixture.published(1).await;
    let message = fixture.held(&published, fixture.now()).await;
    fixture.clock.advance(days(365));
    fixture.tidied().await;
    assert_exists(&fixture, &message).await;
    let delivery = unstarted(&message, 0);
    let stored = fixture.store.delivery(&delivery.id).await.unwrap().unwrap();
    assert_eq!(stored.visible(message.plan[0].endpoint, fixture.now()), Some(delivery.clone()));
    let claimed = fixture.rules.claim(&delivery, OURS, fixture.now()).unwrap();
    let opened = fixture.store.write_and_open(&delivery, &claimed).await.unwrap();
    assert_eq!(opened, content(&message.id));
}

/// Checks that readers find no record under the key, and that no write makes or changes one.
async fn assert_occupied(fixture: &Fixture, expired: &Webhook, found: &Found) {
    let id = &expired.id;
    let first = Webhook { revision: 0, ..expired.clone() };
    let next = |before: &Webhook| Webhook { revision: before.revision + 1, ..before.clone() };
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(id).await.unwrap(), None);
        assert_eq!(store.open(id).await.unwrap(), None);
        for before in [&first, expired] {
            let written = store.write(before, &next(before)).await;
            assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
            let written = store.write_and_open(before, &next(before)).await;
            assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
            let deleted = store.delete_unchanged(before).await;
            assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
        }
        let deleted = store.delete(id).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    }
    assert_eq!(fixture.found(id).await.as_ref(), Some(found));
}

/// From its expiry on, readers do not see a delivery, but it occupies its key for 20 more days, so
/// no late look makes it again. The case has a delivered delivery and a dead letter, looks a day
/// and 19 days after the expiry with housekeeping in between, and then puts markers there.
async fn an_expired_delivery_keeps_its_key(fixture: Fixture) {
    let published = fixture.published(2).await;
    let message = fixture.held(&published, fixture.now()).await;
    let deliveries = [
        State::Delivered.reach(&fixture, &unstarted(&message, 0)).await,
        State::Archived.reach(&fixture, &unstarted(&message, 1)).await,
    ];
    fixture.clock.advance(days(29));
    for delivery in &deliveries {
        assert_eq!(fixture.store.get(&delivery.id).await.unwrap().as_ref(), Some(delivery));
    }
    for wait in [2, 18] {
        fixture.clock.advance(days(wait));
        for _ in 0..2 {
            for delivery in &deliveries {
                assert_occupied(&fixture, delivery, &Found::Expired).await;
            }
            fixture.tidied().await;
        }
    }
    for delivery in &deliveries {
        let until = fixture.now().plus(KEY_OCCUPIED);
        fixture.store.put_marker(&delivery.id, until).await.unwrap();
        assert_occupied(&fixture, delivery, &Found::Marker).await;
    }
    fixture.clock.advance(days(19));
    fixture.tidied().await;
    for delivery in &deliveries {
        assert_occupied(&fixture, delivery, &Found::Marker).await;
    }
}

/// While a clock is ahead for less than a minute, messages and deliveries are expired for readers,
/// but no write and no maintenance deletes them. The case has a delivered delivery, a dead letter
/// and a marker. All are as before once the clock is right again.
async fn a_clock_briefly_ahead_deletes_no_message(fixture: Fixture) {
    let message = fixture.published(3).await;
    for (index, state) in [State::Delivered, State::Archived].into_iter().enumerate() {
        state.reach(&fixture, &unstarted(&message, index)).await;
    }
    let until = fixture.now().plus(KEY_OCCUPIED);
    fixture.store.put_marker(&unstarted(&message, 2).id, until).await.unwrap();
    let before = fixture.standing(&message.id).await.unwrap();
    let report = SweepReport { ran_at: fixture.now(), ..SweepReport::default() };
    let until = fixture.now().plus(days(400));
    let run_maintenance = async || {
        for store in [&fixture.store, &fixture.other] {
            store.report_sweep(&report).await.unwrap();
            store.maintain(fixture.now(), until).await.unwrap();
        }
        fixture.published(0).await;
    };
    run_maintenance().await;
    fixture.clock.advance(Duration::from_secs(120));
    run_maintenance().await;
    fixture.clock.set_ahead(days(200));
    for _ in 0..4 {
        run_maintenance().await;
        assert_eq!(fixture.store.message(&message.id).await.unwrap(), None, "hidden");
        fixture.clock.advance(Duration::from_secs(14));
    }
    fixture.clock.set_ahead(Duration::ZERO);
    for _ in 0..2 {
        run_maintenance().await;
        assert_eq!(fixture.standing(&message.id).await.as_ref(), Some(&before));
        assert_exists(&fixture, &message).await;
        fixture.clock.advance(Duration::from_secs(120));
    }
}
