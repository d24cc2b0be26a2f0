//! Every row of the table of a look at a message.

use std::{sync::atomic::Ordering, time::Duration};

use shared::{
    applications::message::PublishedMessage,
    message::{Look, Message},
    model::ErrorKind,
    queue::{Lane, MAX_BATCH, Outgoing},
    status::Status,
};

use super::tenant::{Tenant, endpoint, signed_by, url};
use crate::world::{no_answer, status};

fn ids(sent: &[Outgoing]) -> Vec<String> {
    let id = |outgoing: &Outgoing| match Look::from_json(&outgoing.body).unwrap() {
        Look::Webhook(message) => message.webhook_id.to_string(),
        Look::Message(id) => id.to_string(),
    };
    sent.iter().map(id).collect()
}

/// Enters the message in the due index, due now.
async fn make_due(tenant: &Tenant, message: &PublishedMessage) -> PublishedMessage {
    let standing = tenant.world.context.store.standing(&message.id).await.unwrap().unwrap();
    let now = tenant.world.now();
    let due = tenant.world.context.rules.adopt_message(&standing, now, now).unwrap();
    tenant.world.context.store.write_message(&standing.message, &due).await.unwrap();
    due
}

/// A message goes to each planned endpoint, signed with that endpoint's secret, from the looks that
/// the API sends. Nothing is due at the end.
#[tokio::test]
async fn a_message_is_delivered_to_each_endpoint() {
    let tenant = Tenant::with(&[("WEBHOOK_HMAC_SECRET", "direct")], 3).await;
    let message = tenant.accept(2).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    let mut arrived = tenant.endpoints.take();
    arrived.sort_by_key(|request| request.url.clone());
    for (n, request) in [1, 2].into_iter().zip(&arrived) {
        assert_eq!((&request.url, &request.signatures), (&url(n), &Some(signed_by(&[n]))));
        assert_eq!(request.webhook_id, message.id.delivery(endpoint(n)));
        assert_eq!(request.event_type.as_deref(), Some("order.paid"));
        let delivery = tenant.delivery(&message, n).await.unwrap();
        assert_eq!((delivery.status, delivery.revision), (Status::Delivered, 2), "two writes");
        assert_eq!(delivery.attempts[0].endpoint_revision, Some(1));
        assert_eq!(delivery.destination, format!("cust-7/{}", endpoint(n)));
    }
    assert_eq!(arrived.len(), 2);
    assert_eq!(tenant.message(&message).await.unwrap(), message, "it is not written");
    tenant.world.assert_settled(&[]).await;
}

/// Looks go to deliveries without a record and to those whose lease is over, not to others. Without
/// a need, the message is not written.
#[tokio::test]
async fn a_look_sends_looks_at_the_deliveries_that_nothing_else_will_look_at() {
    let mut tenant = Tenant::new(6).await;
    let queue = tenant.watch_queue();
    let message = tenant.publish(6).await;
    tenant.claimed_elsewhere(&message, 1).await;
    tenant.world.clock.advance(Duration::from_secs(46));
    tenant.claimed_elsewhere(&message, 2).await;
    tenant.look_at_delivery(&message, 3).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    tenant.endpoints.decide(|_| status(503));
    tenant.look_at_delivery(&message, 4).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    let store = &tenant.world.context.store;
    store.delete(&message.id.delivery(endpoint(5))).await.unwrap_err();
    let until = tenant.world.now().plus(Duration::from_secs(30 * 24 * 3600));
    store.put_marker(&message.id.delivery(endpoint(5)), until).await.unwrap();
    queue.take();
    tenant.look_at(&message).await;
    queue.take();
    assert!(tenant.world.run_deliver().await.is_empty());
    let sent = queue.take().concat();
    let expected = [1, 6].map(|n| message.id.delivery(endpoint(n)).to_string());
    assert_eq!(ids(&sent), expected, "lease over, and no record");
    assert!(sent.iter().all(|look| look.group == "cust-7"), "the application is the group");
    let hint = |look: &Outgoing| match Look::from_json(&look.body).unwrap() {
        Look::Webhook(Message { seen, .. }) => seen.map(|seen| seen.revision),
        Look::Message(_) => panic!("{look:?}"),
    };
    assert_eq!(sent.iter().map(hint).collect::<Vec<_>>(), [None, Some(0)]);
    assert_eq!(tenant.message(&message).await.unwrap().revision, 1);
}

#[tokio::test]
async fn looks_are_sent_in_batches_of_the_queue() {
    let mut tenant = Tenant::new(25).await;
    let queue = tenant.watch_queue();
    let message = tenant.publish(25).await;
    tenant.look_at(&message).await;
    queue.take();
    assert!(tenant.world.run_deliver().await.is_empty());
    let sizes: Vec<usize> = queue.take().iter().map(Vec::len).collect();
    assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, 5]);
    tenant.drain().await;
    assert_eq!(tenant.endpoints.arrived().len(), 25);
    tenant.world.assert_settled(&[]).await;
}

