//! The sweep: what is due is queued before it moves on; the audit finds what nobody holds, once, and misses no minute.

use std::time::Duration;

use crate::world::{World, status};
use shared::{
    clock::Timestamp,
    model::{ClaimId, ErrorKind, Function, Why},
    queue::Lane,
    status::Status,
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_webhook_whose_message_was_lost_is_found_by_the_audit_and_delivered() {
    let world = World::new();
    let webhook = world.accepted().await;
    world.run_sweep().await;
    assert_eq!(world.stored(&webhook).await.due_at, None, "too young for the audit");
    world.clock.advance(17 * MINUTE);
    assert_eq!(world.run_sweep().await.adopted, 1);
    assert_eq!(world.run_sweep().await.adopted, 0, "read once");
    let due_at = world.stored(&webhook).await.due_at.expect("held by the index");
    world.advance_past(due_at);
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn missed_minutes_are_caught_up_in_bounded_steps() {
    let world = World::new();
    world.clock.advance(20 * MINUTE);
    while world.run_sweep().await.more {}
    let first = world.context.store.audited_until().await.unwrap().unwrap();
    let webhook = world.accepted().await;
    world.clock.advance(5 * 60 * MINUTE);
    let summary = world.run_sweep().await;
    let second = world.context.store.audited_until().await.unwrap().unwrap();
    assert!(summary.more && second.since(first) == 120 * MINUTE, "{summary:?}");
    while world.run_sweep().await.more {}
    let third = world.context.store.audited_until().await.unwrap().unwrap();
    assert!(world.now().since(third) < 17 * MINUTE);
    assert!(world.stored(&webhook).await.history.iter().any(|step| step.why == Some(Why::Audit)));
}

#[tokio::test]
async fn the_grace_doubles_so_that_a_backlog_does_not_feed_itself() {
    // Every message is lost: each look sends another one, later and later, at most every six hours.
    let world = World::new();
    let webhook = world.accepted().await;
    let due = world.context.rules.adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now()).unwrap();
    world.put(&webhook, due).await;
    let mut waits = Vec::new();
    for _ in 0..7 {
        let now = world.stored(&webhook).await.due_at.unwrap().max(world.now());
        world.advance_past(now);
        assert_eq!(world.run_sweep().await.requeued, 1);
        let due_at = world.stored(&webhook).await.due_at.unwrap();
        waits.push((due_at.since(now).as_secs() + 30) / 60);
        if waits.len() < 7 {
            let lost = world.received(Lane::Webhooks).await;
            world.context.queue.acknowledge(Lane::Webhooks, &[lost[0].receipt.clone()]).await.unwrap();
        }
    }
    assert_eq!(waits, [15, 30, 60, 120, 240, 360, 360]);
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1]);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn while_nobody_works_on_the_queue_a_webhook_is_repeated_every_six_hours_only() {
    // Its own, and after a grace one more in case that was lost; then none for six hours.
    let world = World::new();
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    world.clock.advance(17 * MINUTE);
    assert_eq!(world.run_sweep().await.adopted, 1);
    for hours in [0, 6, 12] {
        let due_at = world.stored(&webhook).await.due_at.unwrap();
        world.advance_past(due_at);
        assert_eq!(world.run_sweep().await.requeued, 1);
        let now = world.now();
        let next = world.stored(&webhook).await.due_at.unwrap().since(now).as_secs_f64() / 3600.0;
        assert!((next - 6.0).abs() < 0.02, "after {hours} h the next look is in {next} h");
    }
    assert_eq!(world.messages(Lane::Webhooks).await.0, 4, "a message for each six hours");
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1], "four messages, one attempt");
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_failure_that_was_not_archived_goes_to_the_dead_letter_queue_again() {
    let world = World::new();
    world.destination.answer([status(410)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let lost = world.received(Lane::DeadLetters).await;
    world.context.queue.acknowledge(Lane::DeadLetters, &[lost[0].receipt.clone()]).await.unwrap();
    world.clock.advance(16 * MINUTE);
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert!(world.run_dlq().await.is_empty());
    assert!(world.stored(&webhook).await.is_dead_letter());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_worker_that_died_is_noticed_when_its_lease_is_over() {
    let world = World::new();
    let webhook = world.accepted().await;
    let now = world.now();
    let due = world.put(&webhook, world.context.rules.adopt(&webhook, now, (Function::Api, Why::Unsent), now).unwrap()).await;
    world.put(&due, world.context.rules.claim(&due, ClaimId(1), now).unwrap()).await;
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert_eq!(world.messages(Lane::Webhooks).await, (0, 1, 0), "not before the lease is over");
    world.clock.advance(Duration::from_secs(46));
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!((stored.status, stored.attempt_count), (Status::Delivered, 2));
    assert_eq!(stored.attempts[0].error, Some(ErrorKind::Interrupted));
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn overlapping_sweeps_are_harmless() {
    let world = World::new();
    let mut webhooks = Vec::new();
    for _ in 0..250 {
        let webhook = world.accepted().await;
        let now = world.now();
        let due = world.context.rules.adopt(&webhook, now, (Function::Api, Why::Unsent), now).unwrap();
        webhooks.push(world.put(&webhook, due).await);
    }
    let runs = (0..3).map(|_| world.run_sweep());
    let summaries = futures_util::future::join_all(runs).await;
    assert!(summaries.iter().map(|summary| summary.requeued).sum::<usize>() >= 250, "{summaries:?}");
    for webhook in &webhooks {
        assert_eq!(world.stored(webhook).await.budget.requeues, 1, "each moved on once");
    }
    while world.messages(Lane::Webhooks).await.0 > 0 {
        assert!(world.run_deliver().await.is_empty());
    }
    assert_eq!(world.destination.attempts().len(), 250);
    world.assert_settled(&webhooks.iter().collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn the_report_tells_the_lag() {
    let world = World::new();
    let webhook = world.accepted().await;
    let due = world.context.rules.adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now()).unwrap();
    world.put(&webhook, due).await;
    world.clock.advance(3 * MINUTE);
    let lag = world.run_sweep().await.lag;
    assert!(lag >= 3 * MINUTE && lag < 4 * MINUTE, "{lag:?}");
    let report = world.context.store.last_sweep().await.unwrap().unwrap();
    assert_eq!((report.lag_ms, report.counts[0]), (lag.as_millis() as u64, 1));
    assert!(report.ran_at > Timestamp::default());
}
