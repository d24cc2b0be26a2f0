//! The HTTP server: hyper's, as axum's own uses it, with limits on what a caller may hold.
//!
//! - [`serve`] has at most [`Limits::connections`] open. A further connection takes the place of
//!   the one that has waited longest for its caller (see `seats`); it waits only while every other
//!   connection has a request in work.
//! - The first request of a connection must have come, headers and all, within
//!   [`Limits::first_request`]; each later one within [`Limits::next_request`], which is also how
//!   long an idle connection is kept. How long a body may take is the API's: it answers 408.
//! - Request line and headers have at most `MAX_HEAD_BYTES`; more is a 431. It is also what hyper
//!   buffers for a connection.
//! - A caller that closes its sending side after a request still gets its answer (RFC 9112, section
//!   9.6).
//!
//! When it is told to stop it takes no more connections, closes those that are idle, and returns
//! when the answers under way are sent.

mod seats;

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

use seats::{Handle, Seat, Seats};

/// Request line and headers of a request. The longest URL that a caller can need (`POST
/// /test-webhook`) is 6 KiB percent-encoded.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The connections of the API's port, unless the process may have fewer files open.
const MAX_CONNECTIONS: usize = 4096;

/// The connections of the metrics' port: a few scrapers.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// The wait after the system had no file or memory for a connection.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// The same if a connection could be closed to make room.
const SHORT_TROUBLE_WAIT: Duration = Duration::from_millis(20);

/// What callers may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// How long the headers of a connection's first request may take.
    pub first_request: Duration,
    /// How long the headers of each further request may take.
    pub next_request: Duration,
}

impl Default for Limits {
    /// 4,096 connections, or half as many as the process may have files open; 5 s; 30 s.
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
    /// For the port of the metrics.
    pub fn for_metrics() -> Self {
        let limits = Self::default();
        Self { connections: limits.connections.min(MAX_METRICS_CONNECTIONS), ..limits }
    }
}

/// Serves until `stop` says so, and then until the last answer is sent.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let seats = Seats::new(limits.connections);
    let connections = GracefulShutdown::new();
    let http = builder(&limits);
    let stopped = async move {
        // An error means that the sender is gone, which is a stop too.
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
                pause(&error, &seats).await;
                continue;
            }
        };
        tokio::select! {
            () = &mut stopped => break,
            seat = seats.take() => answer(&http, stream, seat, router.clone(), &connections,
                limits.first_request),
        }
    }
    drop(listener);
    seats.close_new();
    connections.shutdown().await;
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.next_request);
    http.max_buf_size(MAX_HEAD_BYTES).half_close(true);
    http
}

/// Answers what comes over this connection, in a task of its own.
fn answer(
    http: &http1::Builder,
    stream: TcpStream,
    seat: Seat,
    router: Router,
    connections: &GracefulShutdown,
    first_request: Duration,
) {
    // Answers are small and written whole: waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let service = Seated { router: TowerToHyperService::new(router), handle: seat.handle() };
    let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        let first_is_late = async {
            tokio::time::sleep(first_request).await;
            if seat.has_sent_a_request() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = connection => {
                // It fails by what its caller does, who is told, or is gone.
                if let Err(error) = ended {
                    tracing::debug!(%error, "A connection ended");
                }
            }
            () = seat.is_closed() => tracing::debug!("A connection made room for a new one"),
            () = first_is_late => tracing::debug!("A connection sent no request"),
        }
    });
}

/// The router behind one connection, whose seat knows what the connection is at.
#[derive(Debug)]
struct Seated {
    router: TowerToHyperService<Router>,
    handle: Handle,
}

impl Service<Request<Incoming>> for Seated {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let handle = self.handle.clone();
        let answered = self.router.call(request.map(|body| handle.receive(body)));
        Box::pin(async move { Ok(answered.await?.map(|body| Body::new(handle.send(body)))) })
    }
}

/// A connection that its caller gave up before it was taken is no trouble of ours. If there is no
/// file for another one, the connection that has waited longest makes room.
async fn pause(error: &io::Error, seats: &Seats) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "Cannot accept connections now; trying again");
    tokio::time::sleep(if seats.close_longest_waiting() {
        SHORT_TROUBLE_WAIT
    } else {
        TROUBLE_WAIT
    })
    .await;
}

#[cfg(test)]
mod tests;
