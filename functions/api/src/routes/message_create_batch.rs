//! `POST /applications/{application_id}/messages/batch`: up to 100 messages, each accepted or
//! refused on its own.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::Serialize;
use shared::applications::access::Action;
use utoipa::ToSchema;

use crate::{
    accept_batch::{Results, accept_batch, max_batch_bytes, read_items},
    app::{App, Call},
    edge::permission::InApplication,
    idempotency::Key,
    input::{body::read_json, fields, publication::Publication, query},
    message_view::PublishedView,
    openapi::{errors, parameters, schemas},
    problem::Problem,
    publish::{self, PlannedMessage},
    respond::to_json,
};

/// Publish up to 100 messages
///
/// Each item is accepted or refused on its own. The results are in the order of the items.
#[utoipa::path(
    post, path = "/applications/{application_id}/messages/batch", tag = "Messages",
    operation_id = "publish_batch",
    params(
        parameters::ApplicationId, parameters::IdempotencyKey, parameters::TraceParent,
        parameters::TraceState,
    ),
    request_body = schemas::NewMessages,
    responses(
        (status = 202, description = "One result for each item, in the order of the items.",
            body = PublishedResults<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn message_create_batch(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::PublishBatch as usize }>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let limit = max_batch_bytes(&app);
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, limit).await?;
    let fields = fields::parse(&body, "must be an object with the field messages")?;
    let items = read_items(&fields, "messages", "event_type and payload", |fields, prefix| {
        Publication::read(&app.context, fields, prefix)
    })?;
    let key = Key::within(application.id(), &parts, &body)?;
    // The publications have their own copies of the payloads.
    drop(body);
    let (key, planned) = publish::plan(&app, application.id(), key, items).await?;
    accept_batch(&app, &call, key.as_ref(), planned, results).await
}

#[derive(Serialize, ToSchema)]
struct PublishedResults<'a> {
    #[schema(min_items = 1, max_items = 100)]
    results: Vec<PublishedResult<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum PublishedResult<'a> {
    Accepted(PublishedView<'a>),
    Refused {
        #[schema(value_type = schemas::Problem)]
        error: &'a Problem,
    },
}

fn results(results: &Results<PlannedMessage>) -> String {
    let results = results.iter().map(|outcome| match outcome {
        Ok(published) => PublishedResult::Accepted(PublishedView::of(published)),
        Err(problem) => PublishedResult::Refused { error: problem },
    });
    to_json(&PublishedResults { results: results.collect() })
}
