//! The HTTP server: hyper, as in axum's own server, with limits on connections.
//!
//! - [`serve`] keeps at most [`Limits::connections`] open. A further connection replaces the one
//!   that has waited longest for its caller (see `connections`). It waits only while every other
//!   connection has a request in progress.
//! - The headers of a connection's first request must arrive within [`Limits::first_request`], and
//!   those of each later one within [`Limits::next_request`]. The latter also limits an idle
//!   connection. The API limits the time of a body and returns 408.
//! - Request line and headers have at most `MAX_HEAD_BYTES`. A longer head is a 431. This is also
//!   hyper's buffer for a connection.
//! - A caller that closes its sending side after a request still gets the response (RFC 9112,
//!   section 9.6).
//!
//! To stop, the server accepts no more connections, closes idle ones, and returns when the
//! responses in progress are sent.

mod connections;

use std::{convert::Infallible, io, pin::Pin, time::Duration};

use axum::{Router, body::Body, response::Response};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use connections::{ConnectionGuard, ConnectionHandle, Connections};

/// The maximum size of request line and headers. The longest URL that a caller needs (`POST
/// /test-webhook`) has 6 KiB when percent-encoded.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The maximum number of connections to the API. The limit of open files may reduce it.
const MAX_CONNECTIONS: usize = 4096;

/// The maximum number of connections to the metrics: a few scrapers.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// The wait after the system had no file or memory for a connection.
const ERROR_BACKOFF: Duration = Duration::from_secs(1);

/// The same if a connection was closed to make room.
const EVICTION_BACKOFF: Duration = Duration::from_millis(20);

/// The limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// The timeout of the headers of a connection's first request.
    pub first_request: Duration,
    /// The timeout of the headers of each later request.
    pub next_request: Duration,
}

impl Default for Limits {
    /// 4,096 connections, or half of the limit of open files if that is less; 5 s; 30 s.
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        let connections = MAX_CONNECTIONS.min(files / 2).max(1);
        Self {
            connections,
            first_request: Duration::from_secs(5),
            next_request: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The limits of the metrics' port.
    pub fn for_metrics() -> Self {
        let limits = Self::default();
        Self { connections: limits.connections.min(MAX_METRICS_CONNECTIONS), ..limits }
    }
}

/// Serves until `stop` is true and the last response is sent.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Connections::new(limits.connections);
    let graceful = GracefulShutdown::new();
    let http = builder(&limits);
    let stopped = async move {
        // An error means that the sender is gone, which also stops the server.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                back_off(&error, &connections).await;
                continue;
            }
        };
        tokio::select! {
            () = &mut stopped => break,
            guard = connections.admit() => spawn(&http, stream, guard, router.clone(), &graceful,
                limits.first_request),
        }
    }
    drop(listener);
    connections.close_new();
    graceful.shutdown().await;
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.next_request);
    http.max_buf_size(MAX_HEAD_BYTES).half_close(true);
    http
}

/// Serves this connection in a task.
fn spawn(
    http: &http1::Builder,
    stream: TcpStream,
    guard: ConnectionGuard,
    router: Router,
    graceful: &GracefulShutdown,
    first_request: Duration,
) {
    // Responses are small and written at once, so Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let service =
        TrackedRouter { router: TowerToHyperService::new(router), handle: guard.handle() };
    let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        let first_is_late = async {
            tokio::time::sleep(first_request).await;
            if guard.has_sent_a_request() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = connection => {
                // The caller caused the error, and was told or is gone.
                if let Err(error) = ended {
                    tracing::debug!(%error, "A connection ended");
                }
            }
            () = guard.closed() => tracing::debug!("A connection was closed to make room"),
            () = first_is_late => tracing::debug!("A silent connection was closed"),
        }
    });
}

/// The router of one connection. It tracks the connection's phase.
#[derive(Debug)]
struct TrackedRouter {
    router: TowerToHyperService<Router>,
    handle: ConnectionHandle,
}

impl Service<Request<Incoming>> for TrackedRouter {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let handle = self.handle.clone();
        let response = self.router.call(request.map(|body| handle.track_request(body)));
        Box::pin(
            async move { Ok(response.await?.map(|body| Body::new(handle.track_response(body)))) },
        )
    }
}

/// Waits after a failed accept, unless the caller gave up the connection. If the process has no
/// file left, the connection that has waited longest is closed.
async fn back_off(error: &io::Error, connections: &Connections) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "Could not accept a connection. Retrying");
    tokio::time::sleep(if connections.close_longest_waiting() {
        EVICTION_BACKOFF
    } else {
        ERROR_BACKOFF
    })
    .await;
}

#[cfg(test)]
mod tests;
