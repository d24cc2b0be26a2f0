//! The sweep: a due webhook is queued before its entry moves on. The audit finds webhooks without a
//! holder, once, and misses no minute.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    model::{ClaimId, ErrorKind, Function, Webhook, Why},
    queue::Lane,
    status::Status,
    store::StoreError,
};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::{World, status},
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Removes the visible messages from the queue.
async fn drop_messages(world: &World, lane: Lane) {
    let receipts: Vec<String> =
        world.received(lane).await.into_iter().map(|message| message.receipt).collect();
    world.context.queue.acknowledge(lane, &receipts).await.unwrap();
}

/// Webhooks that are due now.
async fn due(world: &World, count: usize) -> Vec<Webhook> {
    let mut webhooks = Vec::with_capacity(count);
    for _ in 0..count {
        let (webhook, now) = (world.accepted().await, world.now());
        let due =
            world.context.rules.adopt(&webhook, now, (Function::Api, Why::Unsent), now).unwrap();
        webhooks.push(world.put(&webhook, due).await);
    }
    webhooks
}

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
async fn the_grace_period_doubles_so_that_a_backlog_does_not_grow_by_itself() {
    // Every message is lost. Each run sends another one, after growing waits of up to six hours.
    let world = World::new();
    let webhook = world.accepted().await;
    let due = world
        .context
        .rules
        .adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now())
        .unwrap();
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
            world
                .context
                .queue
                .acknowledge(Lane::Webhooks, &[lost[0].receipt.clone()])
                .await
                .unwrap();
        }
    }
    assert_eq!(waits, [15, 30, 60, 120, 240, 360, 360]);
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1]);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn in_a_backlog_a_webhook_is_repeated_every_six_hours_only() {
    // Its first message, after a grace period another one in case that was lost, then one every six
    // hours.
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
async fn a_dead_worker_is_noticed_when_its_lease_expires() {
    let world = World::new();
    let webhook = world.accepted().await;
    let now = world.now();
    let due = world
        .put(
            &webhook,
            world.context.rules.adopt(&webhook, now, (Function::Api, Why::Unsent), now).unwrap(),
        )
        .await;
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
        let due =
            world.context.rules.adopt(&webhook, now, (Function::Api, Why::Unsent), now).unwrap();
        webhooks.push(world.put(&webhook, due).await);
    }
    let runs = (0..3).map(|_| world.run_sweep());
    let summaries = futures_util::future::join_all(runs).await;
    assert!(
        summaries.iter().map(|summary| summary.requeued).sum::<usize>() >= 250,
        "{summaries:?}"
    );
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
async fn the_report_contains_the_lag() {
    let world = World::new();
    let webhook = world.accepted().await;
    let due = world
        .context
        .rules
        .adopt(&webhook, world.now(), (Function::Api, Why::Unsent), world.now())
        .unwrap();
    world.put(&webhook, due).await;
    world.clock.advance(3 * MINUTE);
    let lag = world.run_sweep().await.lag;
    assert!(lag >= 3 * MINUTE && lag < 4 * MINUTE, "{lag:?}");
    let report = world.context.store.last_sweep().await.unwrap().unwrap();
    assert_eq!((report.lag_ms, report.counts[0]), (lag.as_millis() as u64, 1));
    assert!(report.ran_at > Timestamp::default());
}

/// After a rollback, the due index begins with records of a newer version, which cannot be read.
/// They are reported, stay, and continue once they can be read. Tested with more of them than one
/// page, and with a readable webhook behind them, which is delivered.
#[tokio::test]
async fn unreadable_webhooks_are_reported_and_hold_up_no_others() {
    let world = World::new();
    let unreadable = due(&world, 1100).await;
    world.plant_newer(&unreadable);
    world.clock.advance(MINUTE);
    let behind = due(&world, 1).await;
    let summary = world.run_sweep().await;
    assert_eq!(
        (summary.requeued, summary.unreadable, summary.more),
        (1, 1100, false),
        "{summary:?}"
    );
    assert!(summary.lag < 10 * MINUTE, "of readable webhooks");
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&behind[0]).await.status, Status::Delivered);
    let report = world.context.store.last_sweep().await.unwrap().unwrap();
    assert_eq!((report.unreadable, report.unreadable_may_be_more), (1100, false));

    world.plant_back(&unreadable);
    assert_eq!(world.run_sweep().await.requeued, 1100);
    while world.messages(Lane::Webhooks).await.0 > 0 {
        assert!(world.run_deliver().await.is_empty());
    }
    assert_eq!(world.context.store.last_sweep().await.unwrap().unwrap().unreadable, 0);
    world.assert_settled(&unreadable.iter().chain(&behind).collect::<Vec<_>>()).await;
}

