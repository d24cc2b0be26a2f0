//! What is sealed: secrets, header values and stored responses. None of it is in another response,
//! in the log or in the store's bytes.

use std::{
    fmt::{self, Write as _},
    fs,
    sync::{Arc, Mutex},
};

use reqwest::Method;
use serde_json::{Value, json};
use shared::{applications::id::ApplicationId, config::Config, config::Defaults};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    customers::{
        MASTER_KEY, OPERATOR, access, call, call_with, create_endpoint, create_key, get, kind,
        operate, post, put, stack,
    },
    faulty::Fault,
    harness::{Stack, URL},
};

const ENDPOINTS: &str = "/applications/acme/endpoints";

/// 32 bytes.
const GIVEN: &str = "whsec_Y2FuYXJ5LXNlY3JldC0wMTIzNDU2Nzg5LWNhbmFyeS0h";

/// Another master key.
const SECOND: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

const HEADER_VALUE: &str = "Bearer canary-header-value-88f1";

/// Everything that is logged by this thread, which runs the server too.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0.lock().unwrap(), "{field}={value:?} ");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn id() -> ApplicationId {
    "acme".parse().unwrap()
}

/// The files of the store, as text.
fn stored(stack: &Stack) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(&stack.context.config.data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            text.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
    assert!(text.contains("acme"), "the store writes its documents to these files");
    text
}

