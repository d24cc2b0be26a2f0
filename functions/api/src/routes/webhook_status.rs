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
    app::App,
    deliveries,
    input::{
        path::PathId,
        query::{self, Query},
    },
    openapi::{errors, parameters},
    problem::Problem,
    respond,
    view::WebhookView,
};

/// Get a webhook
///
/// Shows a direct webhook, or a delivery of a message. The response contains all recorded attempts.
/// With `include=payload`, it contains the payload too.
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
    let mut query = Query::parse(query.as_deref(), &[query::INCLUDE]);
    let with_payload = query.include_payload();
    query.field_errors.check()?;
    let Some(opened) = deliveries::open(&app, &id).await? else {
        return Err(deliveries::missing(&app, &id).await);
    };
    let rules = opened.rules(&app);
    let view = WebhookView::new(&opened.webhook, opened.url(), &rules);
    let view = if with_payload { view.with_payload(&opened.payload) } else { view };
    Ok(respond::json(StatusCode::OK, &view))
}

/// Delete or cancel a webhook
///
/// This deletes the webhook with its payload and its dead letter, whatever its status. No attempt
/// starts after the response. An attempt in flight may still reach the destination. The payload of
/// a delivery belongs to its message and stays.
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
    let deleted = deliveries::delete(&app, &id).await;
    if planted::is(Bug::DeleteUnfenced) {
        return Ok(StatusCode::NO_CONTENT);
    }
    match deleted {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => {
            Err(deliveries::missing(&app, &id).await)
        }
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}
