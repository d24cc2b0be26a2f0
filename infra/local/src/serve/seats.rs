//! The places of a limited number of connections, and which connection is closed when a new one
//! finds none free.
//!
//! A connection is closed for another one only while it waits for its caller, in this order, the
//! longest wait first:
//!
//! 1. those that have not sent a request,
//! 2. those that are idle after an answer,
//! 3. those whose request body has been on its way for longer than [`BODY_GRACE`].
//!
//! So whoever opens many connections and says nothing displaces connections of that kind, and none
//! on which a request is in work.

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

/// A body that has been on its way for longer may be cut off for a new connection.
const BODY_GRACE: Duration = Duration::from_secs(5);

/// How often it is looked again whether a body has outlived its grace, while a connection waits for
/// a place.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not sent a request.
    New,
    /// Its last request is answered.
    Idle,
    /// The body of its request is on its way.
    Receiving,
    /// Its request is in work, or the answer is being written.
    Answering,
}

/// All connections of a server.
#[derive(Debug)]
pub(super) struct Seats {
    limit: usize,
    next_id: AtomicU64,
    taken: Mutex<HashMap<u64, Arc<Connection>>>,
    /// A place became free, or may be taken from a connection that waits now.
    changed: Notify,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    /// And since when.
    phase: Mutex<(Phase, Instant)>,
    closed: Notify,
}

/// A connection's place, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Seat {
    handle: Handle,
}

/// Tells the seats what a connection is at.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    connection: Arc<Connection>,
    seats: Arc<Seats>,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            next_id: AtomicU64::new(0),
            taken: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place. If all are taken, the connection that has waited longest for its caller loses its
    /// own; if none waits, this does.
    pub(super) async fn take(self: &Arc<Self>) -> Seat {
        loop {
            if let Some(seat) = self.try_take() {
                return seat;
            }
            // Whether it was woken or not, it looks again.
            let _ = timeout(LOOK_INTERVAL, self.changed.notified()).await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = locked(&self.taken);
        if taken.len() >= self.limit && !close_longest_waiting(&mut taken) {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            phase: Mutex::new((Phase::New, Instant::now())),
            closed: Notify::new(),
        });
        taken.insert(id, Arc::clone(&connection));
        Some(Seat { handle: Handle { connection, seats: Arc::clone(self) } })
    }

    /// Closes the connection that has waited longest for its caller. Whether there was one.
    pub(super) fn close_longest_waiting(&self) -> bool {
        close_longest_waiting(&mut locked(&self.taken))
    }

    /// Closes every connection that has not sent a request.
    pub(super) fn close_new(&self) {
        locked(&self.taken)
            .values()
            .filter(|connection| connection.phase() == Phase::New)
            .for_each(|new| new.closed.notify_one());
    }
}

fn close_longest_waiting(taken: &mut HashMap<u64, Arc<Connection>>) -> bool {
    let now = Instant::now();
    let waiting = taken.values().filter_map(|connection| Some((connection.rank(now)?, connection)));
    let Some((_, longest)) = waiting.min_by_key(|(rank, _)| *rank) else { return false };
    longest.closed.notify_one();
    // Its place is free from now on; its files are moments later.
    let id = longest.id;
    taken.remove(&id);
    true
}

impl Connection {
    fn phase(&self) -> Phase {
        locked(&self.phase).0
    }

    /// Which one is closed first: the lowest. `None`: it is not to be closed.
    fn rank(&self, now: Instant) -> Option<(u8, Instant)> {
        let (phase, since) = *locked(&self.phase);
        match phase {
            Phase::New => Some((0, since)),
            Phase::Idle => Some((1, since)),
            Phase::Receiving if now.saturating_duration_since(since) > BODY_GRACE => {
                Some((2, since))
            }
            Phase::Receiving | Phase::Answering => None,
        }
    }
}

impl Handle {
    fn enter(&self, phase: Phase) {
        *locked(&self.connection.phase) = (phase, Instant::now());
        if phase == Phase::Idle {
            self.seats.changed.notify_one();
        }
    }

    /// The body has come, or is not wanted.
    fn received(&self) {
        let mut phase = locked(&self.connection.phase);
        // A body that nobody reads may be dropped when the answer is sent already.
        if phase.0 == Phase::Receiving {
            *phase = (Phase::Answering, Instant::now());
        }
    }

    /// The body of a request that begins now.
    pub(super) fn receive(&self, body: Incoming) -> Body {
        if body.is_end_stream() {
            self.enter(Phase::Answering);
            return Body::empty();
        }
        self.enter(Phase::Receiving);
        Body::new(Received { body, handle: self.clone() })
    }

    /// The body of its answer; the connection is idle when it is sent.
    pub(super) fn send(self, body: Body) -> Sent {
        Sent { body, handle: self }
    }
}

impl Seat {
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(super) fn has_sent_a_request(&self) -> bool {
        self.handle.connection.phase() != Phase::New
    }

    /// Returns when the connection is to be closed.
    pub(super) async fn is_closed(&self) {
        self.handle.connection.closed.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Handle { connection, seats } = &self.handle;
        locked(&seats.taken).remove(&connection.id);
        seats.changed.notify_one();
    }
}

/// A request's body.
struct Received {
    body: Incoming,
    handle: Handle,
}

impl HttpBody for Received {
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

impl Drop for Received {
    fn drop(&mut self) {
        self.handle.received();
    }
}

/// An answer's body.
pub(super) struct Sent {
    body: Body,
    handle: Handle,
}

impl HttpBody for Sent {
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

impl Drop for Sent {
    fn drop(&mut self) {
        self.handle.enter(Phase::Idle);
    }
}

/// Nothing panics while it holds one of these locks, and each value is whole at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
