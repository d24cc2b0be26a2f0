//! Batches of messages: each item is accepted or refused on its own.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    customers::{
        OPERATOR, call_with, create_endpoint, delivery_ids, get, operate, post, put, stack, text,
    },
    faulty::Fault,
    harness::{Answer, Stack},
};

const BATCH: &str = "/applications/acme/messages/batch";
const KEY: [(&str, &str); 1] = [("idempotency-key", "k-1")];

async fn with_endpoints(count: usize) -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    for _ in 0..count {
        create_endpoint(&stack, "acme", json!({"event_types": ["order.*"]})).await;
    }
    stack
}

fn batch(count: usize) -> Value {
    let message = |n: usize| json!({"event_type": "order.paid", "payload": n});
    json!({"messages": (0..count).map(message).collect::<Vec<_>>()})
}

async fn keyed(stack: &Stack, body: &Value) -> Answer {
    call_with(stack, OPERATOR, Method::POST, BATCH, body, &KEY).await
}

fn ids(answer: &Value) -> Vec<Option<String>> {
    let results = answer["results"].as_array().unwrap().iter();
    results.map(|result| result["message_id"].as_str().map(str::to_owned)).collect()
}

/// The messages that are stored, oldest first.
async fn stored(stack: &Stack) -> Vec<String> {
    let page = get(stack, "/applications/acme/messages?page_size=100").await.json(200);
    let mut ids: Vec<String> =
        page["items"].as_array().unwrap().iter().map(|item| text(item, "message_id")).collect();
    ids.reverse();
    ids
}

#[tokio::test]
async fn each_message_has_its_own_result() {
    let stack = with_endpoints(2).await;
    let items = json!({"messages": [
        {"event_type": "order.paid", "payload": 1, "reference_id": "a"},
        {"event_type": "order paid", "payload": 1, "deliver_at": 7},
        7,
        {"event_type": "order.paid", "payload": "x".repeat(256 * 1024)},
        {"event_type": "invoice", "payload": null},
        {"event_type": "order.sent", "payload": {"z": 1}},
    ]});
    let answer = post(&stack, BATCH, &items).await.json(202);
    let results = answer["results"].as_array().unwrap();
    let fields = |index: usize| -> (u64, Vec<String>) {
        let error = &results[index]["error"];
        let fields = error["errors"].as_array().unwrap().iter();
        (error["status"].as_u64().unwrap(), fields.map(|error| text(error, "field")).collect())
    };
    assert_eq!((&results[0]["reference_id"], &results[0]["kept"]), (&json!("a"), &json!(true)));
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(fields(1), (422, named(&["messages[1].event_type", "messages[1].deliver_at"])));
    assert_eq!(fields(2), (422, named(&["messages[2]"])));
    assert_eq!(fields(3), (413, named(&["messages[3].payload"])));
    assert_eq!((&results[4]["kept"], &results[4]["message_id"]), (&json!(false), &Value::Null));
    let mut queued = stack.take_messages().await;
    let mut planned = [delivery_ids(&results[0]), delivery_ids(&results[5])].concat();
    queued.sort_unstable();
    planned.sort_unstable();
    assert_eq!((planned.len(), queued), (4, planned));
    assert_eq!(
        stored(&stack).await,
        [text(&results[0], "message_id"), text(&results[5], "message_id")]
    );
}

#[tokio::test]
async fn a_batch_has_1_to_100_messages() {
    let stack = with_endpoints(1).await;
    for body in [
        batch(0),
        batch(101),
        json!({}),
        json!([]),
        json!({"messages": 1}),
        json!({"messages": null}),
        json!({"messages": [{}], "more": 1}),
    ] {
        assert_eq!(post(&stack, BATCH, &body).await.problem(422).len(), 1, "{body}");
    }
    stack.faults.take_calls();
    let answer = post(&stack, BATCH, &batch(100)).await.json(202);
    // A queue call sends ten looks.
    assert_eq!(stack.faults.take_calls(), [("create_message", 100), ("send", 10)]);
    let deliveries: Vec<String> =
        answer["results"].as_array().unwrap().iter().flat_map(delivery_ids).collect();
    let mut queued = stack.take_messages().await;
    queued.sort_unstable();
    let mut sorted = deliveries.clone();
    sorted.sort_unstable();
    assert_eq!(queued, sorted, "100 looks are one for each delivery");
    assert_eq!(ids(&answer).into_iter().flatten().collect::<Vec<_>>(), stored(&stack).await);
}