/// If a run cannot pass all unreadable entries, the next one reads the beginning again and
/// continues where the previous one stopped. Tested with three and a half pages of them, and with
/// runs whose time is over at once, so that each ends after one further page.
#[tokio::test]
async fn a_run_continues_where_the_previous_one_stopped() {
    let world = World::new();
    let unreadable = due(&world, 350).await;
    world.plant_newer(&unreadable);
    world.clock.advance(MINUTE);
    let behind = due(&world, 1).await;
    let mut runs = 0;
    while world.stored(&behind[0]).await.budget.requeues == 0 {
        runs += 1;
        assert!(runs <= 4, "each run gets one page of 100 further");
        let summary = sweep::handle(&world.context, world.now()).await.unwrap();
        assert!(summary.unreadable >= 100 || summary.requeued == 1, "{summary:?}");
    }
    assert_eq!(runs, 4);
}

/// A clock that is two hours ahead for a moment does not hide lost messages from the audit. Tested
/// with webhooks from before and after that moment, all of whose messages are lost.
#[tokio::test]
async fn after_a_clock_was_ahead_the_audit_finds_what_the_queue_lost() {
    let world = World::new();
    world.clock.advance(20 * MINUTE);
    while world.run_sweep().await.more {}
    let before = world.accepted().await;
    world.clock.set_ahead(120 * MINUTE);
    world.run_sweep().await;
    let ahead = world.context.store.audited_until().await.unwrap().unwrap();
    assert!(ahead > world.now().minus(20 * MINUTE), "the position followed the clock");
    world.clock.set_ahead(Duration::ZERO);
    let mut webhooks = vec![before];
    for _ in 0..19 {
        webhooks.push(world.accepted().await);
    }
    world.clock.advance(17 * MINUTE);
    let summary = world.run_sweep().await;
    let fault = world
        .context
        .store
        .last_sweep()
        .await
        .unwrap()
        .unwrap()
        .clock_fault
        .expect("it is reported");
    assert!(fault.ahead_ms > 6_000_000 && fault.left.is_none(), "{fault:?}");
    assert!(summary.more, "a day is read again, two hours a run");
    while world.run_sweep().await.more {}
    for webhook in &webhooks {
        assert!(world.stored(webhook).await.due_at.is_some(), "{} is held", webhook.id);
    }
    world.clock.advance(30 * MINUTE);
    world.run_sweep().await;
    while world.messages(Lane::Webhooks).await.0 > 0 {
        assert!(world.run_deliver().await.is_empty());
    }
    world.assert_settled(&webhooks.iter().collect::<Vec<_>>()).await;
}

/// A sweep whose clock is a month ahead queues every waiting webhook and moves it on by a month.
/// Tested with a retry, a failure and a lost message: the next run takes their times back, no
/// attempt starts early, and all are finished within minutes.
#[tokio::test]
async fn the_times_of_a_clock_that_was_ahead_are_taken_back() {
    let world = World::new();
    world.run_sweep().await;
    world.destination.answer([status(500), status(410)]);
    let (retrying, failed) = (world.accepted().await, world.accepted().await);
    for webhook in [&retrying, &failed] {
        world.queued(webhook).await;
        assert!(world.run_deliver().await.is_empty());
    }
    let lost = due(&world, 1).await.remove(0);
    let allowed_at = world.stored(&retrying).await.allowed_at.unwrap();

    world.clock.set_ahead(40 * DAY);
    assert_eq!(world.run_sweep().await.requeued, 3);
    // All queued messages are lost.
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        drop_messages(&world, lane).await;
    }
    world.clock.set_ahead(Duration::ZERO);
    let summary = world.run_sweep().await;
    assert_eq!(summary.taken_back, 3, "{summary:?}");
    assert_eq!(world.stored(&retrying).await.allowed_at, Some(allowed_at));
    let fault = world.context.store.last_sweep().await.unwrap().unwrap().clock_fault.unwrap();
    assert!(fault.ahead_ms / 1000 > 39 * 86_400, "{fault:?}");
    world.clock.advance(2 * MINUTE);
    while world.run_sweep().await.more {}
    for _ in 0..3 {
        assert!(world.run_deliver().await.is_empty());
        assert!(world.run_dlq().await.is_empty());
    }
    world.assert_settled(&[&retrying, &failed, &lost]).await;
    assert_eq!(world.run_sweep().await.taken_back, 0, "once");
}

