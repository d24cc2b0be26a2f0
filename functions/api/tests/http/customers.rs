//! A stack with a master key and an operator's key, and calls about applications.

use api::Access;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use shared::config::{Config, Defaults};

use crate::harness::{Answer, Stack, URL};

/// 32 bytes.
pub(crate) const MASTER_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The key of the operator.
pub(crate) const OPERATOR: &str = "operators-key-5f2c";

/// `ENDPOINT_CACHE_MS`.
pub(crate) const CACHE_MS: u64 = 2000;

pub(crate) fn access() -> Access {
    let setting = |name: &str| (name == "API_KEYS").then(|| OPERATOR.to_owned());
    Access::for_lambda(&Config::from_source(Defaults::LAMBDA, setting).unwrap().access)
}

/// A stack for the calls of this module.
pub(crate) async fn stack() -> Stack {
    let settings = [("MASTER_KEY", MASTER_KEY), ("ALLOW_PRIVATE_DESTINATIONS", "false")];
    Stack::with(&settings, access()).await
}

/// A call with this key, and this body unless it is null.
pub(crate) async fn call(
    stack: &Stack,
    key: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> Answer {
    call_with(stack, key, method, path, body, &[]).await
}

pub(crate) async fn call_with(
    stack: &Stack,
    key: &str,
    method: Method,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = stack.request(method, path).header("x-api-key", key);
    if !body.is_null() {
        request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    stack.call(request).await
}

/// A call of the operator.
pub(crate) async fn operate(stack: &Stack, method: Method, path: &str, body: &Value) -> Answer {
    call(stack, OPERATOR, method, path, body).await
}

pub(crate) async fn get(stack: &Stack, path: &str) -> Answer {
    operate(stack, Method::GET, path, &Value::Null).await
}

pub(crate) async fn post(stack: &Stack, path: &str, body: &Value) -> Answer {
    operate(stack, Method::POST, path, body).await
}

/// Creates an application without settings.
pub(crate) async fn put(stack: &Stack, id: &str) {
    let path = format!("/applications/{id}");
    operate(stack, Method::PUT, &path, &Value::Null).await.json(201);
}

/// Creates an endpoint with these fields besides the URL. Returns its path and the response.
pub(crate) async fn create_endpoint(stack: &Stack, id: &str, more: Value) -> (String, Value) {
    let mut body = json!({"url": URL});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = format!("/applications/{id}/endpoints");
    let created = post(stack, &path, &body).await.json(201);
    (format!("{path}/{}", created["endpoint_id"].as_str().unwrap()), created)
}

/// Creates a key with these scopes. Returns its ID and the key.
pub(crate) async fn create_key(stack: &Stack, id: &str, scopes: &[&str]) -> (String, String) {
    let body = json!({"name": "a name", "scopes": scopes});
    let created = post(stack, &format!("/applications/{id}/keys"), &body).await.json(201);
    let text = |member: &str| created[member].as_str().unwrap().to_owned();
    (text("key_id"), text("key"))
}

/// Publishes a message with this event type to an application. Returns the response.
pub(crate) async fn publish(stack: &Stack, id: &str, event_type: &str) -> Value {
    let body = json!({"event_type": event_type, "payload": {"n": 1}});
    let published = post(stack, &format!("/applications/{id}/messages"), &body).await.json(202);
    // So later messages have greater IDs.
    stack.clock.advance(std::time::Duration::from_millis(1));
    published
}

/// The IDs of the deliveries in a response.
pub(crate) fn delivery_ids(published: &Value) -> Vec<String> {
    let deliveries = published["deliveries"].as_array().unwrap().iter();
    deliveries.map(|delivery| delivery["delivery_id"].as_str().unwrap().to_owned()).collect()
}

/// A member of a response as text.
pub(crate) fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("{member}: {value}")).to_owned()
}

/// The `type` of a problem, without its prefix.
pub(crate) fn kind(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.text).unwrap();
    body["type"].as_str().unwrap().strip_prefix("urn:posthaste:").unwrap().to_owned()
}
