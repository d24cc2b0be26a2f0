//! `GET` and `DELETE /webhook-status/{webhook_id}`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use shared::{
    planted::{self, Bug},
    store::DeleteError,
};

use crate::{
    app::{App, PathId},
    input::query::{self, Query},
    openapi::{errors, parameters},
    problem::Problem,
    respond,
    view::WebhookView,
};

/// The parameter that requests the payload, and its value.
const INCLUDE: &str = "include";
const PAYLOAD: &str = "payload";

/// Get a webhook
///
/// The response contains all recorded attempts. With `include=payload`, it contains the payload
/// too.
#[utoipa::path(
    get, path = "/webhook-status/{webhook_id}", tag = "Webhooks", operation_id = "show_webhook",
    params(parameters::WebhookId, parameters::Include),
    responses(
        (status = 200, description = "The webhook.", body = WebhookView<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn webhook_get(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &[INCLUDE]);
    let with_payload = match query.get(INCLUDE) {
        None => false,
        Some(PAYLOAD) => true,
        Some(_) => {
            query.field_errors.add(INCLUDE, "must be payload");
            false
        }
    };
    query.field_errors.check()?;
    let (webhook, content) =
        app.context.store.open(&id).await?.ok_or_else(Problem::no_such_webhook)?;
    let view = WebhookView::new(&webhook, &content.url, &app.context.rules);
    let view = if with_payload { view.with_payload(&content.payload) } else { view };
    Ok(respond::json(StatusCode::OK, &view))
}

/// Delete or cancel a webhook
///
/// This deletes the webhook with its payload and its dead letter, whatever its status. No attempt
/// starts after the response. An attempt in flight may still reach the destination.
#[utoipa::path(
    delete, path = "/webhook-status/{webhook_id}", tag = "Webhooks",
    operation_id = "delete_webhook",
    params(parameters::WebhookId),
    responses((status = 204, description = "The webhook is deleted."), errors::Missing),
)]
pub(crate) async fn webhook_delete(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    let deleted = app.context.store.delete(&id).await;
    if planted::is(Bug::DeleteUnfenced) {
        return Ok(StatusCode::NO_CONTENT);
    }
    match deleted {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => Err(Problem::no_such_webhook()),
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}
