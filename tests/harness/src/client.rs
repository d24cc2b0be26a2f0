//! A typed client of the HTTP API, written from the contract alone: a user's view.
//!
//! What the tools print of its errors is all that their user gets to see, so each says what was
//! asked, what came, and, where the cause is likely, what to do.

mod model;

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use crate::secrecy;

pub use self::model::{
    Accepted, Attempt, DeadLetter, DeadLetterPage, LastError, NewWebhook, Webhook, WebhookPage,
};

/// How long an answer of the API may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Characters shown of a body that was not expected.
const MAX_EXCERPT_CHARS: usize = 300;

/// A client of one API.
#[derive(Clone, Debug)]
pub struct ApiClient {
    base: Url,
    key: Option<String>,
    http: reqwest::Client,
}

/// An answer whose status nobody has judged yet.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked, for messages: `GET /health`.
    pub asked: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl ApiClient {
    /// A client of the API at `base`, with a key if it wants one.
    pub fn new(base: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let bad = |reason: String| {
            ClientError::Setup(format!("'{base}' is not the URL of an API: {reason}"))
        };
        let mut base: Url =
            base.parse().map_err(|error: url::ParseError| bad(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(bad("it must begin with http:// or https://".into()));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, key: key.map(str::to_owned), http: http_client()? })
    }

    /// Where the API is.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `GET /health`, whatever its status.
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

    /// Any call; `path` is given in segments, which are encoded.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ClientError> {
        let mut url = self.base.clone();
        // Never fails: the constructor let only http and https pass.
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

/// The HTTP client of the tools: no redirects, no proxy, and the roots compiled in, for an API on
/// AWS.
pub fn http_client() -> Result<reqwest::Client, ClientError> {
    http_client_with(usize::MAX)
}

/// One that keeps so many idle connections to a host. What several tests share keeps none: a
/// connection belongs to the runtime that opened it, and ends with that test.
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
        .timeout(ANSWER_TIMEOUT)
        .build()
        .map_err(|error| setup(&error))
}

impl Answer {
    /// The body as JSON, if the status is this one.
    pub fn expect<T: DeserializeOwned>(self, status: StatusCode) -> Result<T, ClientError> {
        if self.status != status {
            return Err(self.refused());
        }
        serde_json::from_str(&self.body).map_err(|source| {
            let excerpt = excerpt(&self.body);
            ClientError::Unreadable { asked: self.asked, excerpt, source }
        })
    }

    /// Nothing, if the status is this one.
    pub fn expect_empty(self, status: StatusCode) -> Result<(), ClientError> {
        if self.status == status { Ok(()) } else { Err(self.refused()) }
    }

    /// The problem that the body describes, if it is one by its content type and its members.
    pub fn problem(&self) -> Option<Problem> {
        let kind = self.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
        kind.starts_with("application/problem+json")
            .then(|| serde_json::from_str(&self.body).ok())?
    }

    /// The `x-correlation-id` header.
    pub fn correlation_id(&self) -> Option<String> {
        self.headers.get("x-correlation-id")?.to_str().ok().map(str::to_owned)
    }

    fn accepted(self) -> Result<Accepted, ClientError> {
        let correlation_id = self.correlation_id();
        let mut accepted: Accepted = self.expect(StatusCode::ACCEPTED)?;
        accepted.correlation_id = accepted.correlation_id.or(correlation_id);
        Ok(accepted)
    }

    fn refused(self) -> ClientError {
        match self.problem() {
            Some(problem) => ClientError::Problem {
                asked: self.asked,
                status: self.status,
                problem: Box::new(problem),
            },
            None => ClientError::Unexpected {
                asked: self.asked,
                status: self.status,
                excerpt: excerpt(&self.body),
            },
        }
    }
}

/// An error as the API words it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// What sort of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same, for people.
    pub title: String,
    /// The status code.
    pub status: u16,
    /// What it was this time.
    #[serde(default)]
    pub detail: String,
    /// The fields that are wrong.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FieldError {
    /// The field.
    pub field: String,
    /// Its fault.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for error in &self.errors {
            write!(f, " [{}: {}]", error.field, error.message)?;
        }
        Ok(())
    }
}

