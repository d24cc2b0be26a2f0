//! `POST /webhooks/batch`: up to 100 webhooks, each accepted or refused on its own.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    accept_batch::{Items, Results, accept_batch, max_batch_bytes, read_items},
    app::{App, Call},
    idempotency::Key,
    input::{body::read_json, fields, query, submission::Submission},
    openapi::{errors, parameters, schemas},
    problem::Problem,
    respond::to_json,
    view::Accepted,
};

/// Create up to 100 webhooks
///
/// Each item is accepted or refused on its own. The results are in the order of the items.
#[utoipa::path(
    post, path = "/webhooks/batch", tag = "Webhooks", operation_id = "accept_batch",
    params(parameters::IdempotencyKey, parameters::TraceParent, parameters::TraceState),
    request_body = schemas::NewBatch,
    responses(
        (status = 202, description = "One result for each item, in the order of the items.",
            body = BatchResults<'static>),
        errors::Body,
    ),
)]
pub(crate) async fn webhook_create_batch(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let limit = max_batch_bytes(&app);
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, limit).await?;
    let fields = fields::parse(&body, "must be an object with the field webhooks")?;
    let items: Items<Submission> =
        read_items(&fields, "webhooks", "url and payload", |fields, prefix| {
            Submission::read(&app.context, fields, prefix)
        })?;
    let key = Key::of(&parts, &call, &body)?;
    // The submissions have their own copies of the payloads.
    drop(body);
    accept_batch(&app, &call, key.as_ref(), items, results).await
}

#[derive(Serialize, ToSchema)]
struct BatchResults<'a> {
    #[schema(min_items = 1, max_items = 100)]
    results: Vec<BatchResult<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult<'a> {
    Accepted(Accepted<'a>),
    Refused {
        #[schema(value_type = schemas::Problem)]
        error: &'a Problem,
    },
}

fn results(results: &Results<Submission>) -> String {
    let results = results.iter().map(|outcome| match outcome {
        Ok(webhook) => BatchResult::Accepted(Accepted::of(webhook)),
        Err(problem) => BatchResult::Refused { error: problem },
    });
    to_json(&BatchResults { results: results.collect() })
}
