//! Concurrent writers of a message and of its deliveries over two handles. Each case runs many
//! rounds, because a race condition does not show each time.

use std::sync::Arc;

use shared::{
    applications::{
        message::{KEY_OCCUPIED, PublishedMessage},
        standing::Found,
    },
    apply::{
        Applied, AppliedToMessage, apply, apply_and_open, apply_to_message, apply_to_standing,
    },
    clock::Timestamp,
    id::WebhookId,
    model::{ClaimId, Webhook},
    store::{DeleteError, MessageFilter, Store, WriteError, WriteMessageError},
    transition::{MessageRefusal, Rules},
};

use super::published::{State, content, extended, fresh_endpoints, same_key, unstarted};
use crate::{
    Case, Fixture, area,
    fixture::{eventually, same},
    races::run_concurrently,
    steps::answered,
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_marker_wins_against_racing_writes,
        either_the_first_write_or_the_delete_wins,
        no_delivery_appears_after_its_message_was_deleted,
        a_settled_message_has_no_open_delivery,
        a_claim_and_a_settle_both_take_effect,
        an_extension_and_a_deletion_do_not_undo_each_other,
        nothing_restores_a_deleted_message,
        a_message_is_not_deleted_over_a_change,
    ]
}

/// Claims the delivery and writes the outcome of its attempt, as a worker does. Returns the last
/// record that it wrote.
async fn attempt(
    store: Arc<dyn Store>,
    rules: Rules,
    delivery: Webhook,
    (claim, status_code): (ClaimId, u16),
    now: Timestamp,
) -> Option<Webhook> {
    let claimed = apply_and_open(&*store, delivery, |webhook| rules.claim(webhook, claim, now));
    let Applied::Done(claimed, opened) = claimed.await.unwrap() else { return None };
    assert_eq!(opened, content(&claimed.id.message_id().unwrap()));
    let report = answered(status_code);
    let conclude = |webhook: &Webhook| rules.conclude(webhook, claim, &report, now, 0.5);
    match apply(&*store, claimed.clone(), conclude).await.unwrap() {
        Applied::Done(concluded, ()) => Some(concluded),
        Applied::Missing | Applied::Refused(..) => Some(claimed),
    }
}

async fn assert_no_record(fixture: &Fixture, id: &WebhookId, round: usize) {
    for store in [&fixture.store, &fixture.other] {
        assert_eq!(store.get(id).await.unwrap(), None, "round {round}");
    }
    eventually("it is not due", || async { same(&fixture.due_at(id).await, &None) }).await;
}

/// No write that started before a marker brings the delivery back. In each round, two workers
/// attempt a delivery while a third task puts its marker.
async fn a_marker_wins_against_racing_writes(fixture: Fixture) {
    for round in 0..40 {
        let message = fixture.published(1).await;
        let (delivery, now) = (unstarted(&message, 0), fixture.now());
        run_concurrently(&fixture, 3, |index, store| {
            let (delivery, rules) = (delivery.clone(), fixture.rules.clone());
            async move {
                if (index + round) % 3 == 0 {
                    store.put_marker(&delivery.id, now.plus(KEY_OCCUPIED)).await.unwrap();
                } else {
                    let worker = (ClaimId(index as u64 + 1), 500);
                    attempt(store, rules, delivery, worker, now).await;
                }
            }
        })
        .await;
        assert_no_record(&fixture, &delivery.id, round).await;
        assert_eq!(fixture.found(&delivery.id).await, Some(Found::Marker), "round {round}");
        let claimed = fixture.rules.claim(&delivery, ClaimId(9), now).unwrap();
        let written = fixture.store.write(&delivery, &claimed).await;
        assert!(matches!(written, Err(WriteError::Missing)), "round {round}: {written:?}");
    }
}

