//! Each step of publishing with a store or queue that fails: nothing is lost, and there is no 202
//! without a message.

use std::time::Duration;

use serde_json::json;
use shared::{
    applications::message::PublishedMessage,
    clock::Clock,
    store::{MessageFilter, Unindexed},
};

use crate::{
    customers::{create_endpoint, delivery_ids, post, put, stack, text},
    faulty::Fault,
    harness::{Answer, Stack},
};

async fn with_endpoints(count: usize) -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    for _ in 0..count {
        create_endpoint(&stack, "acme", json!({})).await;
    }
    stack
}

async fn publish(stack: &Stack) -> Answer {
    let body = json!({"event_type": "order.paid", "payload": 1});
    post(stack, "/applications/acme/messages", &body).await
}

async fn stored(stack: &Stack) -> Vec<PublishedMessage> {
    let filter = MessageFilter::all("acme".parse().unwrap());
    stack.context.store.list_messages(&filter, None, 100).await.unwrap().items
}

/// The messages that the audit finds.
async fn unheld(stack: &Stack) -> Vec<String> {
    let (store, now) = (&stack.context.store, stack.clock.now());
    let until = now.plus(Duration::from_secs(60));
    let from = now.minus(Duration::from_secs(60));
    let found = store.list_unindexed(from, until, None).await.unwrap().items;
    found
        .into_iter()
        .map(|found| match found {
            Unindexed::Message(standing) => standing.message.id.to_string(),
            Unindexed::Webhook(webhook) => panic!("{webhook:?}"),
        })
        .collect()
}

#[tokio::test]
async fn without_the_store_a_message_is_refused() {
    for fault in [Fault::Down, Fault::AnswerLost] {
        let stack = with_endpoints(2).await;
        stack.faults.set("create_message", fault);
        let refused = publish(&stack).await;
        refused.problem(503);
        assert!(refused.header("retry-after").is_some() && refused.text.contains("unknown"));
        assert!(!refused.text.contains("internal detail"));
        stack.faults.heal();
        let stored: Vec<String> =
            stored(&stack).await.iter().map(|message| message.id.to_string()).collect();
        assert_eq!(stored.len(), usize::from(fault == Fault::AnswerLost));
        // A message whose answer is lost has no look. The audit finds it.
        assert!(stack.take_messages().await.is_empty());
        assert_eq!(unheld(&stack).await, stored);
    }
    let stack = with_endpoints(1).await;
    stack.clock.advance(Duration::from_secs(3));
    stack.faults.set("application", Fault::Down);
    let refused = publish(&stack).await;
    refused.problem(503);
    assert!(!refused.text.contains("unknown"), "nothing was written");
    assert!(stored(&stack).await.is_empty());
}

/// Without the queue, the message enters the due index with the current time.
#[tokio::test]
async fn without_the_queue_a_message_is_due_at_once() {
    let stack = with_endpoints(2).await;
    stack.faults.set("send", Fault::Down);
    let id = text(&publish(&stack).await.json(202), "message_id");
    let [message] = stored(&stack).await.try_into().unwrap();
    assert_eq!((message.id.to_string(), message.due_at), (id, Some(stack.clock.now())));
    assert_eq!((message.expires_at, message.settled), (None, 0));
    assert!(unheld(&stack).await.is_empty(), "the due index has it");
}

/// The queue accepts some looks of a message. The message is due, and `deliver` looks at the rest.
#[tokio::test]
async fn a_message_of_which_some_looks_are_refused_is_due_at_once() {
    let stack = with_endpoints(12).await;
    stack.faults.take_calls();
    stack.faults.set("send", Fault::DownAfter(1));
    let published = publish(&stack).await.json(202);
    let queued = stack.take_messages().await;
    assert_eq!(delivery_ids(&published).len(), 12);
    assert!(queued.len() == 10 || queued.len() == 2, "{queued:?}");
    let [message] = stored(&stack).await.try_into().unwrap();
    assert_eq!(message.due_at, Some(stack.clock.now()));
    assert_eq!(message.revision, 2, "one write");
}

/// Neither queue nor store answers after the create. The caller has its 202, and the audit finds
/// the message.
#[tokio::test]
async fn a_message_that_could_not_be_held_is_found_by_the_audit() {
    let stack = with_endpoints(2).await;
    stack.faults.set("send", Fault::Down);
    stack.faults.set("write_message", Fault::Down);
    let id = text(&publish(&stack).await.json(202), "message_id");
    stack.faults.heal();
    assert_eq!(stored(&stack).await[0].due_at, None);
    assert_eq!(unheld(&stack).await, [id]);
}

/// The answer of the queue is lost: the looks are there, and the message is due too. A second look
/// does no harm.
#[tokio::test]
async fn a_lost_answer_of_the_queue_costs_a_second_look() {
    let stack = with_endpoints(2).await;
    stack.faults.set("send", Fault::AnswerLost);
    let published = publish(&stack).await.json(202);
    stack.faults.heal();
    let mut queued = stack.take_messages().await;
    let mut planned = delivery_ids(&published);
    queued.sort_unstable();
    planned.sort_unstable();
    assert_eq!(queued, planned);
    assert_eq!(stored(&stack).await[0].due_at, Some(stack.clock.now()));
}

/// The client is gone before its message is stored. The publish still runs to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_client_is_gone_runs_to_its_end() {
    let stack = with_endpoints(1).await;
    stack.faults.set("create_message", Fault::Held);
    let body = json!({"event_type": "order.paid", "payload": 1}).to_string();
    let request = stack
        .request(reqwest::Method::POST, "/applications/acme/messages")
        .header("x-api-key", crate::customers::OPERATOR)
        .header("content-type", "application/json")
        .body(body);
    let client = tokio::spawn(request.send());
    stack.faults.called("create_message", 1).await;
    client.abort();
    assert!(client.await.is_err());
    stack.faults.take_calls();
    stack.faults.heal();
    stack.faults.called("send", 1).await;
    assert_eq!(stored(&stack).await.len(), 1);
}
