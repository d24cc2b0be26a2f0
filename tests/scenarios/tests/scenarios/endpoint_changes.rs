//! What happens to messages under way when an endpoint changes: each row of the table in
//! `docs/applications.md`, on a local stack as a real process.

use std::time::Duration;

use harness::{
    client::{ApiClient, Webhook},
    receiver::{Receiver, Reply},
    stack::{Launch, Stack},
    wait::wait_until,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);

const APPLICATION: &str = "acme";

/// A stack with an application, and a receiver that answers 503.
struct World {
    api: ApiClient,
    receiver: Receiver,
    _stack: Stack,
    _launch: Launch,
}

impl World {
    async fn start() -> Self {
        let launch = Launch::fresh()
            .unwrap()
            .set("ENDPOINT_CACHE_MS", "0")
            .set("ENDPOINT_RETRY_SCHEDULE", "3s,1s,1s,1s,1s")
            .set("RETRY_JITTER", "0")
            .set("CIRCUIT_FAILURES", "0")
            .set("RUST_LOG", "warn");
        let stack = launch.start().unwrap();
        let api = ApiClient::new(&stack.url(), None).unwrap();
        let receiver = Receiver::builder().script(|_| Reply::status(503)).start().await.unwrap();
        let world = Self { api, receiver, _stack: stack, _launch: launch };
        world.call(Method::PUT, &[], Some(json!({})), StatusCode::CREATED).await;
        world
    }

    /// Sends a request below the application.
    async fn call(
        &self,
        method: Method,
        rest: &[&str],
        body: Option<Value>,
        status: StatusCode,
    ) -> Value {
        let path = [&["applications", APPLICATION], rest].concat();
        let body = body.map(|body| body.to_string());
        let answer = self.api.call(method, &path, &[], body).await.unwrap();
        if status == StatusCode::NO_CONTENT {
            answer.expect_empty(status).unwrap();
            return Value::Null;
        }
        answer.expect(status).unwrap()
    }

    async fn endpoint(&self, path: &str, fields: Value) -> String {
        let mut body = json!({ "url": self.receiver.url(path) });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let rest = ["endpoints"];
        let created = self.call(Method::POST, &rest, Some(body), StatusCode::CREATED).await;
        created["endpoint_id"].as_str().unwrap().to_owned()
    }

    async fn patch(&self, endpoint: &str, body: Value) {
        self.call(Method::PATCH, &["endpoints", endpoint], Some(body), StatusCode::OK).await;
    }

    async fn switch(&self, endpoint: &str, what: &str) {
        let rest = ["endpoints", endpoint, what];
        self.call(Method::POST, &rest, Some(json!({})), StatusCode::OK).await;
    }

    async fn publish(&self, event_type: &str) -> Value {
        let body = json!({"event_type": event_type, "payload": {"for": event_type}});
        self.call(Method::POST, &["messages"], Some(body), StatusCode::ACCEPTED).await
    }

