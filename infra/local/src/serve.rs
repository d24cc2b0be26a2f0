//! The HTTP server: hyper's, as axum's own uses it, with limits on what a caller may hold without sending a request.
//!
//! [`serve`] has at most [`Limits::connections`] open; further ones wait in the system's backlog until one of those ends. A connection whose
//! next request has not come, headers and all, within [`Limits::headers`] is closed, whether nothing was sent or a byte now and then; this
//! is also how long an idle connection is kept. (How long a request's body may take is the API's: it answers 408.) When it is told to stop it
//! takes no more connections, closes those that are idle, and returns when the answers under way are sent.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

/// The wait after the system had no file or memory for a connection.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// What callers may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// How long the headers of a connection's next request may take.
    pub headers: Duration,
}

impl Default for Limits {
    /// 4,096 connections and 30 s.
    fn default() -> Self {
        Self { connections: 4096, headers: Duration::from_secs(30) }
    }
}

/// Serves until `stop` says so, and then until the last answer is sent.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.headers);
    let stopped = async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        let accepted = async {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        tokio::select! {
            () = &mut stopped => break,
            accepted = accepted => match accepted {
                Ok((stream, place)) => answer(&http, stream, place, router.clone(), &connections),
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Answers what comes over this connection, in a task of its own.
fn answer(
    http: &http1::Builder,
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    router: Router,
    connections: &GracefulShutdown,
) {
    // Answers are small and written whole: waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // It fails by what its caller does, who is told, or is gone.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "A connection ended");
        }
        drop(place);
    });
}

/// A connection that its caller gave up before it was taken is no trouble of ours.
async fn pause(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "No connection can be taken now");
    tokio::time::sleep(TROUBLE_WAIT).await;
}

#[cfg(test)]
mod tests;
