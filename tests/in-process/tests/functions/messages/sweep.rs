//! Messages in the due index and in the audit.

use std::time::Duration;

use shared::{
    applications::message::PublishedMessage, id::MessageId, message::Look, queue::Lane,
    status::Status,
};

use super::tenant::{Tenant, endpoint};
use crate::world::World;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn drop_messages(world: &World) {
    loop {
        let lost = world.received(Lane::Webhooks).await;
        if lost.is_empty() {
            return;
        }
        let receipts: Vec<String> = lost.into_iter().map(|message| message.receipt).collect();
        world.context.queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
    }
}

/// A scheduled message waits in the due index. When it is due, the sweep sends one look for all its
/// deliveries. They are made, and the message leaves the index.
#[tokio::test]
async fn a_scheduled_message_is_delivered_when_it_is_due() {
    let mut tenant = Tenant::new(3).await;
    let queue = tenant.watch_queue();
    let at = tenant.world.now().plus(10 * MINUTE);
    let message = tenant.publish_at(3, Some(at)).await;
    assert_eq!(tenant.world.run_sweep().await.requeued, 0, "not due yet");
    tenant.world.advance_past(at.minus(30 * Duration::from_secs(1)));
    assert_eq!(tenant.world.run_sweep().await.requeued, 1);
    let sent = queue.take().concat();
    assert_eq!(sent.len(), 1);
    assert_eq!(Look::from_json(&sent[0].body).unwrap(), Look::Message(message.id.clone()));
    assert_eq!(sent[0].group, "cust-7");
    assert!(sent[0].delay > Duration::from_secs(20), "it is sent ahead of time: {:?}", sent[0]);
    let moved = tenant.message(&message).await.unwrap();
    assert_eq!(moved.due_at, Some(at.plus(15 * MINUTE)));
    assert_eq!(moved.requeues, 1);
    tenant.world.advance_past(at);
    tenant.drain().await;
    assert_eq!(tenant.statuses(&message, 3).await, [Some(Status::Delivered); 3]);
    assert_eq!(tenant.world.run_sweep().await.requeued, 0, "one grace later");
    tenant.run_until_settled(5 * MINUTE).await;
    let settled = tenant.message(&message).await.unwrap();
    assert_eq!((settled.due_at, settled.settled), (None, 3));
    assert_eq!(tenant.endpoints.arrived().len(), 3);
}

/// The grace doubles as long as looks are lost. In a backlog, a look that repeats an earlier one
/// comes every six hours only.
#[tokio::test]
async fn in_a_backlog_a_message_is_repeated_every_six_hours_only() {
    for in_backlog in [false, true] {
        let tenant = Tenant::new(1).await;
        let at = tenant.world.now().plus(MINUTE);
        let message = tenant.publish_at(1, Some(at)).await;
        let mut graces = Vec::new();
        for _ in 0..4 {
            let due_at = tenant.message(&message).await.unwrap().due_at.unwrap();
            tenant.world.advance_past(due_at);
            assert_eq!(tenant.world.run_sweep().await.requeued, 1);
            let next = tenant.message(&message).await.unwrap().due_at.unwrap();
            graces.push(next.since(tenant.world.now()).as_secs().div_ceil(60));
            if !in_backlog {
                drop_messages(&tenant.world).await;
            }
        }
        let expected = if in_backlog { [15, 360, 360, 360] } else { [15, 30, 60, 120] };
        assert_eq!(graces, expected, "minutes");
        tenant.run_until_settled(30 * MINUTE).await;
        assert_eq!(tenant.endpoints.arrived().len(), 1);
    }
}

/// The audit enters a message in the due index for a delivery that is at large, and only for that.
#[tokio::test]
async fn the_audit_finds_messages_with_a_delivery_without_a_holder() {
    let tenant = Tenant::new(2).await;
    tenant.world.run_sweep().await;
    let lost = tenant.publish(2).await;
    let done = tenant.accept(2).await;
    tenant.drain().await;
    let marked = tenant.publish(1).await;
    let until = tenant.world.now().plus(30 * DAY);
    let id = marked.id.delivery(endpoint(1));
    tenant.world.context.store.put_marker(&id, until).await.unwrap();
    tenant.world.clock.advance(17 * MINUTE);
    assert_eq!(tenant.world.run_sweep().await.adopted, 1);
    assert!(tenant.message(&lost).await.unwrap().due_at.is_some());
    for message in [&done, &marked] {
        assert_eq!(tenant.message(message).await.as_ref(), Some(message));
    }
    tenant.run_until_settled(5 * MINUTE).await;
    assert_eq!(tenant.statuses(&lost, 2).await, [Some(Status::Delivered); 2]);
}

