//! The IDs in the paths of routes. A malformed ID is a 404, as an unknown one is.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use shared::id::{InvalidId, MessageId, WebhookId};

use crate::problem::{Problem, ProblemKind};

/// The ID of a webhook, direct or a delivery.
#[derive(Debug)]
pub(crate) struct PathId(pub(crate) WebhookId);

/// The ID of a message.
#[derive(Debug)]
pub(crate) struct MessagePath(pub(crate) MessageId);

/// The ID of a delivery.
#[derive(Debug)]
pub(crate) struct DeliveryPath(pub(crate) WebhookId);

/// The text of a parameter of the path.
async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> String {
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok();
    let named = parameters.as_ref().and_then(|all| all.iter().find(|(known, _)| *known == name));
    named.map(|(_, text)| text.to_owned()).unwrap_or_default()
}

fn malformed(name: &str, invalid: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("{name} {invalid}."))
}

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = "webhook_id";
        let id = parameter(parts, state, name).await.parse();
        id.map(Self).map_err(|invalid: InvalidId| malformed(name, invalid))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MessagePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = "message_id";
        let id = parameter(parts, state, name).await.parse();
        id.map(Self).map_err(|invalid: InvalidId| malformed(name, invalid))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeliveryPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = "delivery_id";
        let id = parameter(parts, state, name).await.parse::<WebhookId>();
        match id {
            Ok(id) if id.is_delivery() => Ok(Self(id)),
            _ => Err(malformed(name, "must be {message_id}.{endpoint_id}, as the API returned it")),
        }
    }
}
