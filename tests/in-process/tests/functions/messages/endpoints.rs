//! When an endpoint changes: each row of the table, as far as the workers decide it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    applications::{
        endpoint::{Disabled, DisabledWhy, Endpoint},
        id::ApplicationId,
        message::PublishedMessage,
        secrets::StoredSecret,
    },
    id::{MessageId, TaskId},
    model::{ErrorKind, Webhook},
    random::SystemRandom,
    retry_override::RetryOverride,
    status::Status,
    store::{Store, StoreError},
};

use super::tenant::{Arrived, Tenant, endpoint, secret, url};
use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::status,
};

/// The end of a delivery: its status, the kind of its error, and the number of requests.
async fn end(tenant: &Tenant, delivery: &Webhook) -> (Status, Option<ErrorKind>, usize) {
    let stored = tenant.world.stored(delivery).await;
    let kind = stored.last_error.as_ref().map(|error| error.kind);
    (stored.status, kind, tenant.endpoints.arrived().len())
}

/// Lets the next attempt of the delivery start.
async fn next_attempt(tenant: &Tenant, delivery: &Webhook) {
    let at = tenant.world.stored(delivery).await.allowed_at.unwrap();
    tenant.world.advance_past(at);
    tenant.world.run_sweep().await;
    // A delay counts from the send.
    tenant.world.clock.advance(Duration::from_secs(2));
    tenant.drain().await;
}

/// The next attempt uses the new URL, headers and deadline, and notes the endpoint's revision.
#[tokio::test]
async fn the_next_attempt_uses_the_new_settings() {
    let tenant = Tenant::new(1).await;
    tenant.endpoints.decide(|request| status(if request.attempt == 1 { 500 } else { 200 }));
    let message = tenant.accept(1).await;
    tenant.drain().await;
    let header = tenant.seal_header(1, "x-tenant", "seven");
    tenant
        .change_endpoint(1, |endpoint| {
            endpoint.url = "https://other.example/new".to_owned();
            endpoint.headers = vec![header];
            endpoint.timeout_ms = Some(1500);
        })
        .await;
    let delivery = tenant.delivery(&message, 1).await.unwrap();
    next_attempt(&tenant, &delivery).await;
    let requests = tenant.endpoints.take();
    let settings = |request: &Arrived| (request.url.clone(), request.headers.len());
    assert_eq!(
        requests.iter().map(settings).collect::<Vec<_>>(),
        [(url(1), 0), ("https://other.example/new".to_owned(), 1)]
    );
    assert_eq!(requests[1].headers, [("x-tenant".to_owned(), "seven".to_owned())]);
    assert!(requests[0].timeout > Duration::from_secs(5), "the configured one");
    assert_eq!(requests[1].timeout, Duration::from_millis(1500));
    let stored = tenant.world.stored(&delivery).await;
    let revisions: Vec<_> =
        stored.attempts.iter().map(|attempt| attempt.endpoint_revision).collect();
    assert_eq!((stored.status, revisions), (Status::Delivered, vec![Some(1), Some(2)]));
}

/// A process sees a change once its copy of the document is older than `ENDPOINT_CACHE_MS`.
#[tokio::test]
async fn a_change_takes_effect_within_the_cache_time() {
    let tenant = Tenant::with(&[("ENDPOINT_CACHE_MS", "10000")], 1).await;
    let sent = async || {
        tenant.accept(1).await;
        tenant.drain().await;
        tenant.endpoints.take().remove(0).url
    };
    assert_eq!(sent().await, url(1));
    tenant
        .change(|application| application.endpoints[0].url = "https://new.example/".to_owned())
        .await;
    assert_eq!(sent().await, url(1), "the copy is younger");
    tenant.see_changes();
    assert_eq!(sent().await, "https://new.example/");
}

/// The next outcome goes by the endpoint's retry policy as it is then. A wait that has begun stays.
#[tokio::test]
async fn the_next_outcome_uses_the_new_retry_policy() {
    let tenant = Tenant::new(1).await;
    tenant.endpoints.decide(|_| status(500));
    let message = tenant.accept(1).await;
    tenant.drain().await;
    let first = tenant.delivery(&message, 1).await.unwrap();
    let retry = RetryOverride { max_attempts: Some(2), ..RetryOverride::default() };
    tenant.change_endpoint(1, |endpoint| endpoint.retry = Some(retry)).await;
    assert_eq!(tenant.delivery(&message, 1).await.unwrap(), first);
    next_attempt(&tenant, &first).await;
    let failed = tenant.delivery(&message, 1).await.unwrap();
    assert!(failed.is_dead_letter(), "two attempts are all: {failed:?}");
    assert_eq!(failed.budget.attempts, 2);
    tenant.world.assert_settled(&[]).await;
}

