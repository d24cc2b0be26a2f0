//! What every handler works with, and what the boundary found out about the call.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use shared::{
    clock::Timestamp,
    context::Context,
    id::{TaskId, WebhookId},
    trace::Trace,
};

use crate::{
    auth::{Access, Caller},
    health::LastFindings,
    problem::{Kind, Problem},
    room::{Room, Share},
};

/// Shared by all requests.
#[derive(Debug)]
pub(crate) struct App {
    /// Backends, clock, settings.
    pub(crate) context: Context,
    /// Who may call.
    pub(crate) access: Access,
    /// When this process began to serve.
    pub(crate) started_at: Timestamp,
    /// Room for requests.
    pub(crate) room: Room,
    /// What `GET /health` found out last.
    pub(crate) health: LastFindings,
}

impl App {
    pub(crate) fn new(context: Context, access: Access) -> Arc<Self> {
        let started_at = context.clock.now();
        let room = Room::new(&context.config, &access);
        Arc::new(Self { context, access, started_at, room, health: LastFindings::default() })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.context.clock.now()
    }

    /// An id for a webhook that is created now.
    pub(crate) fn mint(&self) -> TaskId {
        let mut random = [0; 10];
        self.context.random.fill(&mut random);
        TaskId::mint(self.now(), random)
    }
}

/// What is known of a call once it was let in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its correlation id.
    pub(crate) correlation_id: Arc<str>,
    /// By whom it is.
    pub(crate) caller: Caller,
    /// Which key's share of the room it takes from.
    pub(crate) share: Share,
    /// What it is part of, if it is part of something.
    pub(crate) trace: Option<Trace>,
}

impl Call {
    /// What the boundary left with the request.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::new(Kind::Internal, "Something went wrong."))
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

/// The webhook that the path names. What cannot be an id is not found.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) WebhookId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state)
            .await
            .map(|Path(text)| text)
            .unwrap_or_default();
        text.parse()
            .map(Self)
            .map_err(|invalid| Problem::new(Kind::NotFound, format!("webhook_id {invalid}")))
    }
}
