//! `POST /test-webhook?webhook_url=U`: any JSON, to see a delivery work.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::value::RawValue;

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters, schemas};
use crate::{
    accept::{accept_one, max_body_bytes},
    app::{App, Call},
    body::read_json,
    fields,
    idempotency::Key,
    problem::Problem,
    query::Query,
    submission::Submission,
    view,
};

/// The parameter with the URL.
const WEBHOOK_URL: &str = "webhook_url";

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/test-webhook", tag = "Webhooks", operation_id = "send_test_webhook",
    summary = "Send any JSON somewhere, to see a delivery work",
    params(parameters::WebhookUrl, parameters::IdempotencyKey, parameters::TraceParent,
        parameters::TraceState),
    request_body = schemas::Anything,
    responses((status = 202, description = "Accepted, to be delivered.",
        body = view::TestAccepted<'static>), errors::Body),
))]
pub(crate) async fn accept(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query = Query::parse(parts.uri.query(), &[WEBHOOK_URL]);
    if query.get(WEBHOOK_URL).is_none() {
        query
            .field_errors
            .add(WEBHOOK_URL, "is missing; it is where the webhook goes, percent-encoded");
    }
    let url = query.get(WEBHOOK_URL).unwrap_or_default().to_owned();
    query.field_errors.check()?;
    let (body, _room) = read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let payload: &RawValue = fields::parse(&body, "must be JSON")?;
    let submission = Submission::test(&app.context, WEBHOOK_URL, &url, payload)?;
    let key = Key::of(&parts, &call, &body)?;
    drop(body);
    accept_one(&app, &call, key.as_ref(), &submission, view::test_accepted).await
}