/// A disabled endpoint gets nothing more. Its deliveries fail at their next look: one that has not
/// started, one that waits for a retry, and one whose worker died.
#[tokio::test]
async fn deliveries_to_a_disabled_endpoint_fail() {
    let tenant = Tenant::new(2).await;
    tenant.endpoints.decide(|_| status(500));
    let retrying = tenant.accept(1).await;
    tenant.drain().await;
    let interrupted = tenant.publish(1).await;
    let interrupted = tenant.claimed_elsewhere(&interrupted, 1).await;
    tenant.disable(1).await;
    tenant.world.clock.advance(Duration::from_secs(60));
    let unstarted = tenant.accept(2).await;
    tenant.world.queued(&interrupted).await;
    let retrying = tenant.delivery(&retrying, 1).await.unwrap();
    tenant.endpoints.decide(|_| status(200));
    next_attempt(&tenant, &retrying).await;
    let requests = tenant.endpoints.arrived();
    let urls: Vec<_> = requests.iter().map(|request| request.url.clone()).collect();
    assert_eq!(urls, [url(1), url(2)], "one attempt before, and the other endpoint");
    for delivery in [
        retrying,
        interrupted,
        tenant.delivery(&unstarted, 1).await.expect("its failure is its first record"),
    ] {
        let (status, kind, _) = end(&tenant, &delivery).await;
        assert_eq!((status, kind), (Status::Failed, Some(ErrorKind::EndpointDisabled)));
        assert!(tenant.world.stored(&delivery).await.is_dead_letter());
    }
    tenant.world.assert_settled(&[]).await;
}

#[tokio::test]
async fn deliveries_to_a_deleted_endpoint_fail() {
    let tenant = Tenant::new(2).await;
    let message = tenant.accept(2).await;
    tenant.delete_endpoint(1).await;
    tenant.drain().await;
    let failed = tenant.delivery(&message, 1).await.unwrap();
    assert_eq!(end(&tenant, &failed).await, (Status::Failed, Some(ErrorKind::EndpointDeleted), 1));
    assert_eq!(failed.attempts, [], "no attempt was made");
    assert_eq!(tenant.statuses(&message, 2).await[1], Some(Status::Delivered));
    tenant.world.assert_settled(&[]).await;
}

/// A deleted application has no endpoints.
#[tokio::test]
async fn deliveries_of_a_deleted_application_fail() {
    let tenant = Tenant::new(1).await;
    let message = tenant.accept(1).await;
    let now = tenant.world.now();
    tenant.change(|application| application.deleted_at = Some(now)).await;
    tenant.see_changes();
    tenant.drain().await;
    let failed = tenant.delivery(&message, 1).await.unwrap();
    assert_eq!(end(&tenant, &failed).await, (Status::Failed, Some(ErrorKind::EndpointDeleted), 0));
}

/// A copy of the document that is older than the endpoint does not make it a deleted one, and a
/// copy from before it was enabled does not make it a disabled one.
#[tokio::test]
async fn an_endpoint_is_not_missing_because_the_copy_is_old() {
    let tenant = Tenant::with(&[("ENDPOINT_CACHE_MS", "10000")], 1).await;
    tenant.disable(1).await;
    tenant.accept(1).await;
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take(), [], "the copy has one endpoint, which is disabled");
    let created = tenant.make_endpoint(2);
    tenant
        .change(|application| {
            application.endpoints[0].disabled = None;
            application.endpoints.push(created);
        })
        .await;
    let message = tenant.accept(2).await;
    tenant.drain().await;
    assert_eq!(tenant.statuses(&message, 2).await, [Some(Status::Delivered); 2]);
}

/// When a delivery is claimed, disables the endpoint of the other one. Both have read the document
/// by then, and the claimed one twice.
#[derive(Debug)]
struct DisabledMeanwhile {
    inner: Arc<dyn Store>,
    id: ApplicationId,
    reads: AtomicUsize,
}

