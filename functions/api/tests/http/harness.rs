//! A server with its own port, its context, and a client.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::Access;
use async_trait::async_trait;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use shared::{
    application_cache::ApplicationCache,
    clock::{Clock, Timestamp},
    config::{Config, Defaults},
    context::{Backends, Context, DataDirMode},
    id::WebhookId,
    message::Look,
    model::{ClaimId, ErrorKind, Webhook},
    queue::{Lane, Queue},
    retry::Outcome,
    transition::Report,
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::faulty::{Faults, FaultyQueue, FaultyStore};

/// The destination of webhooks. Nothing is sent to it.
pub(crate) const URL: &str = "https://receiver.example/hooks";

/// A clock that only the test advances.
#[derive(Debug)]
pub(crate) struct TestClock(watch::Sender<Timestamp>);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Timestamp::from_millis(1_800_000_000_000))))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.plus(by));
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn monotonic(&self) -> Duration {
        self.now().since(Timestamp::default())
    }

    async fn sleep(&self, wait: Duration) {
        let until = self.now().plus(wait);
        self.0.subscribe().wait_for(|now| *now >= until).await.unwrap();
    }
}

/// A running API.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) context: Context,
    pub(crate) clock: Arc<TestClock>,
    /// The faults of store and queue.
    pub(crate) faults: Arc<Faults>,
    pub(crate) base: String,
    client: Client,
    /// `None`: another process's stack has the directory.
    _dir: Option<TempDir>,
}