/// The secrets of an endpoint, in each form in which they could appear.
fn forms(secret: &str) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let encoded = secret.strip_prefix("whsec_").unwrap();
    let bytes = STANDARD.decode(encoded).unwrap();
    vec![encoded.to_owned(), hex(&bytes), String::from_utf8_lossy(&bytes).into_owned()]
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[tokio::test]
async fn secrets_are_shown_by_two_routes_alone_and_sealed_at_rest() {
    // With a single subscriber, a call site that another thread reaches first is off everywhere.
    let _other = tracing::Dispatch::new(Log::default());
    let log = Log::default();
    let _logged = tracing::subscriber::set_default(log.clone());
    let stack = stack().await;
    put(&stack, "acme").await;
    let more = json!({"secret": GIVEN, "headers": {"authorization": HEADER_VALUE}});
    let mut body = more.clone();
    body["url"] = json!(URL);
    let key = [("idempotency-key", "first")];
    let created = call_with(&stack, OPERATOR, Method::POST, ENDPOINTS, &body, &key).await;
    assert_eq!(created.json(201)["secret"], GIVEN);
    let again = call_with(&stack, OPERATOR, Method::POST, ENDPOINTS, &body, &key).await;
    assert_eq!(again.text, created.text);
    let path = format!("{ENDPOINTS}/{}", created.json(201)["endpoint_id"].as_str().unwrap());
    let (_, generated) = create_endpoint(&stack, "acme", json!({})).await;
    let generated = generated["secret"].as_str().unwrap().to_owned();
    let (key_id, application_key) = create_key(&stack, "acme", &["read", "manage"]).await;
    assert_eq!(
        get(&stack, &format!("{path}/secret")).await.json(200)["secrets"][0]["secret"],
        GIVEN
    );
    let mut canaries = [forms(GIVEN), forms(&generated)].concat();
    canaries.push(HEADER_VALUE.to_owned());
    canaries.push("canary".to_owned());
    canaries.push(application_key.rsplit('.').next().unwrap().to_owned());
    let mut shown = String::new();
    for (method, path, body) in [
        (Method::GET, "/applications".to_owned(), Value::Null),
        (Method::GET, "/applications/acme".to_owned(), Value::Null),
        (Method::PUT, "/applications/acme".to_owned(), json!({"name": "n"})),
        (Method::GET, "/applications/acme/changes".to_owned(), Value::Null),
        (Method::GET, "/applications/acme/keys".to_owned(), Value::Null),
        (Method::GET, ENDPOINTS.to_owned(), Value::Null),
        (Method::GET, path.clone(), Value::Null),
        (Method::PATCH, path.clone(), json!({"description": "d"})),
        (Method::PATCH, path.clone(), json!({"secret": GIVEN})),
        (Method::PATCH, path.clone(), json!({"headers": {"webhook-x": HEADER_VALUE}})),
        (Method::POST, ENDPOINTS.to_owned(), json!({"url": URL, "secret": "whsec_canary"})),
        (Method::POST, format!("{path}/disable"), Value::Null),
        (Method::POST, format!("{path}/enable"), Value::Null),
        (Method::GET, "/health".to_owned(), Value::Null),
        (Method::GET, "/metrics".to_owned(), Value::Null),
    ] {
        shown.push_str(&operate(&stack, method.clone(), &path, &body).await.text);
        shown.push_str(&call(&stack, &application_key, method, &path, &body).await.text);
    }
    // Failures that are logged.
    for fault in [Fault::Down, Fault::Panic] {
        stack.faults.set("write_application", fault);
        let answer = call_with(&stack, OPERATOR, Method::POST, ENDPOINTS, &body, &[]).await;
        shown.push_str(&answer.text);
        stack.faults.heal();
    }
    shown.push_str(&operate(&stack, Method::DELETE, &path, &Value::Null).await.text);
    let log = log.0.lock().unwrap().clone();
    assert!(log.contains("status=503"), "the log is read: {log}");
    let stored = stored(&stack);
    assert!(stored.contains(&key_id), "the document is read");
    for canary in &canaries {
        for (place, text) in [("response", &shown), ("log", &log), ("store", &stored)] {
            assert!(!text.contains(canary), "a {place} contains {canary}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_generated_or_given() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let secret = |created: &Value| created["secret"].as_str().unwrap().to_owned();
    let (path, one) = create_endpoint(&stack, "acme", json!({})).await;
    let (_, two) = create_endpoint(&stack, "acme", json!({"secret": null})).await;
    assert_ne!(secret(&one), secret(&two));
    assert_eq!(forms(&secret(&one))[1].len(), 64, "32 bytes");
    let shown = get(&stack, &format!("{path}/secret")).await.json(200);
    let shown = &shown["secrets"];
    assert_eq!(shown.as_array().unwrap().len(), 1);
    assert_eq!((&shown[0]["secret"], &shown[0]["kind"]), (&one["secret"], &json!("v1")));
    assert!(shown[0]["id"].as_str().unwrap().starts_with("sec-"));
    assert_eq!(shown[0]["expires_at"], Value::Null);
    let bare = GIVEN.strip_prefix("whsec_").unwrap();
    let (_, given) = create_endpoint(&stack, "acme", json!({"secret": bare})).await;
    assert_eq!(secret(&given), GIVEN);
}

/// A context with these master keys on the store of another.
async fn with_master_keys(stack: &Stack, keys: &str) -> Stack {
    let mut other = stack.another_process(access()).await;
    let config = Config::from_source(Defaults::LOCAL, |name| match name {
        "MASTER_KEY" => Some(keys.to_owned()).filter(|keys| !keys.is_empty()),
        "DATA_DIR" => stack.context.config.data_dir.to_str().map(str::to_owned),
        _ => None,
    });
    other.context.config = Arc::new(config.unwrap());
    other.another_process(access()).await
}

/// After a new key was put first, each write of a document reseals all of it.
#[tokio::test]
async fn a_write_reseals_the_document_under_the_first_master_key() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let more = json!({"secret": GIVEN, "headers": {"x-a": HEADER_VALUE}});
    let (path, _) = create_endpoint(&stack, "acme", more).await;
    let rotated = with_master_keys(&stack, &format!("{SECOND} {MASTER_KEY}")).await;
    let new = with_master_keys(&stack, SECOND).await;
    let answer = get(&new, &format!("{path}/secret")).await;
    answer.problem(503);
    assert_eq!(kind(&answer), "not-configured");
    assert!(answer.text.contains("MASTER_KEY"));
    let used = |document: &shared::applications::application::Application| {
        let endpoint = &document.endpoints[0];
        let sealed = [&endpoint.headers[0].sealed, &endpoint.secrets[0].sealed];
        sealed.map(|sealed| sealed.key_id().unwrap())
    };
    let before = stack.context.store.application(&id()).await.unwrap().unwrap();
    let name = json!({"name": "n"});
    operate(&rotated, Method::PUT, "/applications/acme", &name).await.json(200);
    let after = stack.context.store.application(&id()).await.unwrap().unwrap();
    let second = rotated.context.config.master_keys.as_ref().unwrap().sealing_key_id();
    assert!(used(&before).iter().all(|key| *key != second));
    assert_eq!(used(&after), [second, second]);
    let shown = get(&new, &format!("{path}/secret")).await.json(200);
    assert_eq!(shown["secrets"][0]["secret"], GIVEN);
}

/// Without a master key nothing is sealed or opened. What needs none still works, so an endpoint
/// can be disabled and a key revoked.
#[tokio::test]
async fn without_a_master_key_only_what_needs_it_is_refused() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let more = json!({"secret": GIVEN, "headers": {"x-a": HEADER_VALUE}});
    let (path, _) = create_endpoint(&stack, "acme", more).await;
    let (key_id, _) = create_key(&stack, "acme", &["read"]).await;
    let without = with_master_keys(&stack, "").await;
    let key = json!({"name": "n", "scopes": ["read"]});
    for (method, path, body) in [
        (Method::PUT, "/applications/acme".to_owned(), json!({})),
        (Method::POST, ENDPOINTS.to_owned(), json!({"url": URL})),
        (Method::POST, "/applications/acme/keys".to_owned(), key),
        (Method::GET, format!("{path}/secret"), Value::Null),
        (Method::PATCH, path.clone(), json!({"headers": {"x-a": "1"}})),
    ] {
        let answer = operate(&without, method.clone(), &path, &body).await;
        answer.problem(503);
        assert_eq!(kind(&answer), "not-configured", "{method} {path}");
        assert!(answer.text.contains("MASTER_KEY is not set"), "{}", answer.text);
    }
    get(&without, &path).await.json(200);
    operate(&without, Method::PATCH, &path, &json!({"description": "d"})).await.json(200);
    operate(&without, Method::PATCH, &path, &json!({"headers": null})).await.json(200);
    post(&without, &format!("{path}/disable"), &Value::Null).await.json(200);
    let revoked = format!("/applications/acme/keys/{key_id}");
    let answer = operate(&without, Method::DELETE, &revoked, &Value::Null).await;
    assert_eq!(answer.status, 204);
    assert_eq!(operate(&without, Method::DELETE, &path, &Value::Null).await.status, 204);
    get(&stack, &path).await.problem(404);
}

/// The operator sees a missing master key before a customer does.
#[tokio::test]
async fn a_missing_master_key_degrades_health() {
    let stack = stack().await;
    let health = async |process: &Stack| {
        process.clock.advance(std::time::Duration::from_secs(1));
        let health = get(process, "/health").await.json(200);
        (health["status"].clone(), health["store"]["warnings"][0].clone())
    };
    let without = with_master_keys(&stack, "").await;
    let new = with_master_keys(&stack, SECOND).await;
    for process in [&without, &new] {
        assert_eq!(health(process).await, (json!("healthy"), Value::Null));
    }
    put(&stack, "acme").await;
    create_endpoint(&stack, "acme", json!({})).await;
    let (status, warning) = health(&without).await;
    assert_eq!(status, "degraded");
    assert!(warning.as_str().unwrap().contains("MASTER_KEY is not set"), "{warning}");
    // Known once the process has read the application.
    get(&new, "/applications/acme").await.json(200);
    let (status, warning) = health(&new).await;
    assert_eq!(status, "degraded");
    assert!(warning.as_str().unwrap().contains("MASTER_KEY does not hold the key"), "{warning}");
    assert_eq!(health(&stack).await, (json!("healthy"), Value::Null));
    let (_, key) = create_key(&stack, "acme", &["read"]).await;
    let shown = call(&new, &key, Method::GET, "/health", &Value::Null).await;
    assert_eq!(shown.json(200), json!({"status": "degraded"}));
}

/// A secret that was moved from another endpoint does not open.
#[tokio::test]
async fn a_sealed_value_is_bound_to_its_endpoint() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    create_endpoint(&stack, "acme", json!({"secret": GIVEN})).await;
    let store = &stack.context.store;
    let mut document = store.application(&id()).await.unwrap().unwrap();
    document.endpoints[0].secrets = document.endpoints[1].secrets.clone();
    let before = document.revision;
    document.revision += 1;
    store.write_application(Some(before), &document).await.unwrap();
    let answer = get(&stack, &format!("{path}/secret")).await;
    answer.problem(500);
    assert!(!answer.text.contains("sec-"), "{}", answer.text);
}
