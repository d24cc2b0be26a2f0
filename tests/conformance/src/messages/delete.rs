//! Delete: nothing is left of a message but its tombstone, and the keys of its deliveries stay
//! occupied.

use std::time::Duration;

use shared::{
    applications::message::PublishedMessage,
    store::{
        CreateError, CreateMessageError, DeleteError, Filter, MessageFilter, Tombstone, Unindexed,
        WriteError,
    },
};

use super::published::{State, content, days, new_message, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{self, eventually, same},
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        nothing_is_left_of_a_deleted_message,
        a_deleted_message_cannot_be_created_again,
        a_message_that_has_changed_stays,
        markers_and_records_outlast_their_message,
        other_messages_stay,
    ]
}

/// Checks that no reader and no index has the message.
async fn assert_gone(fixture: &Fixture, message: &PublishedMessage) {
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.message(&message.id).await.unwrap(), None);
        assert_eq!(store.open_message(&message.id).await.unwrap(), None);
        assert_eq!(store.standing(&message.id).await.unwrap(), None);
        for entry in &message.plan {
            let id = message.id.delivery(entry.endpoint);
            assert_eq!(store.delivery(&id).await.unwrap(), None);
        }
    }
    assert!(!fixture.backend.has_content(&same_key(&message.id)).await, "the payload goes too");
    let created_at = message.id.task.created_at();
    let until = created_at.plus(Duration::from_millis(1));
    eventually("no index has it", || async {
        same(&fixture.message_due_at(&message.id).await, &None)?;
        let mut filter = MessageFilter::all(message.application.clone());
        for reference in [None, Some(message.id.reference.clone())] {
            filter.reference = reference;
            same(&fixture.store.list_messages(&filter, None, 10).await.unwrap().items, &vec![])?;
        }
        let mut audited =
            fixture.store.list_unindexed(created_at, until, None).await.unwrap().items;
        audited.retain(|found| {
            matches!(found, Unindexed::Message(standing) if standing.message.id == message.id)
        });
        same(&audited, &vec![])?;
        let listed = fixture.store.list(&Filter::default(), None, 100).await.unwrap().items;
        let task = message.id.task;
        same(&listed.iter().any(|listed| listed.webhook.id.task == task), &false)
    })
    .await;
}

/// Record, content and every index entry are gone, for every handle, and so are the deliveries
/// without a record. The case deletes a message that is in no index, one that is due, and one that
/// is deleting.
async fn nothing_is_left_of_a_deleted_message(fixture: Fixture) {
    let now = fixture.now();
    let held = fixture.published(2).await;
    let deleting = fixture.published(2).await;
    let messages = [
        fixture.published(2).await,
        fixture.held(&held, now).await,
        fixture.move_message(&deleting, |rules, message| rules.start_deleting(message, now)).await,
    ];
    for message in &messages {
        assert!(fixture.backend.has_content(&same_key(&message.id)).await);
        fixture.other.delete_message(message).await.unwrap();
        assert_gone(&fixture, message).await;
        let again = fixture.store.delete_message(message).await;
        assert!(matches!(again, Err(DeleteError::Missing)), "{again:?}");
    }
}

/// A create under the id of a deleted message is refused with that reason, whatever it creates. The
/// case tries at once and a day later.
async fn a_deleted_message_cannot_be_created_again(fixture: Fixture) {
    let message = fixture.published(1).await;
    fixture.store.delete_message(&message).await.unwrap();
    for wait in [days(0), days(1)] {
        fixture.clock.advance(wait);
        let created = fixture.other.create_message(&message, &content(&message.id)).await;
        assert!(
            matches!(created, Err(CreateMessageError::Tombstone(Tombstone::Deleted))),
            "{created:?}"
        );
        let new = fixture::new_webhook(fixture.now(), &message.id.reference);
        let mut webhook = fixture.rules.create(new, fixture.now());
        webhook.id = same_key(&message.id);
        let created = fixture.other.create(&webhook, &fixture::content(&webhook)).await;
        assert!(matches!(created, Err(CreateError::Tombstone(Tombstone::Deleted))), "{created:?}");
        assert_gone(&fixture, &message).await;
    }
}

/// A delete of a record that was read has no effect if the message has changed since. The case
/// tries the record before and after a write.
async fn a_message_that_has_changed_stays(fixture: Fixture) {
    let seen = fixture.published(1).await;
    let held = fixture.held(&seen, fixture.now()).await;
    for store in [&fixture.store, &fixture.other] {
        let deleted = store.delete_message(&seen).await;
        assert!(matches!(deleted, Err(DeleteError::Changed)), "{deleted:?}");
        let kept = Some((held.clone(), content(&seen.id)));
        assert_eq!(store.open_message(&seen.id).await.unwrap(), kept);
    }
    fixture.store.delete_message(&held).await.unwrap();
    assert_gone(&fixture, &held).await;
}

/// Markers and records of deliveries stay when the message is deleted, and occupy their keys. The
/// case has one delivery of each kind.
async fn markers_and_records_outlast_their_message(fixture: Fixture) {
    let message = fixture.published(2).await;
    let delivered = State::Delivered.reach(&fixture, &unstarted(&message, 0)).await;
    let deleted = unstarted(&message, 1);
    fixture.store.put_marker(&deleted.id, fixture.now().plus(days(20))).await.unwrap();
    fixture.other.delete_message(&message).await.unwrap();
    assert_eq!(fixture.store.get(&delivered.id).await.unwrap(), Some(delivered));
    assert_eq!(fixture.store.get(&deleted.id).await.unwrap(), None);
    fixture.tidied().await;
    for store in [&fixture.store, &fixture.other] {
        let claimed = fixture.rules.claim(&deleted, OURS, fixture.now()).unwrap();
        let written = store.write(&deleted, &claimed).await;
        assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
        let written = store.write_and_open(&deleted, &claimed).await;
        assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
    }
    assert_eq!(fixture.store.get(&deleted.id).await.unwrap(), None);
}

/// A delete removes one message and nothing of another. The case has two of one application with
/// the same reference id, each with a delivery.
async fn other_messages_stay(fixture: Fixture) {
    let gone = fixture.published(1).await;
    let mut new = new_message(fixture.now(), 0);
    new.application = gone.application.clone();
    new.id.reference = gone.id.reference.clone();
    new.plan.planned = vec![gone.plan[0].endpoint];
    let stays = fixture.published_as(new).await;
    let delivery = State::Retrying.reach(&fixture, &unstarted(&stays, 0)).await;
    fixture.store.put_marker(&unstarted(&gone, 0).id, fixture.now()).await.unwrap();
    fixture.store.delete_message(&gone).await.unwrap();
    let kept = Some((stays.clone(), content(&stays.id)));
    assert_eq!(fixture.store.open_message(&stays.id).await.unwrap(), kept);
    assert_eq!(fixture.other.get(&delivery.id).await.unwrap(), Some(delivery.clone()));
    eventually("only the other is listed", || async {
        same(&fixture.due_at(&delivery.id).await, &delivery.due_at)?;
        let filter = MessageFilter {
            endpoint: Some(stays.plan[0].endpoint),
            reference: Some(stays.id.reference.clone()),
            ..MessageFilter::all(stays.application.clone())
        };
        let listed = fixture.store.list_messages(&filter, None, 10).await.unwrap().items;
        same(&listed, &vec![stays.clone()])
    })
    .await;
}