#[async_trait]
impl Interceptor for DisabledMeanwhile {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::ReadApplication => {
                self.reads.fetch_add(1, Ordering::SeqCst);
            }
            Call::Claim(id) => {
                let waits = 0..10_000;
                for _ in waits.take_while(|_| self.reads.load(Ordering::SeqCst) < 3) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let mut after = self.inner.application(&self.id).await?.unwrap();
                let (at, why) = (after.updated_at, DisabledWhy::Customer);
                let is_other = |endpoint: &&mut Endpoint| Some(endpoint.id) != id.endpoint;
                let other = after.endpoints.iter_mut().find(is_other).unwrap();
                other.disabled = Some(Disabled { at, why, told: true });
                after.revision += 1;
                self.inner.write_application(Some(after.revision - 1), &after).await.unwrap();
            }
            _ => {}
        }
        Ok(())
    }
}

/// The endpoint is disabled while its delivery waits for a slot of the process, which another
/// delivery has.
#[tokio::test]
async fn no_attempt_starts_after_a_change_because_admission_took_a_while() {
    let settings = [("ENDPOINT_CACHE_MS", "0"), ("DELIVER_CONCURRENCY", "1"), ("BATCH_SIZE", "1")];
    let mut tenant = Tenant::with(&settings, 2).await;
    let inner = Arc::clone(&tenant.world.context.store);
    let (id, reads) = (tenant.id.clone(), AtomicUsize::default());
    let interceptor = Arc::new(DisabledMeanwhile { inner: Arc::clone(&inner), id, reads });
    tenant.world.context.store = Arc::new(Intercepted { inner, interceptor });
    let message = tenant.accept(2).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    let requests = tenant.endpoints.take();
    assert_eq!(requests.len(), 1, "{requests:?}");
    // Either of them gets the slot first.
    let other = if requests[0].url == url(1) { 2 } else { 1 };
    let failed = tenant.delivery(&message, other).await.unwrap();
    assert_eq!(failed.last_error.unwrap().kind, ErrorKind::EndpointDisabled);
}

/// A message names an application of which the store has no document: deliveries wait for the
/// document, and fail only once their deferrals are used up. They do not count as deleted.
#[tokio::test]
async fn a_missing_document_is_no_deleted_endpoint() {
    for comes_back in [true, false] {
        let tenant = Tenant::with(&[("MAX_DEFER_MS", "3600000")], 1).await;
        let message = tenant.publish(1).await;
        let elsewhere = PublishedMessage {
            application: "lost".parse().unwrap(),
            id: MessageId { task: TaskId::mint(tenant.world.now(), rand::random()), ..message.id },
            ..message
        };
        tenant.store(&elsewhere).await;
        tenant.look_at_delivery(&elsewhere, 1).await;
        tenant.drain().await;
        let deferred = tenant.delivery(&elsewhere, 1).await.unwrap();
        let wait = deferred.allowed_at.unwrap().since(deferred.updated_at);
        // It is counted from before the write.
        assert_eq!((deferred.status, wait.as_millis().div_ceil(1000)), (Status::Retrying, 300));
        assert_eq!(deferred.due_at, deferred.allowed_at);
        if comes_back {
            let found = tenant.world.context.store.application(&tenant.id).await.unwrap();
            let mut document = found.unwrap();
            document.id = elsewhere.application.clone();
            let sealed = tenant.keys();
            let secret = StoredSecret::seal(
                &secret(1),
                &document.id,
                endpoint(1),
                sealed,
                tenant.world.now(),
                &SystemRandom,
            );
            document.endpoints[0].secrets = vec![secret.unwrap()];
            tenant.world.context.store.write_application(None, &document).await.unwrap();
        }
        let began_at = tenant.world.now();
        tenant.run_until_settled(Duration::from_secs(299)).await;
        let ended = tenant.delivery(&elsewhere, 1).await.unwrap();
        let waited = tenant.world.now().since(began_at);
        if comes_back {
            assert_eq!(ended.status, Status::Delivered);
            assert!(waited < Duration::from_secs(1200), "{waited:?}");
        } else {
            assert!(ended.is_dead_letter(), "{ended:?}");
            assert_eq!(ended.last_error.unwrap().kind, ErrorKind::Undeliverable);
            assert!(waited > Duration::from_secs(3000), "{waited:?}");
        }
    }
}
