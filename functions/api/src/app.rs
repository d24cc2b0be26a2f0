//! The state that all requests share, and what is known about one request.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use shared::{
    clock::Timestamp,
    context::Context,
    id::{TaskId, TaskIdGenerator},
    trace::Trace,
};

use crate::{
    capacity::{Capacity, KeyShare},
    edge::auth::{Access, Caller},
    probe::ProbeCache,
    problem::Problem,
    test_limiter::TestLimiter,
};

/// The state that all requests share.
#[derive(Debug)]
pub(crate) struct App {
    /// Backends, clock, settings.
    pub(crate) context: Context,
    /// Which callers are admitted.
    pub(crate) access: Access,
    /// When this process started.
    pub(crate) started_at: Timestamp,
    /// Mints the task IDs.
    ids: TaskIdGenerator,
    /// The limits on concurrent work.
    pub(crate) capacity: Capacity,
    /// The latest findings about store, queue and sweep, for `GET /health`.
    pub(crate) probes: ProbeCache,
    /// The limit of test messages.
    pub(crate) test_limiter: TestLimiter,
}

impl App {
    pub(crate) fn new(context: Context, access: Access) -> Arc<Self> {
        let started_at = context.clock.now();
        let capacity = Capacity::new(&context.config, &access);
        let (ids, probes, test_limiter) = Default::default();
        Arc::new(Self { context, access, started_at, ids, capacity, probes, test_limiter })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.context.clock.now()
    }

    /// A new task ID. Its time is the current time, or up to 1 s later. It is greater than all
    /// earlier IDs of this process, unless the clock was set back by more than that.
    pub(crate) fn mint(&self) -> TaskId {
        self.ids.next(self.now(), self.random())
    }

    /// The task IDs of a batch without an idempotency key, in the order of its items. With a key,
    /// the IDs derive from the key's ID, and within its millisecond they have no order.
    pub(crate) fn mint_batch(&self, count: usize) -> Vec<TaskId> {
        self.ids.next_batch(self.now(), self.random(), count)
    }

    fn random(&self) -> [u8; 10] {
        let mut random = [0; 10];
        self.context.random.fill(&mut random);
        random
    }
}

/// An admitted request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its correlation ID.
    pub(crate) correlation_id: Arc<str>,
    /// Its caller.
    pub(crate) caller: Caller,
    /// The share of the capacity that it uses.
    pub(crate) share: KeyShare,
    /// The trace that it belongs to.
    pub(crate) trace: Option<Trace>,
}

impl Call {
    /// The call that the boundary attached to the request.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}
