//! What a customer's key reaches: any request with the key of one application never gets a byte of
//! another application.
//!
//! An input is a request: method, path and query on the first line, the body after it. Words in
//! braces stand for ids of both applications. Whatever the other application stores contains the
//! canary.

use axum::body::Body;
use http::{Method, Request, StatusCode, Uri};
use serde_json::{Value, json};

use crate::{
    api::{Api, URL},
    engine,
};

/// In the name, metadata, URL, headers, event types, payloads and errors of the other application.
const CANARY: &str = "canary0other";

/// A master key of 32 bytes.
const MASTER_KEY: &str = "ZnV6emluZy1vbmx5LW5laXRoZXItc2FmZS1ub3Itc2U=";

const WORDS: [&str; 32] = [
    "GET /applications/{own}/",
    "GET /applications/{other}/",
    "POST /applications/{own}/",
    "DELETE /applications/{own}/",
    "PATCH /applications/{own}/endpoints/",
    "PUT /applications/{other}",
    "/applications/{other}",
    "{own}",
    "{other}",
    "{own_endpoint}",
    "{other_endpoint}",
    "{own_message}",
    "{other_message}",
    "{own_delivery}",
    "{other_delivery}",
    "{own_key}",
    "{other_key}",
    "endpoints/",
    "messages/",
    "deliveries/",
    "keys/",
    "/secret",
    "/explain",
    "/resend",
    "/test",
    "?endpoint_id={other_endpoint}",
    "?reference_id=",
    "/webhook-status/{other_delivery}",
    "/webhooks/{other_delivery}/explain",
    "/dead-letters",
    "\"endpoint_id\":\"{other_endpoint}\"",
    "../{other}/",
];

/// The ids of an application and its objects.
struct Tenant {
    application: &'static str,
    endpoint: String,
    message: String,
    delivery: String,
    key_id: String,
    key: String,
}

impl Tenant {
    /// Creates the application with an endpoint, a message and a key for everything.
    fn create(api: &Api, application: &'static str, mark: &str) -> Self {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let path = format!("/applications/{application}");
        let put = json!({"name": mark, "metadata": {"note": mark}}).to_string();
        let request = Request::put(&*path).header("content-type", "application/json");
        assert_eq!(api.call(request.body(Body::from(put)).unwrap()).status, StatusCode::CREATED);
        let created = |rest: &str, body: Value, status: StatusCode| {
            let answer = api.post(&format!("{path}/{rest}"), body.to_string().as_bytes());
            assert_eq!(answer.status, status, "{}", answer.json());
            answer.json()
        };
        let endpoint = json!({
            "url": format!("{URL}/{mark}"), "headers": {"x-token": mark}, "description": mark,
            "event_types": [format!("{mark}.*")],
        });
        let endpoint = created("endpoints", endpoint, StatusCode::CREATED);
        let message = json!({"event_type": format!("{mark}.paid"), "payload": {"text": mark}});
        let message = created("messages", message, StatusCode::ACCEPTED);
        let key = json!({"name": "all", "scopes": ["publish", "read", "manage"]});
        let key = created("keys", key, StatusCode::CREATED);
        Self {
            application,
            endpoint: text(&endpoint["endpoint_id"]),
            message: text(&message["message_id"]),
            delivery: text(&message["deliveries"][0]["delivery_id"]),
            key_id: text(&key["key_id"]),
            key: text(&key["key"]),
        }
    }

    /// The text with this application's ids in place of the words that begin with `who`.
    fn fill(&self, who: &str, text: &str) -> String {
        text.replace(&format!("{{{who}}}"), self.application)
            .replace(&format!("{{{who}_endpoint}}"), &self.endpoint)
            .replace(&format!("{{{who}_message}}"), &self.message)
            .replace(&format!("{{{who}_delivery}}"), &self.delivery)
            .replace(&format!("{{{who}_key}}"), &self.key_id)
    }
}

#[test]
fn never_reach_each_other() {
    let api = Api::with(&[("MASTER_KEY", MASTER_KEY)]);
    let own = Tenant::create(&api, "own-app", "mine");
    let other = Tenant::create(&api, "other-app", CANARY);
    let path = format!("/applications/other-app/endpoints/{}", other.endpoint);
    let endpoint = api.get(&path).json();
    engine::run(bolero::check!(), "tenants__reach", &WORDS, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let text = other.fill("other", &own.fill("own", text));
        let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
        let (method, uri) = head.split_once(' ').unwrap_or(("GET", head));
        let (Ok(method), Ok(uri)) = (method.parse::<Method>(), uri.parse::<Uri>()) else { return };
        let names_other = uri.path().starts_with("/applications/other-app");
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("x-api-key", &own.key)
            .header("content-type", "application/json");
        let Ok(request) = request.body(Body::from(body.to_owned())) else { return };
        let answer = api.call(request);
        let shown = String::from_utf8_lossy(&answer.body);
        assert!(!shown.contains(CANARY), "{head}: {shown}");
        assert!(!names_other || !answer.status.is_success(), "{head}: {shown}");
    });
    // Nothing was changed either.
    assert_eq!(api.get(&path).json(), endpoint);
    let message = api.get(&format!("/applications/other-app/messages/{}", other.message));
    assert_eq!(message.status, StatusCode::OK);
}
