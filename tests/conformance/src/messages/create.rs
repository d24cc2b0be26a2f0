//! Create: the message and its content together, once, and in no webhook's place.

use std::{fmt::Write as _, time::Duration};

use serde_json::value::RawValue;
use shared::{
    applications::message::{PlanEntry, PublishedMessage},
    id::{MessageId, WebhookId},
    model::{Content, Webhook},
    store::{
        CreateError, CreateMessageError, DeleteError, IdState, MessageFilter, MessageIdState,
        Tombstone, WriteError, WriteMessageError,
    },
    trace::Trace,
};

use super::published::{content, fresh_endpoints, new_message, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{self, eventually, fresh_reference, same},
    races::run_concurrently,
    steps::OURS,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_published_message_is_visible_to_every_handle,
        an_unknown_message_is_missing,
        a_second_create_returns_the_stored_message,
        one_of_racing_creates_wins_with_its_own_content,
        every_field_of_a_message_is_kept,
        payloads_of_every_size_are_kept,
        a_message_has_one_name,
        neither_kind_is_found_under_the_other_s_id,
        a_message_and_a_webhook_share_no_task_id,
        nothing_is_created_under_a_tombstone,
        an_existing_message_gets_no_tombstone,
        either_a_racing_create_or_the_tombstone_wins,
    ]
}

/// Once create returns, the message and its content are visible to every process. The case reads
/// them through both handles.
async fn a_published_message_is_visible_to_every_handle(fixture: Fixture) {
    let message = fixture.published(3).await;
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.message(&message.id).await.unwrap(), Some(message.clone()));
        assert_eq!(
            store.open_message(&message.id).await.unwrap(),
            Some((message.clone(), content(&message.id)))
        );
    }
    assert!(fixture.backend.has_content(&same_key(&message.id)).await);
}

/// A read of an id that was never published finds nothing. The case tries each read.
async fn an_unknown_message_is_missing(fixture: Fixture) {
    let message = fixture.rules.publish(new_message(fixture.now(), 2), fixture.now());
    assert_not_found(&fixture, &message).await;
}

/// Checks that no read by this id finds a message, and no write or delete changes one.
async fn assert_not_found(fixture: &Fixture, message: &PublishedMessage) {
    assert_not_read(fixture, message).await;
    let next = fixture.rules.start_deleting(message, fixture.now()).unwrap();
    let written = fixture.store.write_message(message, &next).await;
    assert!(matches!(written, Err(WriteMessageError::Missing)), "{written:?}");
    let deleted = fixture.store.delete_message(message).await;
    assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
}

/// Checks that no read by this id finds a message.
async fn assert_not_read(fixture: &Fixture, message: &PublishedMessage) {
    let id = &message.id;
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.message(id).await.unwrap(), None);
        assert_eq!(store.open_message(id).await.unwrap(), None);
        assert_eq!(store.standing(id).await.unwrap(), None);
        for entry in &message.plan {
            assert_eq!(store.delivery(&id.delivery(entry.endpoint)).await.unwrap(), None);
        }
    }
}

/// A second create of a task id changes nothing and returns the stored message. A repeat of the
/// very create may succeed. The case repeats it as it was, with another plan, with another
/// reference id, and once more after a write.
async fn a_second_create_returns_the_stored_message(fixture: Fixture) {
    let first = fixture.published(1).await;
    match fixture.other.create_message(&first, &content(&first.id)).await {
        Ok(()) => {}
        Err(CreateMessageError::Conflict(stored)) => assert_eq!(*stored, first),
        other => panic!("{other:?}"),
    }
    let entries = fresh_endpoints(1).into_iter();
    let plan = entries.map(|endpoint| PlanEntry { endpoint, extended_at: None }).collect();
    let planned_otherwise = PublishedMessage { plan, ..first.clone() };
    let id = MessageId { reference: fresh_reference(), task: first.id.task };
    let renamed = PublishedMessage { id, ..first.clone() };
    let mut stored = first.clone();
    for round in 0..2 {
        for second in [&planned_otherwise, &renamed] {
            let other = Content {
                payload: RawValue::from_string("1".into()).unwrap(),
                ..content(&second.id)
            };
            match fixture.other.create_message(second, &other).await {
                Err(CreateMessageError::Conflict(found)) => assert_eq!(*found, stored),
                other => panic!("{other:?}"),
            }
            let kept = Some((stored.clone(), content(&first.id)));
            assert_eq!(fixture.store.open_message(&first.id).await.unwrap(), kept);
        }
        if round == 0 {
            stored = fixture.held(&first, fixture.now()).await;
        }
    }
    match fixture.store.create_message(&first, &content(&first.id)).await {
        Err(CreateMessageError::Conflict(found)) => assert_eq!(*found, stored),
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.store.message(&renamed.id).await.unwrap(), None);
    assert_eq!(fixture.store.message(&first.id).await.unwrap(), Some(stored));
}

