//! `GET` and `DELETE /webhook-status/{webhook_id}`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use shared::planted::{self, Bug};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::{App, Named},
    idempotency::answer,
    problem::Problem,
    query,
    view::{WebhookView, to_json},
};

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/webhook-status/{webhook_id}", tag = "Webhooks", operation_id = "show_webhook",
    summary = "A webhook, with its attempts",
    params(parameters::WebhookId),
    responses((status = 200, description = "The webhook.", body = WebhookView<'static>), errors::Missing),
))]
pub(crate) async fn show(State(app): State<Arc<App>>, Named(id): Named, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let (webhook, content) = app.context.store.open(&id).await?.ok_or_else(Problem::no_such_webhook)?;
    Ok(answer(StatusCode::OK, to_json(&WebhookView::new(&webhook, &content.url, &app.context.rules))))
}

#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/webhook-status/{webhook_id}", tag = "Webhooks", operation_id = "delete_webhook",
    summary = "Delete a webhook, or cancel it",
    description = "Payload and dead letter go too. No attempt starts after the answer; one in flight may still arrive.",
    params(parameters::WebhookId),
    responses((status = 204, description = "It is gone."), errors::Missing),
))]
/// Whatever its status: one that is still on its way is cancelled by it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Named(id): Named,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    let deleted = app.context.store.delete(&id).await;
    if planted::is(Bug::DeleteUnfenced) {
        return Ok(StatusCode::NO_CONTENT);
    }
    if deleted? { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::no_such_webhook()) }
}
