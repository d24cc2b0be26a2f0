//! Markers: a deleted delivery does not come back.

use std::time::Duration;

use shared::{
    applications::{message::KEY_OCCUPIED, standing::Found},
    model::Webhook,
    store::{DeadLetterFilter, DeleteError, Filter, WriteError},
};

use super::published::{State, content, days, new_message, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        no_write_replaces_a_marker,
        a_marker_replaces_the_record_and_its_index_entries,
        a_marker_needs_no_message,
        the_later_time_of_two_markers_stays,
        a_deleted_delivery_leaves_a_marker,
        deleting_a_delivery_without_a_record_leaves_a_marker,
        a_delivery_that_was_made_meanwhile_stays,
        a_marker_lasts_from_the_time_at_which_the_delivery_is_allowed,
    ]
}

/// Checks that a marker has the key, and that no write makes or changes a record there. The message
/// must exist.
async fn assert_marked(fixture: &Fixture, delivery: &Webhook) {
    let id = &delivery.id;
    let first = Webhook { revision: 0, ..delivery.clone() };
    let next = |before: &Webhook| Webhook { revision: before.revision + 1, ..before.clone() };
    for store in [&fixture.store, &fixture.other] {
        for before in [&first, delivery] {
            let written = store.write(before, &next(before)).await;
            assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
            let written = store.write_and_open(before, &next(before)).await;
            assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
        }
        assert_eq!(store.get(id).await.unwrap(), None);
        assert_eq!(store.open(id).await.unwrap(), None);
        let deleted = store.delete(id).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    }
    assert_eq!(fixture.found(id).await, Some(Found::Marker));
    let standing = fixture.standing(&id.message_id().unwrap()).await.unwrap();
    assert_eq!(standing.found.get(&id.endpoint.unwrap()), Some(&Found::Marker));
    assert_eq!(fixture.due_at(id).await, None);
}

/// A write finds a marker and is refused as missing. The case puts one on a vacant key and tries
/// the first write and a later one, at once, and after 19 days and housekeeping.
async fn no_write_replaces_a_marker(fixture: Fixture) {
    let message = fixture.published(2).await;
    let delivery = unstarted(&message, 0);
    fixture.store.put_marker(&delivery.id, fixture.now().plus(KEY_OCCUPIED)).await.unwrap();
    assert_marked(&fixture, &delivery).await;
    fixture.clock.advance(days(19));
    fixture.tidied().await;
    assert_marked(&fixture, &delivery).await;
    assert_eq!(fixture.found(&unstarted(&message, 1).id).await, None, "the other key is vacant");
    let kept = Some((message.clone(), content(&message.id)));
    assert_eq!(fixture.store.open_message(&message.id).await.unwrap(), kept);
}

/// A marker takes the place of any record, and no index has the delivery any more. The message and
/// the other deliveries stay. The case has a delivery in each state.
async fn a_marker_replaces_the_record_and_its_index_entries(fixture: Fixture) {
    let message = fixture.published(State::ALL.len() + 1).await;
    let other = State::Retrying.reach(&fixture, &unstarted(&message, State::ALL.len())).await;
    for (index, state) in State::ALL.into_iter().enumerate() {
        let stored = state.reach(&fixture, &unstarted(&message, index)).await;
        let until = fixture.now().plus(KEY_OCCUPIED);
        fixture.other.put_marker(&stored.id, until).await.unwrap();
        eventually(&format!("no index has the delivery ({state:?})"), || async {
            same(&fixture.due_at(&stored.id).await, &None)?;
            let application = message.application.clone();
            let endpoint = stored.id.endpoint.unwrap();
            for filter in [DeadLetterFilter::All, DeadLetterFilter::Endpoint(application, endpoint)]
            {
                let letters = fixture.store.dead_letters(&filter, None, 100).await.unwrap().items;
                same(&letters.iter().any(|letter| letter.webhook.id == stored.id), &false)?;
            }
            let items = fixture.store.list(&Filter::default(), None, 100).await.unwrap().items;
            same(&items.iter().any(|item| item.webhook.id == stored.id), &false)
        })
        .await;
        assert_marked(&fixture, &stored).await;
    }
    assert_eq!(fixture.store.get(&other.id).await.unwrap(), Some(other.clone()));
    eventually("the other's entry", || async {
        same(&fixture.due_at(&other.id).await, &other.due_at)
    })
    .await;
    assert!(fixture.backend.has_content(&same_key(&message.id)).await);
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
}

/// A marker can be put where there is no message. The case then publishes that message.
async fn a_marker_needs_no_message(fixture: Fixture) {
    let message = fixture.rules.publish(new_message(fixture.now(), 2), fixture.now());
    let delivery = unstarted(&message, 1);
    fixture.store.put_marker(&delivery.id, fixture.now().plus(KEY_OCCUPIED)).await.unwrap();
    assert_eq!(fixture.other.delivery(&delivery.id).await.unwrap(), None);
    assert_eq!(fixture.other.standing(&message.id).await.unwrap(), None);
    let created_at = message.id.task.created_at();
    let until = created_at.plus(Duration::from_millis(1));
    assert_eq!(fixture.store.list_unindexed(created_at, until, None).await.unwrap().items, []);
    let listed = fixture.store.list(&Filter::default(), None, 100).await.unwrap().items;
    assert!(listed.iter().all(|listed| listed.webhook.id != delivery.id));
    fixture.store.create_message(&message, &content(&message.id)).await.unwrap();
    assert_marked(&fixture, &delivery).await;
    let standing = fixture.standing(&message.id).await.unwrap();
    assert_eq!(standing.found.len(), 1);
}

