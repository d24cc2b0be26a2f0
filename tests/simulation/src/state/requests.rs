//! The requests that the destinations of a world have received.

use std::collections::BTreeMap;

use shared::{clock::Timestamp, id::WebhookId, sender::Answer};

/// The requests.
#[derive(Debug, Default)]
pub(crate) struct Destinations {
    /// By webhook and attempt.
    pub(crate) requests: BTreeMap<(WebhookId, u32), DestinationRequest>,
    /// The latest second of a destination that takes a number of requests per second, and how many
    /// it has taken in it.
    pub(crate) taken: (u64, u64),
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct DestinationRequest {
    /// The status code of the response. `None`: no response.
    pub(crate) status: Option<u16>,
    /// What the worker received, if it was alive.
    pub(crate) reported: Option<Answer>,
    /// When the worker received it, or when the request arrived.
    pub(crate) reported_at: Timestamp,
}
