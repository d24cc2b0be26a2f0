//! The requests that the destinations of a world have received.

use std::collections::BTreeMap;

use shared::{clock::Timestamp, id::WebhookId, sender::Answer};

/// What destinations remember.
#[derive(Debug, Default)]
pub(crate) struct Destinations {
    /// By webhook and attempt.
    pub(crate) requests: BTreeMap<(WebhookId, u32), Seen>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// What it was answered with; `None`: nothing.
    pub(crate) status: Option<u16>,
    /// What the worker was told, if it lived to hear it.
    pub(crate) told: Option<Answer>,
    /// When.
    pub(crate) told_at: Timestamp,
}
