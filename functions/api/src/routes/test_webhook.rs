//! `POST /test-webhook?webhook_url=U`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::value::RawValue;

use crate::{
    accept::{accept, max_body_bytes},
    app::{App, Call},
    idempotency::Key,
    input::{body::read_json, fields, query::Query, submission::Submission},
    openapi::{errors, parameters, schemas},
    problem::Problem,
    view,
};

/// The parameter with the URL.
const WEBHOOK_URL: &str = "webhook_url";

/// Send a test webhook
///
/// The payload is the whole body, which can be any JSON.
#[utoipa::path(
    post, path = "/test-webhook", tag = "Webhooks", operation_id = "send_test_webhook",
    params(
        parameters::WebhookUrl, parameters::IdempotencyKey, parameters::TraceParent,
        parameters::TraceState,
    ),
    request_body = schemas::Anything,
    responses(
        (status = 202, description = "The webhook is accepted and will be delivered.",
            body = view::TestAccepted<'static>),
        errors::Body,
    ),
)]
pub(crate) async fn test_webhook_create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query = Query::parse(parts.uri.query(), &[WEBHOOK_URL]);
    if query.get(WEBHOOK_URL).is_none() {
        query
            .field_errors
            .add(WEBHOOK_URL, "is required. Set it to the destination's URL, percent-encoded");
    }
    let url = query.get(WEBHOOK_URL).unwrap_or_default().to_owned();
    query.field_errors.check()?;
    let (body, _permit) =
        read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let payload: &RawValue = fields::parse(&body, "must be JSON")?;
    let submission = Submission::test(&app.context, WEBHOOK_URL, &url, payload)?;
    let key = Key::of(&parts, &call, &body)?;
    drop(body);
    accept(&app, &call, key.as_ref(), &submission, view::test_accepted).await
}
