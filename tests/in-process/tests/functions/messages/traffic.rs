//! The endpoint is the target of a delivery: its circuit, its pauses, and the fairness group.

use std::{sync::atomic::Ordering, time::Duration};

use shared::{model::ErrorKind, status::Status, traffic::target::TargetKey};

use super::tenant::{Tenant, endpoint, url};
use crate::world::{no_answer, status};

/// Endpoints of one host: the first one fails, with 5xx or without any answer. Only its own circuit
/// opens. The other endpoint and direct webhooks to that host go on.
#[tokio::test]
async fn only_the_circuit_of_the_failing_endpoint_opens() {
    for kind in [None, Some(ErrorKind::Network)] {
        let tenant = Tenant::with(&[("CIRCUIT_FAILURES", "3")], 2).await;
        tenant.change_endpoint(2, |endpoint| endpoint.url = url(1).replace("hook", "two")).await;
        tenant.endpoints.decide(move |request| match kind {
            _ if request.url != url(1) => status(200),
            None => status(503),
            Some(kind) => no_answer(kind),
        });
        let deliver = tenant.world.deliver();
        for _ in 0..3 {
            tenant.accept(1).await;
            tenant.world.run(&deliver).await;
        }
        let open: Vec<_> = tenant.world.targets().await.into_iter().map(|open| open.key).collect();
        assert_eq!(open, [TargetKey::endpoint(&tenant.id, endpoint(1))], "{kind:?}");
        assert_eq!(tenant.endpoints.take().len(), 3);
        let message = tenant.accept(2).await;
        tenant.world.run(&deliver).await;
        let deferred = tenant.delivery(&message, 1).await.unwrap();
        assert_eq!((deferred.status, deferred.attempt_count), (Status::Retrying, 0));
        assert_eq!(deferred.revision, 1, "the deferral is its first record");
        assert_eq!(tenant.statuses(&message, 2).await[1], Some(Status::Delivered));
        let direct = tenant.world.accepted_at("https://receiver-1.example:443", "/direct").await;
        tenant.world.queued(&direct).await;
        tenant.world.run_deliver().await;
        assert_eq!(tenant.world.stored(&direct).await.status, Status::Delivered);
        tenant.endpoints.decide(|_| status(200));
        tenant.run_until_settled(Duration::from_secs(60)).await;
        assert_eq!(tenant.world.targets().await, [], "an answer closes it");
    }
}

/// A refusal pauses the endpoint, and spends no attempt.
#[tokio::test]
async fn a_refusal_pauses_the_endpoint() {
    let mut tenant = Tenant::new(2).await;
    let queue = tenant.watch_queue();
    tenant.endpoints.decide(|request| {
        let refuses = request.url == url(1) && request.attempt == 1;
        shared::sender::Answer {
            retry_after: Some(Duration::from_secs(30)),
            ..status(if refuses { 429 } else { 200 })
        }
    });
    let refused = tenant.accept(2).await;
    tenant.world.run_deliver().await;
    let waiting = tenant.delivery(&refused, 1).await.unwrap();
    assert_eq!((waiting.status, waiting.budget.throttled), (Status::Retrying, 1));
    assert_eq!(waiting.budget.attempts, 0);
    assert_eq!(waiting.attempts[0].endpoint_revision, Some(1));
    assert_eq!(tenant.statuses(&refused, 2).await[1], Some(Status::Delivered));
    let paused = tenant.world.targets().await;
    assert_eq!(paused[0].key, TargetKey::endpoint(&tenant.id, endpoint(1)));
    assert!(paused[0].pace.is_some() && paused.len() == 1);
    // Another message waits for its slot without a record: its look carries the wait.
    queue.take();
    let second = tenant.accept(1).await;
    queue.take();
    tenant.world.run_deliver().await;
    assert_eq!(tenant.delivery(&second, 1).await, None, "a short wait writes nothing");
    let sent = queue.take().concat();
    assert!(sent.iter().all(|look| look.group == "cust-7") && !sent.is_empty());
    tenant.run_until_settled(Duration::from_secs(5)).await;
    assert_eq!(tenant.statuses(&second, 1).await, [Some(Status::Delivered)]);
    assert_eq!(tenant.statuses(&refused, 1).await, [Some(Status::Delivered)]);
    assert!(!queue.refuses.load(Ordering::SeqCst));
}
