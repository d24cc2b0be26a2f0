//! `DELETE /webhook-statuses` and `POST /webhook-cleanup`: delete many webhooks.
//!
//! One call reads at most [`MAX_READ`] entries. If there are more, `more` is true and `next_cursor`
//! continues after the entries of this call. Without the cursor, the next call would read the
//! entries again that the filter does not match.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    model::Webhook,
    store::{DeleteError, Filter, ListPosition, MAX_READ},
};
use utoipa::ToSchema;

use crate::{
    app::{App, Call},
    dispatch,
    idempotency::{self, Key},
    input::{
        cursor,
        query::{Query, check_filter},
    },
    openapi::{errors, parameters},
    problem::Problem,
    respond::{self, to_json},
};

#[derive(Serialize, ToSchema)]
#[schema(as = Deleted)]
struct CleanupResult {
    /// How many webhooks this call has deleted.
    deleted: usize,
    /// Whether there are webhooks that this call has not read.
    more: bool,
    /// The cursor of the next call, if there are more webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Delete or cancel webhooks
///
/// At least one filter is required. Webhooks of every status are deleted, and unfinished ones are
/// cancelled. One call reads at most 1000 webhooks. If there are more, `more` is true and
/// `next_cursor` continues after them.
#[utoipa::path(
    delete, path = "/webhook-statuses", tag = "Operating", operation_id = "delete_webhooks",
    params(parameters::Reference, parameters::Status, parameters::Cursor),
    responses(
        (status = 200, description = "The number of deleted webhooks.", body = CleanupResult),
        errors::Unclear,
    ),
)]
pub(crate) async fn webhook_delete_many(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["reference_id", "status", "cursor"]);
    let filter = query.filter(app.now());
    let (after, _) = cursor::read(query)?;
    check_filter(&filter, "reference_id or status")?;
    let deleted = delete_matching(&app, &filter, after, false).await?;
    Ok(respond::json(StatusCode::OK, &deleted))
}

/// Delete old webhooks
///
/// Deletes finished webhooks only, unless `status` names another status. At least one filter is
/// required. One call reads at most 1000 webhooks.
#[utoipa::path(
    post, path = "/webhook-cleanup", tag = "Operating", operation_id = "clean_up_webhooks",
    params(
        parameters::Status, parameters::OlderThan, parameters::Reference, parameters::Cursor,
        parameters::IdempotencyKey,
    ),
    responses(
        (status = 200, description = "The number of deleted webhooks.", body = CleanupResult),
        errors::Keyed,
    ),
)]
pub(crate) async fn webhook_cleanup(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query =
        Query::parse(parts.uri.query(), &["status", "older_than_days", "reference_id", "cursor"]);
    let filter = query.filter(app.now());
    let (after, _) = cursor::read(query)?;
    check_filter(&filter, "status, older_than_days or reference_id")?;
    let key = Key::of(&parts, &call, &[])?;
    let finished_only = filter.status.is_none();
    idempotency::once(&app, key, StatusCode::OK, async |_| {
        let deleted = delete_matching(&app, &filter, after, finished_only).await?;
        Ok(to_json(&deleted))
    })
    .await
}

async fn delete_matching(
    app: &App,
    filter: &Filter,
    after: Option<ListPosition>,
    finished_only: bool,
) -> Result<CleanupResult, Problem> {
    let _permit = app.capacity.records(MAX_READ).await?;
    let found = app.context.store.list(filter, after, MAX_READ).await?;
    let listed = found.items.into_iter().map(|listed| listed.webhook);
    let matching: Vec<Webhook> =
        listed.filter(|webhook| !finished_only || webhook.status.is_finished()).collect();
    // A webhook that has changed since, such as a redriven dead letter, may not match any more. It
    // is kept.
    let deletions = matching.iter().map(|webhook| app.context.store.delete_unchanged(webhook));
    let mut deleted = 0;
    for outcome in dispatch::concurrently(deletions.collect()).await {
        match outcome {
            Ok(()) => deleted += 1,
            Err(DeleteError::Missing | DeleteError::Changed) => {}
            Err(DeleteError::Store(error)) => return Err(error.into()),
        }
    }
    let next_cursor = found.next.map(|next| cursor::encode(next, 1));
    Ok(CleanupResult { deleted, more: next_cursor.is_some(), next_cursor })
}