/// A marker lasts until the latest of the times that it was put with. The case puts a later and an
/// earlier time over the first one, in both orders.
async fn the_later_time_of_two_markers_stays(fixture: Fixture) {
    let published = fixture.published(3).await;
    let message = fixture.held(&published, fixture.now()).await;
    let (short, long) = (fixture.now().plus(days(1)), fixture.now().plus(days(30)));
    for (index, times) in
        [[short, long, short], [long, short, short], [short, short, long]].into_iter().enumerate()
    {
        for (turn, until) in times.into_iter().enumerate() {
            let store = if turn % 2 == 0 { &fixture.store } else { &fixture.other };
            store.put_marker(&unstarted(&message, index).id, until).await.unwrap();
        }
    }
    fixture.clock.advance(days(29));
    fixture.tidied().await;
    for index in 0..3 {
        assert_marked(&fixture, &unstarted(&message, index)).await;
    }
}

/// A delete of one delivery leaves a marker, for 20 days. The message and its content stay. The
/// case deletes a delivery in each state, by each kind of delete.
async fn a_deleted_delivery_leaves_a_marker(fixture: Fixture) {
    let message = fixture.published(2 * State::ALL.len()).await;
    let mut deleted = Vec::new();
    for index in 0..2 * State::ALL.len() {
        let state = State::ALL[index / 2];
        let stored = state.reach(&fixture, &unstarted(&message, index)).await;
        if index % 2 == 0 {
            fixture.other.delete(&stored.id).await.unwrap();
        } else {
            let ahead = Webhook { revision: stored.revision + 1, ..stored.clone() };
            let refused = fixture.store.delete_unchanged(&ahead).await;
            assert!(matches!(refused, Err(DeleteError::Changed)), "{refused:?}");
            assert_eq!(fixture.other.get(&stored.id).await.unwrap().as_ref(), Some(&stored));
            fixture.store.delete_unchanged(&stored).await.unwrap();
            let again = fixture.store.delete_unchanged(&stored).await;
            assert!(matches!(again, Err(DeleteError::Missing)), "{again:?}");
        }
        deleted.push(stored);
    }
    for webhook in &deleted {
        eventually("it left the due index", || async {
            same(&fixture.due_at(&webhook.id).await, &None)
        })
        .await;
        assert_marked(&fixture, webhook).await;
    }
    fixture.clock.advance(days(19));
    fixture.tidied().await;
    for webhook in &deleted {
        assert_marked(&fixture, webhook).await;
    }
    let kept = Some((message.clone(), content(&message.id)));
    assert_eq!(fixture.store.open_message(&message.id).await.unwrap(), kept);
}

/// A delivery that has no record is deleted by the call that names what the caller saw, and by no
/// other. The case tries each call on a vacant key.
async fn deleting_a_delivery_without_a_record_leaves_a_marker(fixture: Fixture) {
    let message = fixture.published(1).await;
    let delivery = unstarted(&message, 0);
    let blind = fixture.store.delete(&delivery.id).await;
    assert!(matches!(blind, Err(DeleteError::Missing)), "{blind:?}");
    let stale = Webhook { revision: 1, ..delivery.clone() };
    let refused = fixture.store.delete_unchanged(&stale).await;
    assert!(matches!(refused, Err(DeleteError::Missing)), "{refused:?}");
    assert_eq!(fixture.found(&delivery.id).await, None, "the key is still vacant");
    fixture.other.delete_unchanged(&delivery).await.unwrap();
    assert_marked(&fixture, &delivery).await;
    fixture.clock.advance(days(19));
    fixture.tidied().await;
    assert_marked(&fixture, &delivery).await;
}

/// A delete of a delivery without a record has no effect if it has one meanwhile. The case makes
/// the record first, in each state.
async fn a_delivery_that_was_made_meanwhile_stays(fixture: Fixture) {
    let message = fixture.published(State::ALL.len()).await;
    for (index, state) in State::ALL.into_iter().enumerate() {
        let seen = unstarted(&message, index);
        let stored = state.reach(&fixture, &seen).await;
        for store in [&fixture.store, &fixture.other] {
            let deleted = store.delete_unchanged(&seen).await;
            assert!(matches!(deleted, Err(DeleteError::Changed)), "{state:?}: {deleted:?}");
            assert_eq!(store.get(&seen.id).await.unwrap().as_ref(), Some(&stored));
        }
    }
}

/// A delivery that is allowed in ten days stays deleted for 20 days from then, because its look may
/// come as late. The case deletes a scheduled delivery without a record and one that was held, and
/// looks 29 days later.
async fn a_marker_lasts_from_the_time_at_which_the_delivery_is_allowed(fixture: Fixture) {
    let mut new = new_message(fixture.now(), 2);
    new.deliver_at = Some(fixture.now().plus(days(10)));
    let message = fixture.published_as(new).await;
    let vacant = unstarted(&message, 0);
    fixture.store.delete_unchanged(&vacant).await.unwrap();
    let held = State::Held.reach(&fixture, &unstarted(&message, 1)).await;
    assert_eq!(held.allowed_at, Some(message.allowed_at));
    fixture.store.delete(&held.id).await.unwrap();
    fixture.clock.advance(days(29));
    fixture.tidied().await;
    for delivery in [&vacant, &held] {
        assert_marked(&fixture, delivery).await;
    }
}