/// Of concurrent creates of one task id, exactly one takes effect, and record and content come from
/// the same create. In each round, tasks on two handles race with different contents.
async fn one_of_racing_creates_wins_with_its_own_content(fixture: Fixture) {
    for round in 0..25 {
        let base = fixture.rules.publish(new_message(fixture.now(), 2), fixture.now());
        let results = run_concurrently(&fixture, 4, |index, store| {
            let correlation_id = format!("writer-{index}");
            let message = PublishedMessage { correlation_id, ..base.clone() };
            let payload = RawValue::from_string(format!("\"{index}\"")).unwrap();
            let content = Content { payload, ..content(&base.id) };
            async move { (store.create_message(&message, &content).await, message, content) }
        })
        .await;
        let stored = fixture.store.open_message(&base.id).await.unwrap().unwrap();
        let mut won = 0;
        for (created, message, content) in results {
            match created {
                Ok(()) => {
                    won += 1;
                    assert_eq!(stored, (message, content), "round {round}");
                }
                Err(CreateMessageError::Conflict(found)) => assert_eq!(*found, stored.0),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
}

/// All fields of a message are returned. The case has a message with a plan of 100 endpoints and
/// every field, and one with no endpoint.
async fn every_field_of_a_message_is_kept(fixture: Fixture) {
    let now = fixture.now();
    let mut new = new_message(now, 100);
    new.event_type = "E".repeat(128).parse().unwrap();
    new.correlation_id = "c".repeat(128);
    new.trace = Some(Trace {
        id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        sampled: true,
        state: Some("vendor=é😀".to_owned()),
    });
    new.plan.off = fresh_endpoints(3);
    new.deliver_at = Some(now.plus(Duration::from_secs(3600)));
    let mut full = fixture.published_as(new).await;
    assert_eq!(fixture.other.message(&full.id).await.unwrap(), Some(full.clone()));
    let published = full.clone();
    full.plan[7].extended_at = Some(now);
    (full.revision, full.settled, full.requeues) = (full.revision + 1, 5, 3);
    fixture.store.write_message(&published, &full).await.unwrap();
    let kept = Some((full.clone(), content(&full.id)));
    assert_eq!(fixture.other.open_message(&full.id).await.unwrap(), kept);
    let mut new = new_message(now, 0);
    new.plan.off = fresh_endpoints(1);
    let unplanned = fixture.published_as(new).await;
    assert_eq!(fixture.other.message(&unplanned.id).await.unwrap(), Some(unplanned.clone()));
    assert_eq!(fixture.standing(&unplanned.id).await.unwrap().found.len(), 0);
}

/// A payload is returned byte for byte, to a reader of the message, a reader of a delivery, and the
/// claim. The case has payloads from two bytes to the largest.
async fn payloads_of_every_size_are_kept(fixture: Fixture) {
    for bytes in [2, 500, 1100, 5000, 60_000, (1 << 20) - 17] {
        let mut payload = String::with_capacity(bytes + 16);
        payload.push('"');
        while payload.len() + 1 < bytes {
            write!(payload, "{:016x}", rand::random::<u64>()).unwrap();
        }
        payload.push('"');
        let message = fixture.rules.publish(new_message(fixture.now(), 1), fixture.now());
        let content =
            Content { payload: RawValue::from_string(payload).unwrap(), ..content(&message.id) };
        fixture.store.create_message(&message, &content).await.unwrap();
        let (_, opened) = fixture.other.open_message(&message.id).await.unwrap().unwrap();
        assert!(opened == content, "{bytes} bytes");
        let delivery = unstarted(&message, 0);
        let claimed = fixture.rules.claim(&delivery, OURS, fixture.now()).unwrap();
        assert!(fixture.store.write_and_open(&delivery, &claimed).await.unwrap() == content);
        let (found, opened) = fixture.other.open(&delivery.id).await.unwrap().unwrap();
        assert!(found == claimed && opened == content, "{bytes} bytes");
    }
}

/// A message has one name, its whole id. The case uses the same task id with another reference id,
/// for the message and for a delivery that has a record. (A write names a record that its caller
/// has read.)
async fn a_message_has_one_name(fixture: Fixture) {
    let message = fixture.published(1).await;
    let delivery = unstarted(&message, 0);
    let now = fixture.now();
    let claimed = fixture.step(&delivery, |rules, first| rules.claim(first, OURS, now)).await;
    let id = MessageId { reference: fresh_reference(), task: message.id.task };
    let renamed = PublishedMessage { id: id.clone(), ..message.clone() };
    assert_not_read(&fixture, &renamed).await;
    let deleted = fixture.store.delete_message(&renamed).await;
    assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    let renamed_id = id.delivery(message.plan[0].endpoint);
    let renamed = Webhook { id: renamed_id.clone(), ..claimed.clone() };
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(&renamed_id).await.unwrap(), None);
        assert_eq!(store.open(&renamed_id).await.unwrap(), None);
        let deleted = store.delete(&renamed_id).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
        let deleted = store.delete_unchanged(&renamed).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    }
    assert_eq!(fixture.store.message(&message.id).await.unwrap(), Some(message));
    assert_eq!(fixture.store.get(&delivery.id).await.unwrap(), Some(claimed));
}

/// A call that finds the other kind under its task id finds nothing and changes nothing. The case
/// makes each call for webhooks with the id of a message, and the reverse.
async fn neither_kind_is_found_under_the_other_s_id(fixture: Fixture) {
    let (message, webhook) = (fixture.published(1).await, fixture.created().await);
    let now = fixture.now();
    let new = fixture::new_webhook(now, &message.id.reference);
    let in_its_place = Webhook { id: same_key(&message.id), ..fixture.rules.create(new, now) };
    let revised = Webhook { revision: message.revision, ..in_its_place.clone() };
    for seen in [&in_its_place, &revised] {
        assert_eq!(fixture.store.get(&seen.id).await.unwrap(), None);
        assert_eq!(fixture.other.open(&seen.id).await.unwrap(), None);
        let claimed = fixture.rules.claim(seen, OURS, now).unwrap();
        let written = fixture.store.write(seen, &claimed).await;
        assert!(matches!(written, Err(WriteError::Missing)), "{written:?}");
        let deleted = fixture.store.delete_unchanged(seen).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    }
    let deleted = fixture.store.delete(&in_its_place.id).await;
    assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
    let created = fixture.store.create(&in_its_place, &fixture::content(&in_its_place)).await;
    assert!(matches!(created, Err(CreateError::Store(_))), "{created:?}");
    let kept = Some((message.clone(), content(&message.id)));
    assert_eq!(fixture.other.open_message(&message.id).await.unwrap(), kept);

    let WebhookId { reference, task, .. } = webhook.id.clone();
    let id = MessageId { reference, task };
    let in_its_place = PublishedMessage { id, revision: webhook.revision, ..message };
    assert_not_found(&fixture, &in_its_place).await;
    let created = fixture.store.create_message(&in_its_place, &content(&in_its_place.id)).await;
    assert!(matches!(created, Err(CreateMessageError::Store(_))), "{created:?}");
    let kept = Some((webhook.clone(), fixture::content(&webhook)));
    assert_eq!(fixture.other.open(&webhook.id).await.unwrap(), kept);
}

/// A task id names a webhook or a message, never both. In each round, a create of either kind
/// races, and one of them takes effect.
async fn a_message_and_a_webhook_share_no_task_id(fixture: Fixture) {
    for round in 0..40 {
        let now = fixture.now();
        let message = fixture.rules.publish(new_message(now, 1), now);
        let new = fixture::new_webhook(now, &message.id.reference);
        let webhook = Webhook { id: same_key(&message.id), ..fixture.rules.create(new, now) };
        let created = run_concurrently(&fixture, 2, |index, store| {
            let (message, webhook) = (message.clone(), webhook.clone());
            async move {
                if (index + round) % 2 == 0 {
                    (true, store.create_message(&message, &content(&message.id)).await.is_ok())
                } else {
                    (false, store.create(&webhook, &fixture::content(&webhook)).await.is_ok())
                }
            }
        })
        .await;
        let winners: Vec<bool> =
            created.iter().filter(|(_, is_ok)| *is_ok).map(|(is_message, _)| *is_message).collect();
        assert_eq!(winners.len(), 1, "round {round}: {created:?}");
        let found = fixture.other.open_message(&message.id).await.unwrap();
        let expected = winners[0].then(|| (message.clone(), content(&message.id)));
        assert_eq!(found, expected, "round {round}");
        let found = fixture.other.open(&webhook.id).await.unwrap();
        let expected = (!winners[0]).then(|| (webhook.clone(), fixture::content(&webhook)));
        assert_eq!(found, expected, "round {round}");
    }
}

/// A create under an id with a tombstone is refused with its reason and stores nothing. The case
/// tries both kinds of create with a tombstone of either kind.
async fn nothing_is_created_under_a_tombstone(fixture: Fixture) {
    for is_of_message in [true, false] {
        let now = fixture.now();
        let message = fixture.rules.publish(new_message(now, 1), now);
        let new = fixture::new_webhook(now, &message.id.reference);
        let webhook = Webhook { id: same_key(&message.id), ..fixture.rules.create(new, now) };
        for _ in 0..2 {
            if is_of_message {
                let state = fixture.store.tombstone_message_id(&message.id).await.unwrap();
                assert_eq!(state, MessageIdState::Tombstone(Tombstone::Unused));
            } else {
                let state = fixture.store.tombstone_id(&webhook.id).await.unwrap();
                assert_eq!(state, IdState::Tombstone(Tombstone::Unused));
            }
            let created = fixture.other.create_message(&message, &content(&message.id)).await;
            assert!(
                matches!(created, Err(CreateMessageError::Tombstone(Tombstone::Unused))),
                "{created:?}"
            );
            let created = fixture.other.create(&webhook, &fixture::content(&webhook)).await;
            assert!(
                matches!(created, Err(CreateError::Tombstone(Tombstone::Unused))),
                "{created:?}"
            );
        }
        assert_not_found(&fixture, &message).await;
        assert!(!fixture.backend.has_content(&webhook.id).await);
        eventually("nothing is listed", || async {
            let filter = MessageFilter::all(message.application.clone());
            same(&fixture.store.list_messages(&filter, None, 10).await.unwrap().items, &vec![])
        })
        .await;
    }
}

/// An existing message gets no tombstone: the call returns it, and it can still be written. After a
/// delete, the id has the tombstone of a deleted message.
async fn an_existing_message_gets_no_tombstone(fixture: Fixture) {
    let message = fixture.published(1).await;
    let state = fixture.other.tombstone_message_id(&message.id).await.unwrap();
    assert_eq!(state, MessageIdState::Message(Box::new(message.clone())));
    let held = fixture.held(&message, fixture.now()).await;
    let state = fixture.other.tombstone_message_id(&message.id).await.unwrap();
    assert_eq!(state, MessageIdState::Message(Box::new(held.clone())));
    let kept = Some((held.clone(), content(&held.id)));
    assert_eq!(fixture.store.open_message(&held.id).await.unwrap(), kept);
    fixture.store.delete_message(&held).await.unwrap();
    let state = fixture.other.tombstone_message_id(&held.id).await.unwrap();
    assert_eq!(state, MessageIdState::Tombstone(Tombstone::Deleted));
}

/// Either the message is created and the tombstone call returns it, or it can never be created. In
/// each round, two tasks on two handles race.
async fn either_a_racing_create_or_the_tombstone_wins(fixture: Fixture) {
    for round in 0..40 {
        let message = fixture.rules.publish(new_message(fixture.now(), 1), fixture.now());
        let mut results = run_concurrently(&fixture, 2, |index, store| {
            let message = message.clone();
            async move {
                if (index + round) % 2 == 0 {
                    (Some(store.create_message(&message, &content(&message.id)).await), None)
                } else {
                    (None, Some(store.tombstone_message_id(&message.id).await.unwrap()))
                }
            }
        })
        .await;
        results.sort_by_key(|(created, _)| created.is_none());
        let (created, state) = (results[0].0.take().unwrap(), results[1].1.take().unwrap());
        let stored = fixture.store.open_message(&message.id).await.unwrap();
        match created {
            Ok(()) => {
                let expected = MessageIdState::Message(Box::new(message.clone()));
                assert_eq!(state, expected, "round {round}");
                let content = content(&message.id);
                assert_eq!(stored, Some((message, content)), "round {round}");
            }
            Err(CreateMessageError::Tombstone(Tombstone::Unused)) => {
                let expected = MessageIdState::Tombstone(Tombstone::Unused);
                assert_eq!((state, stored), (expected, None), "round {round}");
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
}
