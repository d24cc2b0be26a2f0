//! Functions in other processes, behind an endpoint with Lambda's Invoke API and function URLs:
//! `cargo lambda watch`.
//!
//! The endpoint may be down, and a function may be built at its first invocation. Until a function
//! responds, no messages are received for it: see [`Function::wait_until_ready`].

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
use shared::error_chain::one_line;
use tokio::{sync::Mutex, sync::watch, time::Instant};

/// The connect timeout. The endpoint is on this machine or nearby.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum size of a response, as on Lambda.
const MAX_RESPONSE_BYTES: usize = 6 * 1024 * 1024;

/// The part of an error response that is logged.
const LOGGED_BYTES: usize = 300;

/// The waits between probes of an unreachable function. They double from the first to the second.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The timeout of a function's first response. The function may have to be compiled first.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(900);

/// When a wait for the first response is logged, and the interval at which it is logged again.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// The endpoint of the functions: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Authority);

/// The text is not an endpoint.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("must be http://HOST:PORT without a path, such as http://127.0.0.1:9000")]
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

/// Why an invocation returned no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The function was not invoked.
    #[error("the endpoint did not accept the invocation: {0}")]
    NotAccepted(String),
    /// The function failed. How far it got is unknown.
    #[error("the function failed: {0}")]
    Failed(String),
    /// The function did not respond in time and may still be running.
    #[error("the function did not respond within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// The endpoint's client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Functions {
    endpoint: Endpoint,
    client: Client<HttpConnector, Body>,
}

impl Functions {
    /// Creates the client, which connects at the first call. Must be called within a tokio runtime.
    pub fn new(endpoint: Endpoint) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Self { endpoint, client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// One function by its name. `probe` is an event that can be sent to it at any time.
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
        *request.uri_mut() = uri.map_err(|error| CallError::NotAccepted(error.to_string()))?;
        self.client.request(request).await.map_err(|error| {
            let text = one_line(&error);
            if error.is_connect() { CallError::NotAccepted(text) } else { CallError::Failed(text) }
        })
    }

    /// The Invoke API: invokes a function with an event and returns its response.
    async fn invoke(
        &self,
        name: &str,
        event: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let call = async {
            let mut request = Request::new(Body::from(event));
            *request.method_mut() = http::Method::POST;
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            let response =
                self.send(&format!("/2015-03-31/functions/{name}/invocations"), request).await?;
            let (head, body) = response.into_parts();
            let read = to_bytes(Body::new(body), MAX_RESPONSE_BYTES).await;
            let payload = read.map_err(|error| CallError::Failed(one_line(&error)))?;
            match head.status {
                StatusCode::OK if !head.headers.contains_key("x-amz-function-error") => Ok(payload),
                StatusCode::NOT_FOUND
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE => {
                    Err(CallError::NotAccepted(error_text(head.status, &payload)))
                }
                status => Err(CallError::Failed(error_text(status, &payload))),
            }
        };
        tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::TimedOut(timeout)))
    }
}

fn error_text(status: StatusCode, payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(LOGGED_BYTES)]).into_owned();
    format!("{}: {text}", status.as_u16())
}

/// One function. Clones share its state.
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
    /// It responded, and every call since has reached it.
    is_ready: AtomicBool,
    /// Held during a probe, so that all waiting callers share one.
    probing: Mutex<()>,
}

impl Function {
    /// Waits until the function responds. Returns at once if its last call was successful, and
    /// otherwise probes it without a time limit. A poller that waits for this receives no messages
    /// during an outage, so the outage spends no receives.
    pub async fn wait_until_ready(&self) {
        let _probing = self.state.probing.lock().await;
        let (mut backoff, mut logged_at) = (MIN_BACKOFF, None::<Instant>);
        while !self.state.is_ready.load(Ordering::SeqCst) {
            match self.state.probe().await {
                Ok(()) => self.state.is_ready.store(true, Ordering::SeqCst),
                Err(error) => {
                    if logged_at.is_none_or(|at| at.elapsed() >= NOTICE_INTERVAL) {
                        logged_at = Some(Instant::now());
                        self.state.log_unreachable(&error);
                    }
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
        if logged_at.is_some() {
            tracing::info!(function = self.state.name, "The function is reachable again");
        }
    }

    /// Invokes the function. An invocation that the endpoint did not accept is repeated once the
    /// function is ready, until `retry_timeout` is over or the stack stops.
    pub async fn call(
        &self,
        event: Bytes,
        timeout: Duration,
        retry_timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let give_up_at = Instant::now() + retry_timeout;
        loop {
            let error =
                match self.state.functions.invoke(self.state.name, event.clone(), timeout).await {
                    Err(error @ (CallError::NotAccepted(_) | CallError::TimedOut(_))) => error,
                    result => return result,
                };
            self.state.is_ready.store(false, Ordering::SeqCst);
            if matches!(error, CallError::TimedOut(_)) {
                return Err(error);
            }
            let mut stop = self.stop.clone();
            let ready_again = async {
                tokio::time::sleep(MIN_BACKOFF).await;
                self.wait_until_ready().await;
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Err(error),
                ready = tokio::time::timeout_at(give_up_at,
                    ready_again) => if ready.is_err() { return Err(error) },
            }
        }
    }
}

impl State {
    async fn probe(&self) -> Result<(), CallError> {
        let probe = self.functions.invoke(self.name, (self.probe)(), FIRST_RESPONSE_TIMEOUT);
        tokio::pin!(probe);
        let mut notice = NOTICE_AFTER;
        loop {
            tokio::select! {
                response = &mut probe => return response.map(drop),
                () = tokio::time::sleep(notice) => {
                    tracing::info!(
                        function = self.name,
                        "Waiting for the function's first response. cargo lambda watch builds \
                         the function at its first call and shows the progress"
                    );
                    notice = NOTICE_INTERVAL;
                }
            }
        }
    }

    fn log_unreachable(&self, error: &CallError) {
        tracing::warn!(
            function = self.name, endpoint = %self.functions.endpoint, %error,
            "Cannot reach the function. Its messages stay queued until it is available. Is cargo \
             lambda watch running?"
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