/// A call that plans more than 100 deliveries sends a look for each message, and `deliver` sends
/// the others.
#[tokio::test]
async fn a_call_with_many_deliveries_sends_a_look_for_each_message() {
    let stack = with_endpoints(51).await;
    let answer = post(&stack, BATCH, &batch(2)).await.json(202);
    let mut messages: Vec<String> = ids(&answer).into_iter().flatten().collect();
    let mut queued = stack.take_messages().await;
    messages.sort_unstable();
    queued.sort_unstable();
    assert_eq!(queued, messages);
    let single = json!({"event_type": "order.paid", "payload": 1});
    post(&stack, "/applications/acme/messages", &single).await.json(202);
    assert_eq!(stack.take_messages().await.len(), 51, "a call of its own");
}

#[tokio::test]
async fn a_batch_is_published_once() {
    let stack = with_endpoints(2).await;
    stack.faults.set("create_message", Fault::AnswerLost);
    keyed(&stack, &batch(12)).await.problem(503);
    stack.faults.heal();
    // The plan is the stored one, although another endpoint matches by now.
    create_endpoint(&stack, "acme", json!({})).await;
    let first = keyed(&stack, &batch(12)).await;
    let answer = first.json(202);
    assert!(answer["results"].as_array().unwrap().iter().all(|one| delivery_ids(one).len() == 2));
    let second = keyed(&stack, &batch(12)).await;
    assert_eq!((&second.text, second.header("idempotent-replayed")), (&first.text, Some("true")));
    let mut published: Vec<String> = ids(&answer).into_iter().flatten().collect();
    let mut messages = stored(&stack).await;
    let mut queued = stack.take_messages().await;
    for list in [&mut published, &mut messages, &mut queued] {
        list.sort_unstable();
    }
    assert_eq!((&messages, &queued), (&published, &published), "a look for each message");
    keyed(&stack, &batch(11)).await.problem(409);
}

/// Each try of a batch stores two messages before it dies. The next try, a minute later, gives the
/// others new IDs. In the end each message was stored once.
#[tokio::test]
async fn a_batch_whose_tries_die_is_published_once() {
    let stack = with_endpoints(1).await;
    let mut told: Vec<Option<String>> = vec![None; 7];
    for round in 1..=4 {
        stack.faults.take_calls();
        stack.faults.set("create_message", Fault::DownAfter(2));
        let answer = keyed(&stack, &batch(7)).await.json(202);
        for (told, id) in told.iter_mut().zip(ids(&answer)) {
            assert!(told.is_none() || *told == id, "round {round}: {told:?}, then {id:?}");
            *told = id;
        }
        assert_eq!(stored(&stack).await.len(), usize::min(7, 2 * round));
        stack.clock.advance(std::time::Duration::from_millis(60_001));
    }
    let mut told: Vec<String> = told.into_iter().flatten().collect();
    let mut made = stored(&stack).await;
    told.sort_unstable();
    made.sort_unstable();
    assert_eq!(told, made);
}

/// A batch that stores nothing reserves no key. It is matched anew when it is repeated.
#[tokio::test]
async fn an_unmatched_batch_is_matched_anew() {
    let stack = with_endpoints(0).await;
    stack.clock.advance(std::time::Duration::from_secs(1));
    stack.faults.take_calls();
    let answer = keyed(&stack, &batch(2)).await.json(202);
    assert_eq!(stack.faults.take_calls(), [("application", 1), ("reservation", 1)]);
    assert_eq!(ids(&answer), [None, None]);
    create_endpoint(&stack, "acme", json!({})).await;
    let answer = keyed(&stack, &batch(2)).await.json(202);
    assert_eq!(ids(&answer).into_iter().flatten().count(), 2);
}

/// Without the store, the whole batch is refused. Without the queue, it is only delayed.
#[tokio::test]
async fn outages_affect_a_batch_like_a_single_message() {
    let stack = with_endpoints(2).await;
    let body = json!({"messages": [{"event_type": "order.paid", "payload": 1}, {}]});
    stack.faults.set("create_message", Fault::Down);
    post(&stack, BATCH, &body).await.problem(503);
    stack.faults.heal();
    stack.faults.set("send", Fault::Down);
    let answer = post(&stack, BATCH, &body).await.json(202);
    let id = ids(&answer)[0].clone().unwrap().parse().unwrap();
    assert_eq!(answer["results"][1]["error"]["status"], 422);
    let message = stack.context.store.message(&id).await.unwrap().unwrap();
    assert_eq!(message.due_at, Some(stack.context.clock.now()));
    let absent = "/applications/nobody/messages/batch";
    operate(&stack, Method::POST, absent, &body).await.problem(404);
}
