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

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::{App, Named},
    idempotency::answer,
    problem::Problem,
    query::{self, Query},
    view::{WebhookView, to_json},
};

/// The parameter that asks for more than the usual members, and what it can ask for.
const INCLUDE: &str = "include";
const PAYLOAD: &str = "payload";

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/webhook-status/{webhook_id}", tag = "Webhooks", operation_id = "show_webhook",
    summary = "A webhook, with its attempts",
    params(parameters::WebhookId, parameters::Include),
    responses((status = 200, description = "The webhook.", body = WebhookView<'static>),
        errors::Missing),
))]
/// `?include=payload` adds the member `payload`, byte for byte as it was accepted; without it there
/// is no such member, so that who only asks how it goes gets a short answer. It costs no further
/// read.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Named(id): Named,
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
    Ok(answer(StatusCode::OK, to_json(&view)))
}

#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/webhook-status/{webhook_id}", tag = "Webhooks",
    operation_id = "delete_webhook",
    summary = "Delete a webhook, or cancel it",
    description = "Payload and dead letter go too. No attempt starts after the answer; one in \
        flight may still arrive.",
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
    match deleted {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => Err(Problem::no_such_webhook()),
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}
