//! The deletion of a message, from the API's call to the worker that goes on with it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    applications::{message::PublishedMessage, standing::Found},
    id::MessageId,
    message_deletion::{Deletion, delete_message},
    queue::Lane,
    status::Status,
    store::{MessageIdState, Store, StoreError, Tombstone},
};

use super::tenant::{Tenant, assert_no_effect, endpoint};
use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::status,
};

async fn delete(tenant: &Tenant, message: &PublishedMessage) -> Result<Deletion, StoreError> {
    let context = &tenant.world.context;
    delete_message(&*context.store, &context.rules, &message.id, tenant.world.now()).await
}

/// Nothing is left of the message but its tombstone and markers, and no look has an effect.
async fn assert_deleted(tenant: &Tenant, store: &Arc<dyn Store>, message: &PublishedMessage) {
    assert_eq!(store.message(&message.id).await.unwrap(), None);
    assert_eq!(store.open_message(&message.id).await.unwrap(), None);
    let state = store.tombstone_message_id(&message.id).await.unwrap();
    assert_eq!(state, MessageIdState::Tombstone(Tombstone::Deleted));
    for entry in &message.plan {
        assert_eq!(store.get(&message.id.delivery(entry.endpoint)).await.unwrap(), None);
    }
    assert_no_effect(tenant, message).await;
    tenant.world.assert_settled(&[]).await;
}

/// Deletes a message of which one delivery is delivered, one waits for a retry, one is in progress,
/// one is a dead letter, and one has not started.
#[tokio::test]
async fn a_deleted_message_takes_all_its_deliveries_along() {
    let tenant = Tenant::new(5).await;
    let codes = [200, 500, 200, 410, 200];
    let answers = move |url: &str| (1..=5).find(|n| url == super::tenant::url(*n)).unwrap();
    tenant.endpoints.decide(move |request| status(codes[answers(&request.url) - 1]));
    let message = tenant.publish(5).await;
    tenant.claimed_elsewhere(&message, 3).await;
    for n in [1, 2, 4] {
        tenant.look_at_delivery(&message, n).await;
    }
    // 410 fails at once for endpoints, too, only with one attempt.
    let one = shared::retry_override::RetryOverride {
        max_attempts: Some(1),
        ..shared::retry_override::RetryOverride::default()
    };
    tenant.change_endpoint(4, |endpoint| endpoint.retry = Some(one)).await;
    tenant.drain().await;
    let expected = [Some(Status::Delivered), Some(Status::Retrying), Some(Status::InProgress)];
    assert_eq!(tenant.statuses(&message, 3).await, expected);
    assert!(tenant.delivery(&message, 4).await.unwrap().is_dead_letter());
    tenant.endpoints.take();
    assert_eq!(delete(&tenant, &message).await.unwrap(), Deletion::Deleted);
    // The look of the retry becomes visible.
    tenant.world.clock.advance(Duration::from_secs(60));
    assert_deleted(&tenant, &tenant.world.context.store, &message).await;
    assert_eq!(delete(&tenant, &message).await.unwrap(), Deletion::Missing);
}

/// Fails the call number `at` of a deletion, and counts them.
#[derive(Debug)]
struct Crash {
    at: usize,
    calls: AtomicUsize,
}

#[async_trait]
impl Interceptor for Crash {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        let is_step = matches!(call, Call::WriteMessage | Call::PutMarker | Call::DeleteMessage(_));
        if is_step && self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            return Err(StoreError::Unavailable("a crash".into()));
        }
        Ok(())
    }
}

/// Whatever the step at which the API dies, a look at the message completes the deletion once it
/// has begun, and a repeat of the call does so too.
#[tokio::test]
async fn a_deletion_that_was_cut_short_is_completed() {
    for at in 0..6 {
        for repeats in [false, true] {
            let mut tenant = Tenant::new(3).await;
            let message = tenant.publish(3).await;
            tenant.look_at_delivery(&message, 1).await;
            tenant.drain().await;
            tenant.endpoints.take();
            let inner = Arc::clone(&tenant.world.context.store);
            let crash = Arc::new(Crash { at, calls: AtomicUsize::default() });
            let interceptor = Arc::clone(&crash) as _;
            tenant.world.context.store =
                Arc::new(Intercepted { inner: Arc::clone(&inner), interceptor });
            let outcome = delete(&tenant, &message).await;
            assert_eq!(outcome.is_err(), at < 5, "the write, three markers, the delete: {at}");
            tenant.world.context.store = Arc::clone(&inner);
            if at == 0 {
                // Nothing has begun, and the caller got an error.
                assert_eq!(tenant.message(&message).await, Some(message));
                continue;
            }
            if repeats {
                delete(&tenant, &message).await.unwrap();
            } else {
                tenant.world.clock.advance(Duration::from_secs(60));
                tenant.run_until_settled(Duration::from_secs(60)).await;
                assert_eq!(tenant.endpoints.take(), []);
            }
            assert_deleted(&tenant, &inner, &message).await;
        }
    }
}