/// A due message that this version cannot read is reported, stays due, and holds up no other.
#[tokio::test]
async fn unreadable_messages_are_reported_and_hold_up_no_others() {
    let tenant = Tenant::new(1).await;
    let at = tenant.world.now().plus(MINUTE);
    let unreadable = tenant.publish_at(1, Some(at)).await;
    let behind = tenant.publish_at(1, Some(at.plus(Duration::from_secs(1)))).await;
    let newer = format!(r#"{{"v":3,"id":"{}"}}"#, unreadable.id);
    tenant.world.plant_record(unreadable.id.task.as_bytes(), &newer);
    tenant.world.advance_past(at.plus(Duration::from_secs(1)));
    let summary = tenant.world.run_sweep().await;
    assert_eq!((summary.requeued, summary.unreadable), (1, 1), "{summary:?}");
    tenant.look_at(&unreadable).await;
    assert_eq!(tenant.world.run_deliver().await.len(), 1, "its look is handed back");
    tenant.drain().await;
    assert_eq!(tenant.statuses(&behind, 1).await, [Some(Status::Delivered)]);
    let json = serde_json::to_string(&unreadable).unwrap();
    tenant.world.plant_record(unreadable.id.task.as_bytes(), &json);
    tenant.run_until_settled(7 * MINUTE).await;
    assert_eq!(tenant.statuses(&unreadable, 1).await, [Some(Status::Delivered)]);
}

/// A message that is accepted, or moved, by a clock that is a month ahead is delivered once the
/// clock is correct: one whose looks are lost, one that was due, and a scheduled one, which keeps
/// its time.
#[tokio::test]
async fn the_times_of_a_clock_that_was_ahead_are_taken_back() {
    let tenant = Tenant::new(2).await;
    tenant.world.run_sweep().await;
    let at = tenant.world.now().plus(MINUTE);
    let due = tenant.publish_at(2, Some(at)).await;
    tenant.world.clock.set_ahead(40 * DAY);
    let lost = tenant.publish(2).await;
    tenant.claimed_elsewhere(&lost, 2).await;
    let scheduled = tenant.publish_at(2, Some(tenant.world.now().plus(3 * DAY))).await;
    assert_eq!(tenant.world.run_sweep().await.requeued, 1);
    drop_messages(&tenant.world).await;
    tenant.world.clock.set_ahead(Duration::ZERO);
    let moved = |message: Option<PublishedMessage>| message.unwrap().due_at;
    assert!(moved(tenant.message(&due).await).unwrap() > tenant.world.now().plus(30 * DAY));
    let summary = tenant.world.run_sweep().await;
    assert_eq!(summary.taken_back, 4, "three messages and a delivery: {summary:?}");
    assert_eq!(moved(tenant.message(&scheduled).await), Some(scheduled.allowed_at));
    assert!(tenant.message(&lost).await.unwrap().allowed_at <= tenant.world.now());
    for _ in 0..40 {
        tenant.world.clock.advance(MINUTE);
        while tenant.world.run_sweep().await.more {}
        tenant.drain().await;
    }
    for message in [&due, &lost] {
        let delivered = [Some(Status::Delivered); 2];
        assert_eq!(tenant.statuses(message, 2).await, delivered, "{}", message.id);
    }
    assert_eq!(tenant.statuses(&scheduled, 2).await, [None; 2]);
    let look = Look::Message(MessageId::clone(&lost.id));
    tenant.world.send(Lane::Webhooks, &look.to_json()).await;
    tenant.drain().await;
    assert_eq!(tenant.endpoints.arrived().len(), 4, "each delivery once");
}
