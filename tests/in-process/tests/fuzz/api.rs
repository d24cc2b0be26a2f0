//! The API in this process, over a real embedded store, with a few webhooks in it.

use std::{sync::Arc, time::Duration};

use api::Access;
use axum::{Router, body::Body};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use shared::{
    clock::{Clock, SystemClock},
    config::{Config, Defaults},
    context::{Backends, Context, DataDirMode},
    id::WebhookId,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A public host; nothing is ever sent.
pub(crate) const URL: &str = "https://receiver.example/hooks";

/// The router, and what is behind it.
pub(crate) struct Api {
    pub(crate) context: Context,
    pub(crate) router: Router,
    runtime: Runtime,
    _folder: TempDir,
}

impl Api {
    /// With the rules of a deployment: no private destinations. Everybody may call.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With these settings.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let setting = |name: &str| {
            let (_, value) = settings.iter().find(|(setting, _)| *setting == name)?;
            Some((*value).to_owned())
        };
        let mut config = Config::from_source(Defaults::LAMBDA, setting).unwrap();
        folder.path().clone_into(&mut config.data_dir);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let context = {
            let _within = runtime.enter();
            let backends = Backends::open(&config, &clock, DataDirMode::Shared).unwrap();
            Context::new(config, &backends, clock, Duration::from_secs(3600)).unwrap()
        };
        let router = api::router(context.clone(), Access::Platform);
        Self { context, router, runtime, _folder: folder }
    }

    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Makes a call, and judges what every answer must be.
    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        let answer = self.wait(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            Answer::of(response).await
        });
        answer.judge();
        answer
    }

    /// A POST of a body, said to be JSON.
    pub(crate) fn post(&self, path_and_query: &str, body: &[u8]) -> Answer {
        let request = Request::post(path_and_query).header("content-type", "application/json");
        self.call(request.body(Body::from(body.to_vec())).unwrap())
    }

    pub(crate) fn get(&self, path_and_query: &str) -> Answer {
        self.call(Request::get(path_and_query).body(Body::empty()).unwrap())
    }

    /// Accepts a webhook: its id.
    pub(crate) fn accept(&self, reference: &str) -> WebhookId {
        let body = json!({"url": URL, "payload": {"n": 1}, "reference_id": reference}).to_string();
        let answer = self.post("/webhooks", body.as_bytes());
        answer.json()["webhook_id"].as_str().expect("it is accepted").parse().unwrap()
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    content_type: String,
    has_correlation_id: bool,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let content_type = parts
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let has_correlation_id = parts.headers.contains_key("x-correlation-id");
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self { status: parts.status, content_type, has_correlation_id, body }
    }

    /// Store and queue are well, so a 5xx is our mistake (a panic in a handler is a 500); an error
    /// says what it is about.
    fn judge(&self) {
        let shown = String::from_utf8_lossy(&self.body);
        assert!(!self.status.is_server_error(), "{}: {shown}", self.status);
        assert!(self.has_correlation_id, "{}: {shown}", self.status);
        if self.status.is_client_error() {
            assert_eq!(self.content_type, "application/problem+json", "{shown}");
            let problem = self.json();
            assert_eq!(problem["status"], self.status.as_u16(), "{shown}");
            for member in ["type", "title", "detail"] {
                assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{shown}");
            }
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}
