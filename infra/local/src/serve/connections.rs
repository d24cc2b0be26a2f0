//! A limited number of connections. At the limit, a new connection replaces one that waits for its
//! caller.
//!
//! The connection with the longest wait is closed first, in this order:
//!
//! 1. connections that have not sent a request,
//! 2. connections that are idle after a response,
//! 3. connections whose request body has taken longer than [`BODY_GRACE`].
//!
//! A caller that opens many silent connections therefore displaces silent connections, and none
//! with a request in progress.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::{sync::Notify, time::timeout};

/// A body that takes longer may be cut off for a new connection.
const BODY_GRACE: Duration = Duration::from_secs(5);

/// The interval at which a waiting connection checks for bodies that exceed their grace period.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has sent no request.
    New,
    /// The response to its last request is sent.
    Idle,
    /// Its request body is being received.
    Receiving,
    /// Its request is being processed, or the response is being sent.
    Responding,
}

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// A connection ended, or one became idle and can be replaced.
    changed: Notify,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    /// The phase and its start.
    phase: Mutex<(Phase, Instant)>,
    closed: Notify,
}

/// Keeps a connection counted until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    handle: ConnectionHandle,
}

/// Updates the phase of a connection.
#[derive(Clone, Debug)]
pub(super) struct ConnectionHandle {
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            next_id: AtomicU64::new(0),
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Admits a connection. At the limit it closes the connection that has waited longest for its
    /// caller, or waits if there is none.
    pub(super) async fn admit(self: &Arc<Self>) -> ConnectionGuard {
        loop {
            if let Some(guard) = self.try_admit() {
                return guard;
            }
            // Checks again after a notification or the interval.
            let _ = timeout(CHECK_INTERVAL, self.changed.notified()).await;
        }
    }

    fn try_admit(self: &Arc<Self>) -> Option<ConnectionGuard> {
        let mut open = locked(&self.open);
        if open.len() >= self.limit && !close_longest_waiting(&mut open) {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            phase: Mutex::new((Phase::New, Instant::now())),
            closed: Notify::new(),
        });
        open.insert(id, Arc::clone(&connection));
        let handle = ConnectionHandle { connection, connections: Arc::clone(self) };
        Some(ConnectionGuard { handle })
    }

    /// Closes the connection that has waited longest for its caller. Returns whether there was one.
    pub(super) fn close_longest_waiting(&self) -> bool {
        close_longest_waiting(&mut locked(&self.open))
    }

    /// Closes every connection that has sent no request.
    pub(super) fn close_new(&self) {
        locked(&self.open)
            .values()
            .filter(|connection| connection.phase() == Phase::New)
            .for_each(|new| new.closed.notify_one());
    }
}

fn close_longest_waiting(open: &mut HashMap<u64, Arc<Connection>>) -> bool {
    let now = Instant::now();
    let waiting = open.values().filter_map(|connection| Some((connection.rank(now)?, connection)));
    let Some((_, longest)) = waiting.min_by_key(|(rank, _)| *rank) else { return false };
    longest.closed.notify_one();
    // It no longer counts. Its file is closed moments later.
    let id = longest.id;
    open.remove(&id);
    true
}

impl Connection {
    fn phase(&self) -> Phase {
        locked(&self.phase).0
    }

    /// The connection with the lowest rank is closed first. `None`: it must not be closed.
    fn rank(&self, now: Instant) -> Option<(u8, Instant)> {
        let (phase, since) = *locked(&self.phase);
        match phase {
            Phase::New => Some((0, since)),
            Phase::Idle => Some((1, since)),
            Phase::Receiving if now.saturating_duration_since(since) > BODY_GRACE => {
                Some((2, since))
            }
            Phase::Receiving | Phase::Responding => None,
        }
    }
}

impl ConnectionHandle {
    fn enter(&self, phase: Phase) {
        *locked(&self.connection.phase) = (phase, Instant::now());
        if phase == Phase::Idle {
            self.connections.changed.notify_one();
        }
    }

    /// The body is received, or is not needed.
    fn received(&self) {
        let mut phase = locked(&self.connection.phase);
        // A body that is not read may be dropped after the response is sent.
        if phase.0 == Phase::Receiving {
            *phase = (Phase::Responding, Instant::now());
        }
    }

    /// Tracks the body of a new request.
    pub(super) fn track_request(&self, body: Incoming) -> Body {
        if body.is_end_stream() {
            self.enter(Phase::Responding);
            return Body::empty();
        }
        self.enter(Phase::Receiving);
        Body::new(RequestBody { body, handle: self.clone() })
    }

    /// Tracks the body of the response. The connection is idle once it is sent.
    pub(super) fn track_response(self, body: Body) -> ResponseBody {
        ResponseBody { body, handle: self }
    }
}

impl ConnectionGuard {
    pub(super) fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    pub(super) fn has_sent_a_request(&self) -> bool {
        self.handle.connection.phase() != Phase::New
    }

    /// Returns when the connection must be closed.
    pub(super) async fn closed(&self) {
        self.handle.connection.closed.notified().await;
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let ConnectionHandle { connection, connections } = &self.handle;
        locked(&connections.open).remove(&connection.id);
        connections.changed.notify_one();
    }
}

/// A tracked request body.
struct RequestBody {
    body: Incoming,
    handle: ConnectionHandle,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready()
            && !matches!(&polled, Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream())
        {
            self.handle.received();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.handle.received();
    }
}

/// A tracked response body.
pub(super) struct ResponseBody {
    body: Body,
    handle: ConnectionHandle,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.handle.enter(Phase::Idle);
    }
}

/// No code panics while it holds one of these locks, so a poisoned value is still consistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
