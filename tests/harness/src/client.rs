//! A typed client of the HTTP API. It follows the API's documentation and shares no code with the
//! server.
//!
//! | module | contents |
//! |---|---|
//! | `answer` | a response, and the checks of its status and body |
//! | `error` | the errors, as the tools print them |
//! | `model` | the types of requests and responses |

mod answer;
mod error;
mod model;

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::secrecy;

pub use self::{
    answer::Answer,
    error::{ClientError, FieldError, Problem},
    model::{
        Accepted, Attempt, DeadLetter, DeadLetterPage, LastError, NewWebhook, Webhook, WebhookPage,
        test_payload,
    },
};

/// The time limit for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// A client of one API.
#[derive(Clone, Debug)]
pub struct ApiClient {
    base: Url,
    key: Option<String>,
    http: reqwest::Client,
}

impl ApiClient {
    /// Creates a client of the API at `base`. `key` is the API key, if the API requires one.
    pub fn new(base: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let bad = |reason: String| {
            ClientError::Setup(format!("'{base}' is not a valid API URL: {reason}"))
        };
        let mut base: Url =
            base.parse().map_err(|error: url::ParseError| bad(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(bad("it must start with http:// or https://".into()));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, key: key.map(str::to_owned), http: http_client()? })
    }

    /// The URL of the API.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `GET /health`, with any status code.
    pub async fn health(&self) -> Result<Answer, ClientError> {
        self.call(Method::GET, &["health"], &[], None).await
    }

    /// `POST /webhooks`.
    pub async fn submit(&self, webhook: &NewWebhook<'_>) -> Result<Accepted, ClientError> {
        let body = serde_json::to_string(webhook)
            .map_err(|error| ClientError::Setup(error.to_string()))?;
        self.call(Method::POST, &["webhooks"], &[], Some(body)).await?.accepted()
    }

    /// `POST /test-webhook`.
    pub async fn test_webhook(&self, url: &str, payload: &Value) -> Result<Accepted, ClientError> {
        self.call(
            Method::POST,
            &["test-webhook"],
            &[("webhook_url", url)],
            Some(payload.to_string()),
        )
        .await?
        .accepted()
    }

    /// `GET /webhook-status/{id}`.
    pub async fn webhook(&self, id: &str) -> Result<Webhook, ClientError> {
        self.call(Method::GET, &["webhook-status", id], &[], None).await?.expect(StatusCode::OK)
    }

    /// `GET /webhook-statuses`, the first page.
    pub async fn webhooks(&self, filters: &[(&str, &str)]) -> Result<WebhookPage, ClientError> {
        self.call(Method::GET, &["webhook-statuses"], filters, None).await?.expect(StatusCode::OK)
    }

    /// `DELETE /webhook-status/{id}`.
    pub async fn delete_webhook(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &["webhook-status", id], &[], None)
            .await?
            .expect_empty(StatusCode::NO_CONTENT)
    }

    /// `POST /webhooks/{id}/resend`.
    pub async fn resend(&self, id: &str) -> Result<Value, ClientError> {
        self.call(Method::POST, &["webhooks", id, "resend"], &[], None)
            .await?
            .expect(StatusCode::ACCEPTED)
    }

    /// `GET /webhooks/{id}/explain`.
    pub async fn explain(&self, id: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, &["webhooks", id, "explain"], &[], None)
            .await?
            .expect(StatusCode::OK)
    }

    /// `GET /dead-letters/{id}`; `None` if there is none.
    pub async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, ClientError> {
        let answer = self.call(Method::GET, &["dead-letters", id], &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            answer.expect(StatusCode::OK).map(Some)
        }
    }

    /// `GET /dead-letters`, the first page.
    pub async fn dead_letters(
        &self,
        filters: &[(&str, &str)],
    ) -> Result<DeadLetterPage, ClientError> {
        self.call(Method::GET, &["dead-letters"], filters, None).await?.expect(StatusCode::OK)
    }

    /// `DELETE /dead-letters/{id}`.
    pub async fn delete_dead_letter(&self, id: &str) -> Result<(), ClientError> {
        let answer = self.call(Method::DELETE, &["dead-letters", id], &[], None).await?;
        answer.expect_empty(StatusCode::NO_CONTENT)
    }

    /// `POST /dead-letters/{id}/redrive`.
    pub async fn redrive(&self, id: &str) -> Result<Value, ClientError> {
        self.call(Method::POST, &["dead-letters", id, "redrive"], &[], None)
            .await?
            .expect(StatusCode::ACCEPTED)
    }

    /// `GET /destinations`.
    pub async fn destinations(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["destinations"], &[], None).await?.expect(StatusCode::OK)
    }

    /// Sends any request. The segments of `path` are percent-encoded.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ClientError> {
        self.send((method, path), query, &[], body).await
    }

    /// Does the same with these headers and without a query.
    pub async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ClientError> {
        self.send((method, path), &[], headers, body).await
    }

    async fn send(
        &self,
        (method, path): (Method, &[&str]),
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ClientError> {
        let mut url = self.base.clone();
        // Never fails, because the constructor rejects all schemes except http and https.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let asked = format!("{method} {}", url.path());
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        query
            .iter()
            .filter(|(name, _)| *name == "webhook_url")
            .for_each(|(_, url)| secrecy::note_url(url));
        if let Some(body) = body {
            secrecy::note_body(&body);
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        }
        let unreachable = |source| ClientError::Unreachable {
            asked: asked.clone(),
            base: self.base().to_owned(),
            source,
        };
        let response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.text().await.map_err(unreachable)?;
        Ok(Answer { asked, status, headers, body })
    }
}

