//! `POST /webhooks`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};

use crate::{
    accept::{accept, max_body_bytes},
    app::{App, Call},
    idempotency::Key,
    input::{
        body::read_json,
        fields::{self, Fields},
        query,
        submission::Submission,
    },
    openapi::{errors, parameters, schemas},
    problem::Problem,
    view,
};

/// Create a webhook
///
/// After the 202, Posthaste delivers the webhook, or it becomes a dead letter, or it is deleted.
/// After a 503, it is unknown whether the webhook was accepted. Send the request again with the
/// same `Idempotency-Key`.
#[utoipa::path(
    post, path = "/webhooks", tag = "Webhooks", operation_id = "accept_webhook",
    params(parameters::IdempotencyKey, parameters::TraceParent, parameters::TraceState),
    request_body = schemas::NewWebhook,
    responses(
        (status = 202, description = "The webhook is accepted and will be delivered.",
            body = view::Accepted<'static>),
        errors::Body,
    ),
)]
pub(crate) async fn webhook_create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) =
        read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let fields: Fields<'_> = fields::parse(&body, "must be an object with url and payload")?;
    let submission = Submission::read(&app.context, &fields, "")?;
    let key = Key::of(&parts, &call, &body)?;
    // The submission has its own copy of the payload.
    drop(body);
    accept(&app, &call, key.as_ref(), &submission, view::accepted).await
}