/// Of a delete of a delivery without a record and its first write, one takes effect, and the other
/// learns of it. In each round, both race.
async fn either_the_first_write_or_the_delete_wins(fixture: Fixture) {
    for round in 0..40 {
        let message = fixture.published(1).await;
        let delivery = unstarted(&message, 0);
        let claimed = fixture.rules.claim(&delivery, ClaimId(1), fixture.now()).unwrap();
        let mut results = run_concurrently(&fixture, 2, |index, store| {
            let (delivery, claimed) = (delivery.clone(), claimed.clone());
            async move {
                if (index + round) % 2 == 0 {
                    (Some(store.write(&delivery, &claimed).await), None)
                } else {
                    (None, Some(store.delete_unchanged(&delivery).await))
                }
            }
        })
        .await;
        results.sort_by_key(|(written, _)| written.is_none());
        let (written, deleted) = (results[0].0.take().unwrap(), results[1].1.take().unwrap());
        let found = fixture.found(&delivery.id).await;
        match (written, deleted) {
            (Ok(()), Err(DeleteError::Changed)) => {
                assert_eq!(found, Some(Found::Record(Box::new(claimed))), "round {round}");
            }
            (Err(WriteError::Missing), Ok(())) => {
                assert_eq!(found, Some(Found::Marker), "round {round}");
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
}

/// Marks the deletion, puts a marker for each planned delivery, and deletes the message: section
/// 4.1 of the design.
async fn delete(store: &dyn Store, rules: &Rules, message: PublishedMessage, now: Timestamp) {
    let id = message.id.clone();
    let start = apply_to_message(store, message, |message| rules.start_deleting(message, now));
    assert!(matches!(start.await.unwrap(), AppliedToMessage::Done(_)));
    loop {
        let deleting = store.message(&id).await.unwrap().expect("no other task deletes it");
        for entry in &deleting.plan {
            let delivery = id.delivery(entry.endpoint);
            store.put_marker(&delivery, deleting.marker_until(entry, now)).await.unwrap();
        }
        match store.delete_message(&deleting).await {
            Ok(()) => return,
            Err(DeleteError::Changed) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Once a message was deleted, none of its deliveries has a record, and none ever gets one. In each
/// round, three workers attempt its deliveries while a fourth task deletes it. Their late writes
/// are refused.
async fn no_delivery_appears_after_its_message_was_deleted(fixture: Fixture) {
    for round in 0..30 {
        let message = fixture.published(3).await;
        let now = fixture.now();
        run_concurrently(&fixture, 4, |index, store| {
            let (message, rules) = (message.clone(), fixture.rules.clone());
            async move {
                let task = (index + round) % 4;
                if task == 3 {
                    delete(&*store, &rules, message, now).await;
                } else {
                    let worker = (ClaimId(1), [200, 410, 500][(task + round) % 3]);
                    attempt(store, rules, unstarted(&message, task), worker, now).await;
                }
            }
        })
        .await;
        assert_eq!(fixture.other.open_message(&message.id).await.unwrap(), None);
        assert!(!fixture.backend.has_content(&same_key(&message.id)).await, "round {round}");
        for index in 0..3 {
            let delivery = unstarted(&message, index);
            assert_no_record(&fixture, &delivery.id, round).await;
            let claimed = fixture.rules.claim(&delivery, ClaimId(9), now).unwrap();
            let written = fixture.store.write_and_open(&delivery, &claimed).await;
            assert!(matches!(written, Err(WriteError::Missing)), "round {round}: {written:?}");
            assert_no_record(&fixture, &delivery.id, round).await;
        }
        eventually("it left the indexes", || async {
            same(&fixture.message_due_at(&message.id).await, &None)?;
            let filter = MessageFilter::all(message.application.clone());
            same(&fixture.store.list_messages(&filter, None, 10).await.unwrap().items, &vec![])
        })
        .await;
    }
}

/// A message settles only when each delivery is accounted for, and no later write of a delivery
/// changes that. In each round, a worker concludes both deliveries while another task settles the
/// message as soon as it may. At that moment it reads both deliveries as delivered.
async fn a_settled_message_has_no_open_delivery(fixture: Fixture) {
    for round in 0..30 {
        let published = fixture.published(2).await;
        let now = fixture.now();
        let message = fixture.held(&published, now).await;
        run_concurrently(&fixture, 3, |index, store| {
            let (message, rules) = (message.clone(), fixture.rules.clone());
            async move {
                let task = (index + round) % 3;
                if task < 2 {
                    let delivery = unstarted(&message, task);
                    attempt(store, rules, delivery, (ClaimId(1), 200), now).await.unwrap();
                    return;
                }
                let settle = || async {
                    let settled = apply_to_standing(&*store, None, &message.id, |standing| {
                        rules.settle(standing, now)
                    });
                    match settled.await.unwrap() {
                        AppliedToMessage::Done(settled) => Ok(settled),
                        AppliedToMessage::Refused(MessageRefusal::Unaccounted, _) => {
                            Err("not accounted for".to_owned())
                        }
                        other => panic!("{other:?}"),
                    }
                };
                let settled = eventually("it settles", settle).await;
                assert_eq!((settled.due_at, settled.settled), (None, 2));
                for entry in &settled.plan {
                    let id = settled.id.delivery(entry.endpoint);
                    let found = store.get(&id).await.unwrap().expect("it has a record");
                    assert!(found.status.is_finished(), "round {round}: {}", found.status);
                }
            }
        })
        .await;
        let standing = fixture.standing(&message.id).await.unwrap();
        assert!(standing.accounts_for_all(now) && !standing.is_unheld(), "round {round}");
    }
}

/// The due index keeps a delivery that waits for another attempt, so its message settles while a
/// worker claims it. Neither write disturbs the other. In each round, both happen at once.
async fn a_claim_and_a_settle_both_take_effect(fixture: Fixture) {
    for round in 0..30 {
        let published = fixture.published(1).await;
        let message = fixture.held(&published, fixture.now()).await;
        let retrying = State::Retrying.reach(&fixture, &unstarted(&message, 0)).await;
        let now = retrying.allowed_at.unwrap();
        run_concurrently(&fixture, 2, |index, store| {
            let (message, rules) = (message.clone(), fixture.rules.clone());
            let retrying = retrying.clone();
            async move {
                if (index + round) % 2 == 0 {
                    let worker = (ClaimId(1), 200);
                    attempt(store, rules, retrying, worker, now).await.unwrap();
                    return;
                }
                let settled = apply_to_standing(&*store, None, &message.id, |standing| {
                    rules.settle(standing, now)
                });
                let settled = settled.await.unwrap();
                assert!(matches!(settled, AppliedToMessage::Done(_)), "round {round}: {settled:?}");
            }
        })
        .await;
        let standing = fixture.standing(&message.id).await.unwrap();
        assert_eq!((standing.message.due_at, standing.message.settled), (None, 1));
        assert!(standing.accounts_for_all(now) && !standing.is_unheld(), "round {round}");
        let found = fixture.store.get(&retrying.id).await.unwrap().unwrap();
        assert!(found.delivered_at.is_some(), "round {round}: {found:?}");
    }
}

/// Adds an endpoint to the plan of a message that is not being deleted. Returns it.
async fn extend(store: &dyn Store, message: PublishedMessage, now: Timestamp) -> AppliedToMessage {
    let endpoint = fresh_endpoints(1)[0];
    let extend = |message: &PublishedMessage| {
        if message.deleting {
            return Err(MessageRefusal::Deleting);
        }
        Ok(extended(message, endpoint, now))
    };
    apply_to_message(store, message, extend).await.unwrap()
}

/// A longer plan and the begin of a deletion are writes of one record. In each round both race: the
/// deletion has begun in the end, and the plan is longer exactly if that write took effect.
async fn an_extension_and_a_deletion_do_not_undo_each_other(fixture: Fixture) {
    for round in 0..40 {
        let message = fixture.published(1).await;
        let now = fixture.now();
        let results = run_concurrently(&fixture, 2, |index, store| {
            let (message, rules) = (message.clone(), fixture.rules.clone());
            async move {
                if (index + round) % 2 == 0 {
                    return Some(extend(&*store, message, now).await);
                }
                let start =
                    apply_to_message(&*store, message, |seen| rules.start_deleting(seen, now));
                let started = start.await.unwrap();
                assert!(matches!(started, AppliedToMessage::Done(_)), "{started:?}");
                None
            }
        })
        .await;
        let extension = results.into_iter().flatten().next().unwrap();
        let stored = fixture.other.message(&message.id).await.unwrap().unwrap();
        assert!(stored.deleting, "round {round}");
        let is_extended = match &extension {
            AppliedToMessage::Done(_) => true,
            AppliedToMessage::Refused(MessageRefusal::Deleting, _) => false,
            other => panic!("{other:?}"),
        };
        let expected =
            (message.revision + 1 + u64::from(is_extended), 1 + usize::from(is_extended));
        assert_eq!((stored.revision, stored.plan.len()), expected, "round {round}");
        eventually("it is due", || async {
            same(&fixture.message_due_at(&message.id).await, &stored.due_at)
        })
        .await;
    }
}

/// A write of a message that was deleted meanwhile restores nothing. In each round, one task
/// extends the plan, one moves the message on in the due index, and a third deletes it.
async fn nothing_restores_a_deleted_message(fixture: Fixture) {
    for round in 0..40 {
        let published = fixture.published(1).await;
        let now = fixture.now();
        let message = fixture.held(&published, now).await;
        run_concurrently(&fixture, 3, |index, store| {
            let (message, rules) = (message.clone(), fixture.rules.clone());
            async move {
                match (index + round) % 3 {
                    0 => drop(extend(&*store, message, now).await),
                    1 => {
                        let requeue = apply_to_message(&*store, message, |seen| {
                            rules.requeue_message(seen, now, false, now)
                        });
                        requeue.await.unwrap();
                    }
                    _ => delete(&*store, &rules, message, now).await,
                }
            }
        })
        .await;
        for store in [&fixture.store, &fixture.other] {
            assert_eq!(store.open_message(&message.id).await.unwrap(), None, "round {round}");
        }
        assert!(!fixture.backend.has_content(&same_key(&message.id)).await, "round {round}");
        eventually("it left the indexes", || async {
            same(&fixture.message_due_at(&message.id).await, &None)?;
            let filter = MessageFilter::all(message.application.clone());
            same(&fixture.store.list_messages(&filter, None, 10).await.unwrap().items, &vec![])
        })
        .await;
    }
}

/// A delete of the message that was read and a write of it are exclusive: one takes effect. In each
/// round, both race from the same revision.
async fn a_message_is_not_deleted_over_a_change(fixture: Fixture) {
    for round in 0..40 {
        let message = fixture.published(1).await;
        let next = extended(&message, fresh_endpoints(1)[0], fixture.now());
        let mut results = run_concurrently(&fixture, 2, |index, store| {
            let (message, next) = (message.clone(), next.clone());
            async move {
                if (index + round) % 2 == 0 {
                    (Some(store.write_message(&message, &next).await), None)
                } else {
                    (None, Some(store.delete_message(&message).await))
                }
            }
        })
        .await;
        results.sort_by_key(|(written, _)| written.is_none());
        let (written, deleted) = (results[0].0.take().unwrap(), results[1].1.take().unwrap());
        let found = fixture.other.message(&message.id).await.unwrap();
        match (written, deleted) {
            (Ok(()), Err(DeleteError::Changed)) => {
                assert_eq!(found, Some(next), "round {round}");
                assert!(fixture.backend.has_content(&same_key(&message.id)).await);
            }
            (Err(WriteMessageError::Missing), Ok(())) => {
                assert_eq!(found, None, "round {round}");
                assert!(!fixture.backend.has_content(&same_key(&message.id)).await);
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
}