/// Writes the message each time before it is deleted, as the sweep does.
#[derive(Debug)]
struct Moving {
    inner: Arc<dyn Store>,
    times: AtomicUsize,
}

#[async_trait]
impl Interceptor for Moving {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        let Call::DeleteMessage(id) = call else { return Ok(()) };
        if self.times.fetch_add(1, Ordering::SeqCst) >= 3 {
            return Ok(());
        }
        let before = self.inner.message(id).await?.unwrap();
        let rules = shared::transition::Rules::default();
        let (seen, now) = (before.due_at.unwrap(), before.updated_at);
        let after = rules.requeue_message(&before, seen, false, now).unwrap();
        self.inner.write_message(&before, &after).await.unwrap();
        Ok(())
    }
}

/// The sweep moves the message on during its deletion.
#[tokio::test]
async fn a_message_that_moves_is_deleted_all_the_same() {
    let mut tenant = Tenant::new(2).await;
    let message = tenant.publish(2).await;
    let inner = Arc::clone(&tenant.world.context.store);
    let moving = Moving { inner: Arc::clone(&inner), times: AtomicUsize::default() };
    let interceptor = Arc::new(moving);
    tenant.world.context.store = Arc::new(Intercepted { inner: Arc::clone(&inner), interceptor });
    assert_eq!(delete(&tenant, &message).await.unwrap(), Deletion::Deleted);
    assert_deleted(&tenant, &inner, &message).await;
}

/// Deletes the message just before this process writes it.
#[derive(Debug)]
struct DeletedFirst {
    inner: Arc<dyn Store>,
    id: MessageId,
    done: Mutex<bool>,
}

#[async_trait]
impl Interceptor for DeletedFirst {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if !matches!(call, Call::WriteMessage)
            || std::mem::replace(&mut *self.done.lock().unwrap(), true)
        {
            return Ok(());
        }
        let rules = shared::transition::Rules::default();
        let now = self.inner.message(&self.id).await?.unwrap().updated_at;
        delete_message(&*self.inner, &rules, &self.id, now).await?;
        Ok(())
    }
}

/// A worker that is about to settle a message, or to enter it in the due index, does not restore
/// it.
#[tokio::test]
async fn no_worker_restores_a_deleted_message() {
    for settles in [true, false] {
        let mut tenant = Tenant::new(1).await;
        let queue = tenant.watch_queue();
        let message = tenant.publish(1).await;
        if settles {
            tenant.look_at_delivery(&message, 1).await;
            tenant.drain().await;
            tenant.endpoints.take();
            let mut due = message.clone();
            (due.revision, due.due_at, due.expires_at) = (2, Some(tenant.world.now()), None);
            tenant.world.context.store.write_message(&message, &due).await.unwrap();
        }
        tenant.look_at(&message).await;
        let inner = Arc::clone(&tenant.world.context.store);
        let (id, done) = (message.id.clone(), Mutex::default());
        let interceptor = Arc::new(DeletedFirst { inner: Arc::clone(&inner), id, done });
        tenant.world.context.store =
            Arc::new(Intercepted { inner: Arc::clone(&inner), interceptor });
        // Without the queue, a message whose look cannot be sent becomes due.
        queue.refuses.store(!settles, Ordering::SeqCst);
        assert!(tenant.world.run_deliver().await.is_empty());
        queue.refuses.store(false, Ordering::SeqCst);
        assert_eq!(tenant.world.messages(Lane::Webhooks).await, (0, 0, 0));
        tenant.world.context.store = Arc::clone(&inner);
        assert_deleted(&tenant, &inner, &message).await;
    }
}

/// The outcome of an attempt that is in flight during the deletion is dropped.
#[tokio::test]
async fn the_outcome_of_an_attempt_in_flight_is_dropped() {
    let tenant = Tenant::new(1).await;
    let message = tenant.publish(1).await;
    let claimed = tenant.claimed_elsewhere(&message, 1).await;
    delete(&tenant, &message).await.unwrap();
    let store = &tenant.world.context.store;
    let after = shared::model::Webhook { revision: 2, ..claimed.clone() };
    assert!(store.write(&claimed, &after).await.is_err());
    let found = store.standing(&message.id).await.unwrap();
    assert_eq!(found, None);
    let id = message.id.delivery(endpoint(1));
    assert_eq!(
        store.delivery(&id).await.unwrap().map(|stored| stored.found),
        None::<Option<Found>>
    );
}
