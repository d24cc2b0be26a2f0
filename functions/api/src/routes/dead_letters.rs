//! `/dead-letters`: failed webhooks that are archived. A dead letter *is* the webhook's record.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    id::WebhookId,
    model::{Content, Webhook},
    store::{DeadLetterFilter, DeadLetterPosition, DeleteError, Listed},
};
use utoipa::ToSchema;

use crate::{
    app::{App, PathId},
    input::{
        cursor,
        query::{self, Query},
    },
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    openapi::{errors, parameters},
    paging::{Pages, Placed},
    problem::Problem,
    respond,
    view::DeadLetterView,
};

#[derive(Serialize, ToSchema)]
struct DeadLetterList {
    #[schema(max_items = 100, value_type = Vec<DeadLetterView<'static>>)]
    items: Vec<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 100)]
    page_size: usize,
    /// The cursor of the next page, or null if this page is the last one.
    next_cursor: Option<String>,
}

/// List dead letters
///
/// The latest dead letters come first, without payload and attempts. A page ends before `page_size`
/// items if more of them would make it larger than 2.5 MiB.
#[utoipa::path(
    get, path = "/dead-letters", tag = "Dead letters", operation_id = "list_dead_letters",
    params(parameters::Reference, parameters::PageSize, parameters::Cursor),
    responses((status = 200, description = "A page.", body = DeadLetterList), errors::Unclear),
)]
pub(crate) async fn dead_letter_list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["reference_id", "cursor", "page_size"]);
    let reference = query.reference();
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (after, page) = cursor::read(query)?;
    let _permit = app.capacity.records(page_size).await?;
    let filter = DeadLetterFilter::reference(reference.as_ref());
    let found = app.context.store.dead_letters(&filter, after, page_size).await?;
    let (mut pages, mut next) = (Pages::new(page_size, 0), found.next);
    for Listed { webhook, url } in &found.items {
        // Every dead letter has `archived_at`. The other time only avoids a panic.
        let archived_at = webhook.archived_at.unwrap_or(webhook.updated_at);
        let position = DeadLetterPosition {
            archived_at,
            task: webhook.id.task,
            endpoint: webhook.id.endpoint,
        };
        if pages.add(&DeadLetterView::summary(webhook, url), position)? == Placed::Beyond {
            next = pages.last();
            break;
        }
    }
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    let list = DeadLetterList { items: pages.into_items(), page_size, next_cursor };
    Ok(respond::json(StatusCode::OK, &list))
}

/// Get a dead letter
///
/// The response contains payload and attempts.
#[utoipa::path(
    get, path = "/dead-letters/{webhook_id}", tag = "Dead letters",
    operation_id = "show_dead_letter",
    params(parameters::WebhookId),
    responses(
        (status = 200, description = "The dead letter.", body = DeadLetterView<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn dead_letter_get(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let (webhook, content) = dead_letter(&app, &id).await?;
    let view = DeadLetterView::full(&webhook, &content.url, &content.payload);
    Ok(respond::json(StatusCode::OK, &view))
}

/// Delete a dead letter
///
/// This deletes its webhook too.
#[utoipa::path(
    delete, path = "/dead-letters/{webhook_id}", tag = "Dead letters",
    operation_id = "delete_dead_letter",
    params(parameters::WebhookId),
    responses((status = 204, description = "The dead letter is deleted."), errors::Missing),
)]
pub(crate) async fn dead_letter_delete(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    dead_letter(&app, &id).await?;
    match app.context.store.delete(&id).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => Err(Problem::no_such_dead_letter()),
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}

async fn dead_letter(app: &App, id: &WebhookId) -> Result<(Webhook, Content), Problem> {
    let found = app.context.store.open(id).await?;
    found.filter(|(webhook, _)| webhook.is_dead_letter()).ok_or_else(Problem::no_such_dead_letter)
}