/// A complete response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    /// The body. Panics if the status is another one.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that it is a problem with this status, and returns the fields that it names.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Vec<String> {
        let body = self.json(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["status"], status);
        assert!(self.header("x-correlation-id").is_some());
        for member in ["type", "title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        }
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|error| {
                assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
                error["field"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

impl Stack {
    /// Admits every caller on this machine.
    pub(crate) async fn start() -> Self {
        Self::with(&[], Access::Loopback).await
    }

    pub(crate) async fn with(settings: &[(&str, &str)], access: Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings: HashMap<&str, &str> = settings.iter().copied().collect();
        settings.insert("DATA_DIR", dir.path().to_str().unwrap());
        let config = Config::from_source(Defaults::LOCAL, |name| {
            settings.get(name).map(|value| (*value).to_owned())
        })
        .unwrap();
        let clock = TestClock::new();
        let shared_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let backends = Backends::open(&config, &shared_clock, DataDirMode::Shared).unwrap();
        let mut context = Context::new(config, &backends, shared_clock, Duration::ZERO).unwrap();
        let faults = Arc::new(Faults::default());
        context.store = Arc::new(FaultyStore {
            inner: Arc::clone(&context.store),
            faults: Arc::clone(&faults),
        });
        context.queue = Arc::new(FaultyQueue {
            inner: Arc::clone(&context.queue),
            faults: Arc::clone(&faults),
        });
        let base = serve(&context, access).await;
        Self { context, clock, faults, base, client: client(), _dir: Some(dir) }
    }

    /// Another process with the same store and clock, and a cache of its own.
    pub(crate) async fn another_process(&self, access: Access) -> Self {
        let mut context = self.context.clone();
        context.applications = Arc::new(ApplicationCache::new(context.config.endpoint_cache));
        let base = serve(&context, access).await;
        let (clock, faults) = (Arc::clone(&self.clock), Arc::clone(&self.faults));
        Self { context, clock, faults, base, client: client(), _dir: None }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn call(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(self.request(Method::DELETE, path)).await
    }

    /// A POST with this body as JSON.
    pub(crate) async fn post(&self, path: &str, body: impl Into<String>) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(
        &self,
        path: &str,
        body: impl Into<String>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json")
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.call(request).await
    }

    /// Accepts a webhook with these fields besides URL and payload, and returns its ID.
    pub(crate) async fn accept(&self, more: Value) -> String {
        let mut body = json!({"url": URL, "payload": {"n": 1}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.post("/webhooks", body.to_string()).await.json(202);
        // So later webhooks have greater IDs.
        self.clock.advance(Duration::from_millis(1));
        answer["webhook_id"].as_str().unwrap().to_owned()
    }

    /// The record of a webhook or delivery. A delivery has one from the start, by definition.
    pub(crate) async fn record(&self, id: &str) -> Webhook {
        let id = parse(id);
        let Some(endpoint) = id.endpoint else {
            return self.context.store.get(&id).await.unwrap().unwrap();
        };
        let stored = self.context.store.delivery(&id).await.unwrap().unwrap();
        stored.visible(endpoint, self.clock.now()).unwrap()
    }

    /// Removes all visible messages, and returns the IDs in them.
    pub(crate) async fn take_messages(&self) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let queue: &dyn Queue = &*self.context.queue;
            let messages = queue
                .receive(Lane::Webhooks, 10, Duration::from_secs(60), Duration::ZERO)
                .await
                .unwrap();
            if messages.is_empty() {
                return ids;
            }
            let receipts: Vec<String> =
                messages.iter().map(|message| message.receipt.clone()).collect();
            queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
            ids.extend(messages.iter().map(|message| match Look::from_json(&message.body) {
                Ok(Look::Webhook(message)) => message.webhook_id.to_string(),
                Ok(Look::Message(id)) => id.to_string(),
                Err(error) => panic!("{error}: {}", message.body),
            }));
        }
    }

    /// Records the outcome of an attempt, as `deliver` does.
    pub(crate) async fn conclude(&self, id: &str, status_code: u16) -> Webhook {
        let (store, rules, now) = (&self.context.store, &self.context.rules, self.clock.now());
        let pending = self.record(id).await;
        let claimed =
            rules.claim(&pending, ClaimId(1), pending.allowed_at.unwrap().max(now)).unwrap();
        store.write(&pending, &claimed).await.unwrap();
        let error = (!(200..300).contains(&status_code)).then_some(ErrorKind::HttpStatus);
        let outcome = Outcome { error, status_code: Some(status_code), retry_after: None };
        let report = Report {
            outcome,
            duration: Duration::from_millis(5),
            message: None,
            response_excerpt: None,
        };
        let concluded = rules.conclude(&claimed, ClaimId(1), &report, now, 0.5).unwrap();
        store.write(&claimed, &concluded).await.unwrap();
        concluded
    }

    /// A webhook with the maximum number of attempts, each with a response of control characters.
    /// Its JSON is the longest possible one.
    pub(crate) async fn accept_with_long_excerpts(&self) -> String {
        let retry = json!({"max_attempts": 50, "base_delay_ms": 0});
        let id = self.accept(json!({"retry": retry, "reference_id": "long"})).await;
        let (store, rules) = (&self.context.store, &self.context.rules);
        let first = self.record(&id).await;
        let mut webhook = first.clone();
        for number in 1..=50 {
            let now = webhook.allowed_at.unwrap_or(webhook.updated_at);
            let claimed = rules.claim(&webhook, ClaimId(number), now).unwrap();
            let outcome = Outcome {
                error: Some(ErrorKind::HttpStatus),
                status_code: Some(503),
                retry_after: None,
            };
            let report = Report {
                outcome,
                duration: Duration::from_millis(5),
                message: None,
                response_excerpt: Some("\u{1}".repeat(256)),
            };
            webhook = rules.conclude(&claimed, ClaimId(number), &report, now, 0.5).unwrap();
        }
        webhook.revision = first.revision + 1;
        store.write(&first, &webhook).await.unwrap();
        id
    }

    /// Turns an accepted webhook into a dead letter.
    pub(crate) async fn bury(&self, id: &str) {
        let failed = self.conclude(id, 410).await;
        let archived = self.context.rules.archive(&failed, self.clock.now()).unwrap();
        self.context.store.write(&failed, &archived).await.unwrap();
        self.clock.advance(Duration::from_millis(1));
    }
}

async fn serve(context: &Context, access: Access) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = api::router(context.clone(), access);
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

pub(crate) fn parse(id: &str) -> WebhookId {
    id.parse().unwrap()
}

/// The IDs of a list's items.
pub(crate) fn ids(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["webhook_id"].as_str().unwrap().to_owned())
        .collect()
}

fn client() -> Client {
    // The client needs a TLS configuration although it uses no TLS here.
    let tls = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}