/// The HTTP client of the tools: no redirects, no proxy, and built-in root certificates, for an API
/// on AWS.
pub fn http_client() -> Result<reqwest::Client, ClientError> {
    http_client_with(usize::MAX)
}

/// Like [`http_client`], with a limit on idle connections per host. A client that several tests
/// share must keep none, because a connection ends with the runtime of the test that opened it.
pub fn http_client_with(idle: usize) -> Result<reqwest::Client, ClientError> {
    let setup =
        |error: &dyn std::error::Error| ClientError::Setup(format!("cannot set up TLS: {error}"));
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let tls = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .map_err(|error| setup(&error))?
    .with_root_certificates(roots)
    .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .pool_max_idle_per_host(idle)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(RESPONSE_TIMEOUT)
        .build()
        .map_err(|error| setup(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::receiver::{Receiver, Reply};

    async fn refusal(reply: Reply) -> ClientError {
        let receiver = Receiver::builder().script(move |_| reply.clone()).start().await.unwrap();
        let client = ApiClient::new(&receiver.url(""), None).unwrap();
        client.test_webhook("http://127.0.0.1:1/", &json!({})).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_problem_is_shown_with_its_fields_and_a_hint() {
        let body = r#"{"type":"about:blank","title":"Unprocessable","status":422,
                       "detail":"bad fields",
                       "errors":[{"field":"url","message":"a private address"}]}"#;
        let error = refusal(
            Reply::status(422).header("content-type", "application/problem+json").body(body),
        )
        .await;
        assert_eq!(
            error.to_string(),
            "POST /test-webhook returned 422, Unprocessable: bad fields [url: a private \
             address]; for a receiver on this machine, start the stack with \
             ALLOW_PRIVATE_DESTINATIONS=true"
        );
        assert!(!error.is_transient());
    }

    #[tokio::test]
    async fn an_unexpected_body_is_shown() {
        let error = refusal(Reply::status(202).body("{\"webhook_id\":1}")).await;
        assert!(matches!(error, ClientError::Unreadable { .. }), "{error}");
        let error = refusal(Reply::status(503).body("down")).await;
        assert!(error.is_transient() && error.to_string().ends_with("down"), "{error}");
    }

    #[tokio::test]
    async fn an_api_that_is_not_running_is_reported_with_the_command_that_starts_it() {
        let receiver = Receiver::start().await.unwrap();
        let url = receiver.url("");
        drop(receiver.stop().await);
        let error = ApiClient::new(&url, None).unwrap().health().await.unwrap_err().to_string();
        assert!(
            error.contains("Connection refused") && error.contains("cargo run --release -p local"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_key_and_the_query_are_sent_encoded() {
        let receiver = Receiver::start().await.unwrap();
        let client = ApiClient::new(&receiver.url("/stage"), Some("secret")).unwrap();
        client.test_webhook("http://h/a?b=c&d", &json!({})).await.unwrap_err();
        let request = &receiver.wait_for(1, Duration::from_secs(30)).await.unwrap()[0];
        assert_eq!(
            request.uri.to_string(),
            "/stage/test-webhook?webhook_url=http%3A%2F%2Fh%2Fa%3Fb%3Dc%26d"
        );
        assert_eq!(request.header("authorization"), Some("Bearer secret"));
    }

    #[test]
    fn an_invalid_api_url_is_rejected() {
        for base in ["", "localhost:8000", "ftp://localhost", "/x"] {
            assert!(ApiClient::new(base, None).is_err(), "{base}");
        }
    }
}
