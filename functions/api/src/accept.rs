//! `POST /webhooks`: one create, one send.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use shared::model::Webhook;

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters, schemas};
use crate::{
    app::{App, Call},
    body::{ENVELOPE_BYTES, MAX_BODY_BYTES, read_json},
    dispatch,
    fields::{self, Fields},
    idempotency::{self, Begun, Key, MAX_ROUNDS, answer, replayed},
    problem::Problem,
    query,
    submission::Submission,
    view,
};

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/webhooks", tag = "Webhooks", operation_id = "accept_webhook",
    summary = "Accept a webhook",
    description = "From the 202 on it is delivered, or ends as a dead letter, or is deleted. A 503 \
        leaves open whether it was accepted: send it again with the same Idempotency-Key.",
    params(parameters::IdempotencyKey, parameters::TraceParent, parameters::TraceState),
    request_body = schemas::NewWebhook,
    responses((status = 202, description = "Accepted, to be delivered.",
        body = view::Accepted<'static>), errors::Body),
))]
pub(crate) async fn accept(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _room) = read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let fields: Fields<'_> = fields::parse(&body, "must be an object with url and payload")?;
    let submission = Submission::read(&app.context, &fields, "")?;
    let key = Key::of(&parts, &call, &body)?;
    // The payload was copied from it.
    drop(body);
    accept_one(&app, &call, key.as_ref(), &submission, view::accepted).await
}

/// The largest body of a request with one webhook.
pub(crate) fn max_body_bytes(app: &App) -> usize {
    (app.context.config.max_payload_bytes + ENVELOPE_BYTES).min(MAX_BODY_BYTES)
}

/// Accepts one webhook, under a key or without; `shape` makes the answer, from what does not change
/// after the creation.
pub(crate) async fn accept_one(
    app: &App,
    call: &Call,
    key: Option<&Key>,
    submission: &Submission,
    shape: fn(&Webhook) -> String,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let webhook = dispatch::create_new(app, call, submission).await?;
        hand_over(app, &webhook).await;
        return Ok(answer(StatusCode::ACCEPTED, shape(&webhook)));
    };
    for _ in 0..MAX_ROUNDS {
        let mut slot = match idempotency::begin(app, key).await? {
            Begun::Done(body) => return Ok(replayed(StatusCode::ACCEPTED, body)),
            Begun::Todo(slot) => slot,
        };
        let mut found = None;
        if slot.is_stale(app) {
            found = dispatch::settled(app, call, submission, slot.task()).await?;
            if found.is_none() && !slot.renew(app, Vec::new()).await? {
                continue;
            }
        }
        if found.is_none() {
            found = dispatch::create(app, call, submission, slot.task()).await?;
        }
        // Barred: another try has found the id too old meanwhile.
        let Some(webhook) = found else { continue };
        hand_over(app, &webhook).await;
        let body = shape(&webhook);
        slot.finish(app, &body).await;
        return Ok(answer(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

async fn hand_over(app: &App, webhook: &Webhook) {
    if dispatch::needs_message(webhook) {
        dispatch::send(app, &[webhook]).await;
    }
    log_accepted(webhook);
}

/// At debug level: at thousands a second, lines would cost more than the work.
pub(crate) fn log_accepted(webhook: &Webhook) {
    let (correlation_id, webhook_id) = (&*webhook.correlation_id, &webhook.id);
    tracing::debug!(correlation_id, %webhook_id,
        "[{correlation_id}] Accepted webhook {webhook_id}");
}