    /// Publishes a message that goes to one endpoint. Returns its delivery.
    async fn publish_one(&self, event_type: &str) -> String {
        let published = self.publish(event_type).await;
        let deliveries = published["deliveries"].as_array().unwrap();
        assert_eq!(deliveries.len(), 1, "{published}");
        deliveries[0]["delivery_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the delivery has failed at least once and waits for its next attempt.
    async fn fails_once(&self, delivery: &str) {
        wait_until("a failed attempt", BOUND, async || {
            !self.api.webhook(delivery).await.unwrap().attempts.is_empty()
        })
        .await;
    }

    fn answer(&self, status: u16) {
        self.receiver.answer_with(move |_| Reply::status(status));
    }

    async fn ends(&self, delivery: &str) -> Webhook {
        wait_until("the end of the delivery", BOUND, async || {
            self.api.webhook(delivery).await.unwrap().is_finished()
        })
        .await;
        self.api.webhook(delivery).await.unwrap()
    }

    /// Waits until the delivery has failed for this reason and is a dead letter.
    async fn fails_for(&self, delivery: &str, reason: &str) {
        let webhook = self.ends(delivery).await;
        let kind = webhook.last_error.as_ref().map(|error| error.kind.as_str());
        assert_eq!((webhook.status.as_str(), kind), ("failed", Some(reason)), "{webhook:?}");
        wait_until("the dead letter", BOUND, async || {
            self.api.dead_letter(delivery).await.unwrap().is_some()
        })
        .await;
    }

    fn paths(&self) -> Vec<String> {
        self.receiver.received().iter().map(|request| request.path().to_owned()).collect()
    }
}

fn endpoints_of(published: &Value) -> Vec<&str> {
    let deliveries = published["deliveries"].as_array().unwrap();
    deliveries.iter().map(|one| one["endpoint_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_endpoint_gets_later_messages_only() {
    let world = World::start().await;
    let first = world.endpoint("/first", json!({})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    let second = world.endpoint("/second", json!({})).await;
    world.answer(200);
    assert_eq!(world.ends(&delivery).await.status, "delivered");
    assert!(world.paths().iter().all(|path| path == "/first"));
    let published = world.publish("order.paid").await;
    assert_eq!(endpoints_of(&published), [first, second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_event_types_match_later_messages_only() {
    let world = World::start().await;
    let endpoint = world.endpoint("/", json!({"event_types": ["order.*"]})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    world.patch(&endpoint, json!({"event_types": ["invoice.paid"]})).await;
    world.answer(200);
    assert_eq!(world.ends(&delivery).await.status, "delivered");
    let unmatched = world.publish("order.paid").await;
    assert_eq!((&unmatched["kept"], &unmatched["message_id"]), (&json!(false), &Value::Null));
    assert_eq!(endpoints_of(&world.publish("invoice.paid").await), [endpoint]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_uses_a_changed_url_and_headers() {
    let world = World::start().await;
    let endpoint = world.endpoint("/old", json!({"headers": {"x-tenant": "old"}})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    let url = world.receiver.url("/new");
    world.patch(&endpoint, json!({"url": url, "headers": {"x-tenant": "new"}})).await;
    world.answer(200);
    assert_eq!(world.ends(&delivery).await.status, "delivered");
    let requests = world.receiver.received();
    let last = requests.last().unwrap();
    assert_eq!((last.path(), last.header("x-tenant")), ("/new", Some("new")));
    assert_eq!((requests[0].path(), requests[0].header("x-tenant")), ("/old", Some("old")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_outcome_uses_a_changed_retry_policy() {
    let world = World::start().await;
    let endpoint = world.endpoint("/", json!({})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    world.patch(&endpoint, json!({"retry": {"max_attempts": 2}})).await;
    let webhook = world.ends(&delivery).await;
    assert_eq!((webhook.status.as_str(), webhook.attempts.len()), ("failed", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_gets_nothing_until_it_is_enabled() {
    let world = World::start().await;
    let endpoint = world.endpoint("/", json!({})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    world.switch(&endpoint, "disable").await;
    world.answer(200);
    world.fails_for(&delivery, "endpoint_disabled").await;
    let published = world.publish("order.paid").await;
    assert_eq!(published["disabled"], json!([endpoint]));
    assert!(published["message_id"].is_string(), "it is stored: {published}");
    assert!(endpoints_of(&published).is_empty());
    world.switch(&endpoint, "enable").await;
    let later = world.publish_one("order.paid").await;
    assert_eq!(world.ends(&later).await.status, "delivered");
    assert!(world.api.dead_letter(&delivery).await.unwrap().is_some(), "dead letters stay");
    // Nobody asked for the message that was published meanwhile.
    let bodies = world.receiver.received().len();
    assert_eq!(bodies, 2, "one failed attempt, and the message after the enable");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_to_a_deleted_endpoint_fail() {
    let world = World::start().await;
    let endpoint = world.endpoint("/", json!({})).await;
    let delivery = world.publish_one("order.paid").await;
    world.fails_once(&delivery).await;
    let rest = ["endpoints", &endpoint];
    world.call(Method::DELETE, &rest, None, StatusCode::NO_CONTENT).await;
    world.answer(200);
    world.fails_for(&delivery, "endpoint_deleted").await;
    assert_eq!(world.receiver.received().len(), 1);
    let unmatched = world.publish("order.paid").await;
    assert_eq!(unmatched["kept"], json!(false));
    let redrive = ["dead-letters", &delivery, "redrive"];
    let answer = world.api.call(Method::POST, &redrive, &[], None).await.unwrap();
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_in_flight_goes_on_when_its_endpoint_is_deleted() {
    let world = World::start().await;
    let hang = Duration::from_secs(2);
    world.receiver.answer_with(move |_| Reply::status(200).after(hang));
    let endpoint = world.endpoint("/", json!({})).await;
    let delivery = world.publish_one("order.paid").await;
    world.receiver.wait_for(1, BOUND).await.unwrap();
    let rest = ["endpoints", &endpoint];
    world.call(Method::DELETE, &rest, None, StatusCode::NO_CONTENT).await;
    assert_eq!(world.ends(&delivery).await.status, "delivered");
}