/// Webhooks that are accepted while the clock is ahead are delivered once it is correct. Tested
/// with a webhook whose message is lost, and one whose message is hidden for a month.
#[tokio::test]
async fn webhooks_accepted_with_a_clock_ahead_are_delivered() {
    let world = World::new();
    world.run_sweep().await;
    world.clock.set_ahead(40 * DAY);
    let (lost, hidden) = (world.accepted().await, world.accepted().await);
    world.queued(&hidden).await;
    world.clock.set_ahead(Duration::ZERO);
    let summary = world.run_sweep().await;
    assert_eq!((summary.taken_back, summary.requeued), (2, 2), "{summary:?}");
    assert!(world.run_deliver().await.is_empty());
    for webhook in [&lost, &hidden] {
        assert_eq!(world.stored(webhook).await.status, Status::Delivered);
    }
    let fault = world.context.store.last_sweep().await.unwrap().unwrap().clock_fault;
    assert!(fault.is_some_and(|fault| fault.left.is_none()));
    world.clock.advance(DAY);
    let after = world.run_sweep().await;
    assert_eq!((after.taken_back, after.requeued), (0, 0), "{after:?}");
    assert_eq!(
        world.context.store.last_sweep().await.unwrap().unwrap().clock_fault,
        None,
        "a day later"
    );
}

/// Dead letters survive a clock that is 40 days ahead for seconds. They are hidden meanwhile. A
/// dead letter is deleted once two runs a minute apart have seen it expired. Tested by the file's
/// rows.
#[tokio::test]
async fn dead_letters_survive_a_clock_that_is_ahead_for_seconds() {
    let world = World::new();
    world.destination.answer([status(410)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty() && world.run_dlq().await.is_empty());
    world.run_sweep().await;
    world.clock.advance(2 * MINUTE);
    world.clock.set_ahead(40 * DAY);
    for _ in 0..3 {
        world.run_sweep().await;
        world.accepted().await;
        world.clock.advance(Duration::from_secs(15));
    }
    assert_eq!(world.context.store.get(&webhook.id).await.unwrap(), None, "hidden");
    world.clock.set_ahead(Duration::ZERO);
    world.run_sweep().await;
    assert!(world.stored(&webhook).await.is_dead_letter());
    world.clock.advance(2 * MINUTE);
    world.run_sweep().await;
    assert_eq!(world.records_on_disk(), 4);

    world.clock.advance(31 * DAY);
    world.run_sweep().await;
    assert_eq!(world.records_on_disk(), 4, "seen expired once");
    world.clock.advance(MINUTE);
    world.run_sweep().await;
    assert_eq!(world.records_on_disk(), 3, "the unfinished ones stay");
}

/// A store whose maintenance fails.
#[derive(Debug)]
struct WithoutMaintenance;

#[async_trait]
impl Interceptor for WithoutMaintenance {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if matches!(call, Call::Maintain) {
            return Err(StoreError::Unavailable("on purpose".into()));
        }
        Ok(())
    }
}

/// A sweep whose maintenance fails reports itself first, so that health does not show it as late.
#[tokio::test]
async fn a_failed_maintenance_does_not_prevent_the_report() {
    let mut world = World::new();
    let inner = Arc::clone(&world.context.store);
    let interceptor = Arc::new(WithoutMaintenance);
    world.context.store = Arc::new(Intercepted { inner, interceptor });
    let before = world.now();
    let result = sweep::handle(&world.context, before.plus(MINUTE)).await;
    assert!(result.is_err(), "{result:?}");
    let report = world.context.store.last_sweep().await.unwrap().expect("a report");
    assert!(report.ran_at >= before, "{report:?}");
}