/// Why a call did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client itself could not be made.
    #[error("{0}")]
    Setup(String),
    /// No answer.
    #[error("{asked}: no answer from {base} ({}){}", root_cause(source), nobody_there(source))]
    Unreachable {
        /// What was asked.
        asked: String,
        /// Whom.
        base: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The API refused, and said why.
    #[error("{asked} was answered {}, {problem}{}", status.as_u16(), hint(*status, problem))]
    Problem {
        /// What was asked.
        asked: String,
        /// The status.
        status: StatusCode,
        /// The reason.
        problem: Box<Problem>,
    },
    /// Another status than the contract says, without a reason.
    #[error("{asked} was answered {status}, which the contract does not have here: {excerpt}")]
    Unexpected {
        /// What was asked.
        asked: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        excerpt: String,
    },
    /// The right status, but not the body that the contract says.
    #[error(
        "{asked} was answered by a body that the contract does not have: {source}; it begins: \
         {excerpt}"
    )]
    Unreadable {
        /// What was asked.
        asked: String,
        /// The beginning of the body.
        excerpt: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { status, .. } | Self::Unexpected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether asking again may help: no answer, or a 503.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || self.status() == Some(StatusCode::SERVICE_UNAVAILABLE)
    }
}

fn nobody_there(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "; start the local stack with: cargo run --release --bin local"
    } else {
        ""
    }
}

fn hint(status: StatusCode, problem: &Problem) -> &'static str {
    let mentions_private = || {
        let text = problem.to_string().to_lowercase();
        text.contains("private") || text.contains("globally routable") || text.contains("loopback")
    };
    match status {
        StatusCode::UNAUTHORIZED => "; give the key with --api-key",
        StatusCode::UNPROCESSABLE_ENTITY if mentions_private() => {
            "; for a receiver on this machine, start the stack with ALLOW_PRIVATE_DESTINATIONS=true"
        }
        _ => "",
    }
}

/// The innermost cause, which names what happened (`Connection refused`) where the outer ones name
/// only layers.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn excerpt(body: &str) -> String {
    if body.is_empty() {
        return "(empty)".into();
    }
    let mut text: String = body.chars().take(MAX_EXCERPT_CHARS).collect();
    if text.len() < body.len() {
        text.push('…');
    }
    text
}

/// A payload for a test, recognisable and different each time.
pub fn test_payload(scenario: &str) -> Value {
    let nonce: u64 = rand::random();
    json!({ "test": scenario, "nonce": format!("{nonce:016x}"), "sent_at": format!("{:.3}",
        jiff::Timestamp::now()),
            "amount": 1.5, "name": "Zoë \"quoted\" \u{1f4ee}", "nested": { "list": [1, null,
                true] } })
}

#[cfg(test)]
mod tests {
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
            "POST /test-webhook was answered 422, Unprocessable: bad fields [url: a private \
             address]; for a receiver on this machine, start the stack with \
             ALLOW_PRIVATE_DESTINATIONS=true"
        );
        assert!(!error.is_passing());
    }

    #[tokio::test]
    async fn a_body_outside_the_contract_is_shown() {
        let error = refusal(Reply::status(202).body("{\"webhook_id\":1}")).await;
        assert!(matches!(error, ClientError::Unreadable { .. }), "{error}");
        let error = refusal(Reply::status(503).body("down")).await;
        assert!(error.is_passing() && error.to_string().ends_with("down"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_start() {
        let receiver = Receiver::start().await.unwrap();
        let url = receiver.url("");
        drop(receiver.stop().await);
        let error = ApiClient::new(&url, None).unwrap().health().await.unwrap_err().to_string();
        assert!(
            error.contains("Connection refused")
                && error.contains("cargo run --release --bin local"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_key_and_the_query_are_sent_encoded() {
        let receiver = Receiver::start().await.unwrap();
        let client = ApiClient::new(&receiver.url("/stage"), Some("secret")).unwrap();
        client.test_webhook("http://h/a?b=c&d", &json!({})).await.unwrap_err();
        let request = &receiver.wait_for(1, Duration::from_secs(5)).await.unwrap()[0];
        assert_eq!(
            request.uri.to_string(),
            "/stage/test-webhook?webhook_url=http%3A%2F%2Fh%2Fa%3Fb%3Dc%26d"
        );
        assert_eq!(request.header("authorization"), Some("Bearer secret"));
    }

    #[test]
    fn what_is_no_url_of_an_api_is_refused() {
        for base in ["", "localhost:8000", "ftp://localhost", "/x"] {
            assert!(ApiClient::new(base, None).is_err(), "{base}");
        }
    }
}
