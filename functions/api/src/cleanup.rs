//! Deleting many: `DELETE /webhook-statuses` and `POST /webhook-cleanup`.
//!
//! A call reads at most [`MAX_READ`] entries. `more` says that there are further ones, and
//! `next_cursor` goes on behind those that this call looked at, which saves looking again at what
//! the filter does not want.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    id::TaskId,
    model::Webhook,
    store::{DeleteError, Filter, MAX_READ},
};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::{App, Call},
    cursor, dispatch,
    idempotency::{self, Key, Started, answer},
    problem::Problem,
    query::{Query, check_filter},
    view::to_json,
};

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Deleted))]
struct Report {
    deleted: usize,
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    next_cursor: Option<String>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/webhook-statuses", tag = "Operating", operation_id = "delete_webhooks",
    summary = "Delete webhooks, or cancel them",
    description = "At least one filter must be given. A call looks at no more than 1000 webhooks; \
        `more` says that there are further ones, and `next_cursor` goes on behind.",
    params(parameters::Reference, parameters::Status, parameters::Cursor),
    responses((status = 200, description = "How many were deleted.", body = Report),
        errors::Unclear),
))]
/// Whatever their status: those still on their way are cancelled.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["reference_id", "status", "cursor"]);
    let filter = query.filter(app.now());
    let after = read_cursor(query)?;
    check_filter(&filter, "reference_id or status")?;
    delete_matching(&app, &filter, after, false).await.map(|body| answer(StatusCode::OK, body))
}

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/webhook-cleanup", tag = "Operating", operation_id = "clean_up_webhooks",
    summary = "Delete old webhooks",
    description = "Only finished ones, unless `status` names another. At least one filter must be \
        given.",
    params(parameters::Status, parameters::OlderThan, parameters::Reference, parameters::Cursor,
        parameters::IdempotencyKey),
    responses((status = 200, description = "How many were deleted.", body = Report), errors::Keyed),
))]
/// Only what is finished, unless `status` names another.
pub(crate) async fn clean_up(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query =
        Query::parse(parts.uri.query(), &["status", "older_than_days", "reference_id", "cursor"]);
    let filter = query.filter(app.now());
    let after = read_cursor(query)?;
    check_filter(&filter, "status, older_than_days or reference_id")?;
    let key = Key::of(&parts, &call, &[])?;
    let finished_only = filter.status.is_none();
    let slot = match idempotency::start(&app, key, StatusCode::OK).await? {
        Started::Done(response) => return Ok(response),
        Started::Todo(slot) => slot,
    };
    let body = delete_matching(&app, &filter, after, finished_only).await?;
    Ok(idempotency::end(&app, slot, StatusCode::OK, body).await)
}

fn read_cursor(query: Query<'_>) -> Result<Option<TaskId>, Problem> {
    let cursor = query.get("cursor").map(str::to_owned);
    query.field_errors.check()?;
    cursor.map(|cursor| cursor::decode(&cursor).map(|(after, _)| after)).transpose()
}

async fn delete_matching(
    app: &App,
    filter: &Filter,
    after: Option<TaskId>,
    finished_only: bool,
) -> Result<String, Problem> {
    let _room = app.room.records(MAX_READ).await?;
    let found = app.context.store.list(filter, after, MAX_READ).await?;
    let wanted = found.items.into_iter().map(|listed| listed.webhook);
    let wanted: Vec<Webhook> =
        wanted.filter(|webhook| !finished_only || webhook.status.is_finished()).collect();
    // What has changed since it was listed, such as a dead letter that somebody has just redriven,
    // may not match any more: it stays.
    let deletions = wanted.iter().map(|webhook| app.context.store.delete_unchanged(webhook));
    let mut deleted = 0;
    for outcome in dispatch::all(deletions.collect()).await {
        match outcome {
            Ok(()) => deleted += 1,
            Err(DeleteError::Missing | DeleteError::Changed) => {}
            Err(DeleteError::Store(error)) => return Err(error.into()),
        }
    }
    let next_cursor = found.next.map(|next| cursor::encode(next, 1));
    Ok(to_json(&Report { deleted, more: next_cursor.is_some(), next_cursor }))
}