/// A due message stays due as long as a delivery is at large, and leaves the index once all are
/// accounted for: one is delivered, one waits in the index itself.
#[tokio::test]
async fn a_due_message_settles_once_every_delivery_is_accounted_for() {
    let tenant = Tenant::new(2).await;
    let message = make_due(&tenant, &tenant.publish(2).await).await;
    tenant.claimed_elsewhere(&message, 2).await;
    tenant.look_at_delivery(&message, 1).await;
    tenant.look_at(&message).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    assert_eq!(tenant.message(&message).await.unwrap(), message, "one is at large");
    tenant.world.clock.advance(Duration::from_secs(46));
    tenant.endpoints.decide(|_| no_answer(ErrorKind::Timeout));
    tenant.look_at_delivery(&message, 2).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    let waiting = tenant.delivery(&message, 2).await.unwrap();
    assert!(waiting.status == Status::Retrying && waiting.due_at.is_some());
    tenant.look_at(&message).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    let settled = tenant.message(&message).await.unwrap();
    assert_eq!((settled.due_at, settled.settled), (None, 2));
    assert!(settled.expires_at.is_some());
    tenant.endpoints.decide(|_| status(200));
    tenant.run_until_settled(Duration::from_secs(60)).await;
    assert_eq!(tenant.statuses(&message, 2).await, [Some(Status::Delivered); 2]);
}

/// The queue refuses looks: the message is due now, so the sweep sends them.
#[tokio::test]
async fn a_refused_look_makes_the_message_due() {
    let mut tenant = Tenant::new(12).await;
    let queue = tenant.watch_queue();
    let message = tenant.publish(12).await;
    tenant.look_at(&message).await;
    queue.refuses.store(true, Ordering::SeqCst);
    assert!(tenant.world.run_deliver().await.is_empty(), "the index holds it: acknowledged");
    let due = tenant.message(&message).await.unwrap();
    assert!(due.due_at.unwrap() <= tenant.world.now() && due.expires_at.is_none(), "{due:?}");
    queue.refuses.store(false, Ordering::SeqCst);
    tenant.run_until_settled(Duration::from_secs(300)).await;
    assert_eq!(tenant.endpoints.arrived().len(), 12);
    tenant.world.assert_settled(&[]).await;
}

/// A look that comes before the message is allowed sends nothing. The due index holds the message,
/// or, if two clocks differ, the look itself does.
#[tokio::test]
async fn a_look_that_is_early_sends_nothing() {
    let tenant = Tenant::new(1).await;
    let allowed_at = tenant.world.now().plus(Duration::from_secs(3600));
    let scheduled = tenant.publish_at(1, Some(allowed_at)).await;
    tenant.look_at(&scheduled).await;
    tenant.look_at_delivery(&scheduled, 1).await;
    tenant.send_looks(&scheduled).await;
    assert!(tenant.world.run_deliver().await.is_empty(), "the index holds it: acknowledged");
    // The clock of the API was an hour ahead.
    let mut ahead = tenant.world.context.rules.requeue_message(
        &scheduled,
        scheduled.due_at.unwrap(),
        false,
        tenant.world.now(),
    );
    let mut ahead = ahead.as_mut().unwrap().clone();
    ahead.id.task = shared::id::TaskId::mint(tenant.world.now(), rand::random());
    (ahead.revision, ahead.requeues, ahead.due_at) = (1, 0, None);
    ahead.expires_at = Some(allowed_at.plus(Duration::from_secs(3600)));
    tenant.store(&ahead).await;
    tenant.look_at(&ahead).await;
    tenant.look_at_delivery(&ahead, 1).await;
    tenant.send_looks(&ahead).await;
    assert_eq!(tenant.world.run_deliver().await.len(), 3, "only the looks hold it: handed back");
    assert_eq!(tenant.endpoints.arrived(), []);
    assert_eq!(tenant.message(&scheduled).await.unwrap(), scheduled);
    assert_eq!(tenant.message(&ahead).await.unwrap(), ahead);
}

#[tokio::test]
async fn a_look_at_a_message_that_does_not_exist_is_acknowledged() {
    let tenant = Tenant::new(1).await;
    let message = tenant.publish(1).await;
    tenant.world.context.store.delete_message(&message).await.unwrap();
    tenant.look_at(&message).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    assert_eq!(tenant.world.messages(Lane::Webhooks).await, (0, 0, 0));
}

/// A look of a version that does not exist yet is handed back, and nothing is lost.
#[tokio::test]
async fn a_look_of_a_newer_version_is_handed_back() {
    let tenant = Tenant::new(1).await;
    let message = tenant.publish(1).await;
    let look = Look::Message(message.id.clone()).to_json();
    for newer in [look.replace("\"v\":2", "\"v\":3"), look.replace("message_id", "job_id")] {
        tenant.world.send(Lane::Webhooks, &newer).await;
        assert_eq!(tenant.world.run_deliver().await.len(), 1, "{newer}");
        tenant.world.send(Lane::DeadLetters, &newer).await;
        assert_eq!(tenant.world.run_dlq().await.len(), 1, "{newer}");
    }
}
