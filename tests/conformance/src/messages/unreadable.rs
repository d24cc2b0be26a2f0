//! Messages and deliveries that this version cannot read: reported by id, left unchanged, and no
//! obstacle to others.

use shared::{
    applications::standing::Found,
    id::WebhookId,
    model::{APPLICATIONS_SCHEMA, InvalidRecord},
    store::{
        CreateMessageError, MAX_READ, MessageFilter, StoreError, WriteError, WriteMessageError,
    },
};

use super::published::{State, content, days, new_message, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_newer_message_is_refused_and_not_changed,
        a_newer_message_stays_due_and_hides_no_other,
        a_newer_delivery_is_refused_and_not_changed,
        a_newer_delivery_can_be_deleted,
    ]
}

/// A record of a newer version, in a different shape.
pub(super) fn newer(id: &WebhookId) -> String {
    format!(r#"{{"v":{},"id":"{id}","r":"another shape"}}"#, APPLICATIONS_SCHEMA + 1)
}

fn assert_too_new(error: &StoreError, id: &str) {
    let is_it = matches!(error, StoreError::Unreadable { id: named, source }
        if named == id && matches!(source, InvalidRecord::TooNew { found }
            if *found == APPLICATIONS_SCHEMA + 1));
    assert!(is_it, "{error:?}");
}

/// After a rollback, the messages of the newer version survive. Every call that needs such a record
/// returns an error, and no write replaces it. The case reads, writes, creates, and reads again.
async fn a_newer_message_is_refused_and_not_changed(fixture: Fixture) {
    let message = fixture.published(1).await;
    let id = message.id.to_string();
    fixture.backend.plant_record(&same_key(&message.id), &newer(&same_key(&message.id))).await;
    let next = fixture.rules.start_deleting(&message, fixture.now()).unwrap();
    for store in [&fixture.store, &fixture.other] {
        for _ in 0..2 {
            assert_too_new(&store.message(&message.id).await.unwrap_err(), &id);
            assert_too_new(&store.open_message(&message.id).await.unwrap_err(), &id);
            assert_too_new(&store.standing(&message.id).await.unwrap_err(), &id);
            match store.write_message(&message, &next).await {
                Err(WriteMessageError::Store(error)) => assert_too_new(&error, &id),
                other => panic!("{other:?}"),
            }
            match store.create_message(&message, &content(&message.id)).await {
                Err(CreateMessageError::Store(error)) => assert_too_new(&error, &id),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(fixture.backend.has_content(&same_key(&message.id)).await);
}

/// A newer message keeps its place in the due index, and lists and the audit pass it. The case has
/// one among five of an application.
async fn a_newer_message_stays_due_and_hides_no_other(fixture: Fixture) {
    let mut messages = Vec::new();
    let application = super::published::fresh_application();
    for millis in 0..5 {
        let mut new = new_message(fixture.at(millis), 1);
        new.application = application.clone();
        messages.push(fixture.published_as(new).await);
    }
    let planted = fixture.held(&messages.remove(2), fixture.at(0)).await;
    fixture.backend.plant_record(&same_key(&planted.id), &newer(&same_key(&planted.id))).await;
    messages.reverse();
    for limit in [1, 2, 100] {
        eventually("the others are listed", || async {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let filter = MessageFilter::all(application.clone());
                let page = fixture.store.list_messages(&filter, after, limit).await.unwrap();
                found.extend(page.items);
                after = page.next;
                if after.is_none() {
                    return same(&found, &messages);
                }
            }
        })
        .await;
    }
    let audited = fixture.list_unheld(fixture.at(0), fixture.at(5)).await;
    let mut expected: Vec<_> = messages.iter().map(|message| message.id.task).collect();
    expected.sort();
    assert_eq!(audited, expected);
    let due = fixture.store.due(fixture.at(0), None, MAX_READ).await.unwrap();
    let entries: Vec<_> = due.entries.iter().map(|entry| entry.id.task()).collect();
    assert!(entries.contains(&planted.id.task), "it stays due");
}

/// After a rollback, the deliveries of the newer version survive. Their keys are occupied, and the
/// standing says so. The case tries the first write and a later one.
async fn a_newer_delivery_is_refused_and_not_changed(fixture: Fixture) {
    let message = fixture.published(1).await;
    let delivery = unstarted(&message, 0);
    let stored = State::InProgress.reach(&fixture, &delivery).await;
    let id = delivery.id.to_string();
    fixture.backend.plant_record(&delivery.id, &newer(&delivery.id)).await;
    let claimed = fixture.rules.claim(&delivery, OURS, fixture.now()).unwrap();
    let mut later = stored.clone();
    later.revision += 1;
    for store in [&fixture.store, &fixture.other] {
        assert_too_new(&store.get(&delivery.id).await.unwrap_err(), &id);
        assert_too_new(&store.open(&delivery.id).await.unwrap_err(), &id);
        for (before, after) in [(&delivery, &claimed), (&stored, &later)] {
            for error in [
                store.write(before, after).await.unwrap_err(),
                store.write_and_open(before, after).await.map(drop).unwrap_err(),
            ] {
                match error {
                    WriteError::Store(error) => assert_too_new(&error, &id),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_too_new(&store.get(&delivery.id).await.unwrap_err(), &id);
    }
    assert_eq!(fixture.found(&delivery.id).await, Some(Found::Unreadable));
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
}

/// An operator can delete a newer delivery, which leaves a marker, and the deletion of its message
/// replaces it by one. The case does both.
async fn a_newer_delivery_can_be_deleted(fixture: Fixture) {
    let message = fixture.published(2).await;
    for index in 0..2 {
        let delivery = State::Retrying.reach(&fixture, &unstarted(&message, index)).await;
        fixture.backend.plant_record(&delivery.id, &newer(&delivery.id)).await;
        if index == 0 {
            fixture.other.delete(&delivery.id).await.unwrap();
        } else {
            let until = fixture.now().plus(days(20));
            fixture.other.put_marker(&delivery.id, until).await.unwrap();
        }
        assert_eq!(fixture.found(&delivery.id).await, Some(Found::Marker));
        assert_eq!(fixture.store.get(&delivery.id).await.unwrap(), None);
        eventually("it is not due", || async { same(&fixture.due_at(&delivery.id).await, &None) })
            .await;
    }
}
