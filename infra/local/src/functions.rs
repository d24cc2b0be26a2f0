//! Functions in processes of their own, behind an endpoint that speaks Lambda's Invoke API and has
//! function URLs: `cargo lambda watch`.
//!
//! The endpoint may be away, and a function may still be built when it is first called. Nothing is
//! received for it meanwhile: see [`Function::ready`].

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Authority};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::Mutex, sync::watch, time::Instant};

/// How long a connection may take; it is this machine's, or one nearby.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The answer of a function at most: what Lambda allows.
const MAX_ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// How much of an answer that is an error is logged.
const SHOWN_BYTES: usize = 300;

/// The wait after the endpoint did not take a call. It doubles up to the other one.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long a function may take until its first answer, which may have to be compiled first.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(900);

/// After so long without a first answer it is said what it waits for; and again after so long that
/// it still does.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
const NOTICE_AGAIN: Duration = Duration::from_secs(60);

/// Where the functions are: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Authority);

/// It is not that.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("must be http://HOST:PORT without a path, as http://127.0.0.1:9000")]
pub struct InvalidEndpoint;

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint)?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) if is_bare && !authority.as_str().contains('@') => {
                Ok(Self(authority.clone()))
            }
            _ => Err(InvalidEndpoint),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The function was not called.
    #[error("the endpoint did not take the call: {0}")]
    NotTaken(String),
    /// The function failed, or may have run; nobody knows how far it got.
    #[error("the function failed: {0}")]
    Failed(String),
    /// No answer came in time; it may still run.
    #[error("the function did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// The endpoint's client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Functions {
    endpoint: Endpoint,
    client: Client<HttpConnector, Body>,
}

impl Functions {
    /// Connects at the first call. Call it within a tokio runtime.
    pub fn new(endpoint: Endpoint) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        connector.set_nodelay(true);
        Self { endpoint, client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Where they are.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// One of them by its name; `probe` is an event that it can be called with at any time.
    pub fn function(
        &self,
        name: &'static str,
        probe: fn() -> Bytes,
        stop: watch::Receiver<bool>,
    ) -> Function {
        let state = State {
            name,
            probe,
            functions: self.clone(),
            is_ready: AtomicBool::new(false),
            probing: Mutex::default(),
        };
        Function { state: Arc::new(state), stop }
    }

    /// Sends a request to this path of the endpoint.
    pub(crate) async fn send(
        &self,
        path: &str,
        mut request: Request<Body>,
    ) -> Result<http::Response<hyper::body::Incoming>, CallError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.endpoint.0.clone())
            .path_and_query(path)
            .build();
        *request.uri_mut() = uri.map_err(|error| CallError::NotTaken(error.to_string()))?;
        self.client.request(request).await.map_err(|error| {
            let text = explain(&error);
            if error.is_connect() { CallError::NotTaken(text) } else { CallError::Failed(text) }
        })
    }

    /// The Invoke API: calls a function with an event and gives its answer.
    async fn invoke(&self, name: &str, event: Bytes, limit: Duration) -> Result<Bytes, CallError> {
        let call = async {
            let mut request = Request::new(Body::from(event));
            *request.method_mut() = http::Method::POST;
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            let response =
                self.send(&format!("/2015-03-31/functions/{name}/invocations"), request).await?;
            let (head, body) = response.into_parts();
            let read = to_bytes(Body::new(body), MAX_ANSWER_BYTES).await;
            let answer = read.map_err(|error| CallError::Failed(explain(&error)))?;
            match head.status {
                StatusCode::OK if !head.headers.contains_key("x-amz-function-error") => Ok(answer),
                StatusCode::NOT_FOUND
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE => {
                    Err(CallError::NotTaken(shown(head.status, &answer)))
                }
                status => Err(CallError::Failed(shown(status, &answer))),
            }
        };
        tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Late(limit)))
    }
}

fn shown(status: StatusCode, answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN_BYTES)]).into_owned();
    format!("{}: {text}", status.as_u16())
}

fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// One function. Clones share what is known of it.
#[derive(Clone, Debug)]
pub struct Function {
    state: Arc<State>,
    stop: watch::Receiver<bool>,
}

#[derive(Debug)]
struct State {
    name: &'static str,
    probe: fn() -> Bytes,
    functions: Functions,
    /// It answered, and no call has failed to reach it since.
    is_ready: AtomicBool,
    /// However many wait for it, one asks.
    probing: Mutex<()>,
}

impl Function {
    /// Returns once the function answers: at once if its last call was answered, else after it has
    /// answered a probe, however long that takes. So who polls a queue for it takes nothing that
    /// nobody could work on, and an outage does not use up receives.
    pub async fn ready(&self) {
        let _probing = self.state.probing.lock().await;
        let (mut pause, mut said_at) = (MIN_PAUSE, None::<Instant>);
        while !self.state.is_ready.load(Ordering::SeqCst) {
            match self.state.probe().await {
                Ok(()) => self.state.is_ready.store(true, Ordering::SeqCst),
                Err(error) => {
                    if said_at.is_none_or(|at| at.elapsed() >= NOTICE_AGAIN) {
                        said_at = Some(Instant::now());
                        self.state.complain(&error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
        if said_at.is_some() {
            tracing::info!(function = self.state.name, "The function answers again");
        }
    }

    /// Calls it. A call that the endpoint did not take is made again once the function is ready,
    /// until `patience` is over or the stack ends.
    pub async fn call(
        &self,
        event: Bytes,
        limit: Duration,
        patience: Duration,
    ) -> Result<Bytes, CallError> {
        let give_up_at = Instant::now() + patience;
        loop {
            let error =
                match self.state.functions.invoke(self.state.name, event.clone(), limit).await {
                    Err(error @ (CallError::NotTaken(_) | CallError::Late(_))) => error,
                    answered => return answered,
                };
            self.state.is_ready.store(false, Ordering::SeqCst);
            if matches!(error, CallError::Late(_)) {
                return Err(error);
            }
            let mut stop = self.stop.clone();
            let again = async {
                tokio::time::sleep(MIN_PAUSE).await;
                self.ready().await;
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Err(error),
                ready = tokio::time::timeout_at(give_up_at,
                    again) => if ready.is_err() { return Err(error) },
            }
        }
    }
}

impl State {
    async fn probe(&self) -> Result<(), CallError> {
        let probe = self.functions.invoke(self.name, (self.probe)(), FIRST_ANSWER_LIMIT);
        tokio::pin!(probe);
        let mut notice = NOTICE_AFTER;
        loop {
            tokio::select! {
                answer = &mut probe => return answer.map(drop),
                () = tokio::time::sleep(notice) => {
                    tracing::info!(
                        function = self.name,
                        "The function has not answered yet: it is built at its first call; cargo \
                         lambda watch shows how far it is"
                    );
                    notice = NOTICE_AGAIN;
                }
            }
        }
    }

    fn complain(&self, error: &CallError) {
        tracing::warn!(
            function = self.name, endpoint = %self.functions.endpoint, %error,
            "The function cannot be called; what waits for it stays where it is until it can. Is \
             cargo lambda watch running?"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_bare_http_url() {
        for good in ["http://127.0.0.1:9000", "http://localhost:9000/", "http://[::1]:9000"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good.trim_end_matches('/'));
        }
        for bad in [
            "",
            "9000",
            "127.0.0.1:9000",
            "https://127.0.0.1:9000",
            "http://127.0.0.1/x",
            "http://a/?b",
            "http://u@h:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
