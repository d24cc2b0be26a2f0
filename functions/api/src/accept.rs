//! Accepts one webhook, with or without an idempotency key.

use axum::response::Response;
use http::StatusCode;
use shared::model::Webhook;

use crate::{
    app::{App, Call},
    dispatch,
    idempotency::{self, Key, KeyState, MAX_RESERVE_TRIES, ReservedKey},
    input::submission::Submission,
    limits::{ENVELOPE_BYTES, MAX_BODY_BYTES},
    problem::Problem,
    respond,
};

/// The largest body of a request with one webhook.
pub(crate) fn max_body_bytes(app: &App) -> usize {
    (app.context.config.max_payload_bytes + ENVELOPE_BYTES).min(MAX_BODY_BYTES)
}

/// Accepts one webhook. `body` shapes the response from the parts of the record that never change,
/// so that every try of a request gets the same response.
pub(crate) async fn accept(
    app: &App,
    call: &Call,
    key: Option<&Key>,
    submission: &Submission,
    body: fn(&Webhook) -> String,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let webhook = dispatch::accept_new(app, call, submission).await?;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body(&webhook)));
    };
    for _ in 0..MAX_RESERVE_TRIES {
        let mut reserved = match idempotency::reserve(app, key).await? {
            KeyState::Answered(body) => {
                return Ok(idempotency::replay(StatusCode::ACCEPTED, body));
            }
            KeyState::Unanswered(reserved) => reserved,
        };
        let accepted = accept_reserved(app, call, submission, &mut reserved).await?;
        let Some(webhook) = accepted else { continue };
        let body = body(&webhook);
        reserved.finish(app, &body).await;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

/// Accepts a webhook with the ID of the key. `None` means that another request has changed the key,
/// so it must be read again.
async fn accept_reserved(
    app: &App,
    call: &Call,
    submission: &Submission,
    reserved: &mut ReservedKey,
) -> Result<Option<Webhook>, Problem> {
    if reserved.is_too_old(app) {
        let settled = dispatch::accept_settled(app, call, submission, reserved.task()).await?;
        if settled.is_some() || !reserved.renew(app, Vec::new()).await? {
            return Ok(settled);
        }
    }
    dispatch::accept(app, call, submission, reserved.task()).await
}
