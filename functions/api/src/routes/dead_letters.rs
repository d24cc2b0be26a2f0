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
    model::Webhook,
    store::{DeadLetterFilter, DeadLetterPosition, DeleteError, Listed},
};
use utoipa::ToSchema;

use crate::{
    app::App,
    deliveries::{self, Documents, Opened},
    input::{
        cursor,
        path::PathId,
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
    let documents = Documents::of(&app, found.items.iter().map(|listed| &listed.webhook)).await?;
    for Listed { webhook, url } in &found.items {
        let view = DeadLetterView::summary(webhook, documents.url(webhook, url));
        if pages.add(&view, position_of(webhook))? == Placed::Beyond {
            next = pages.last();
            break;
        }
    }
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    let list = DeadLetterList { items: pages.into_items(), page_size, next_cursor };
    Ok(respond::json(StatusCode::OK, &list))
}

/// The position of a dead letter in the list.
pub(crate) fn position_of(letter: &Webhook) -> DeadLetterPosition {
    // Every dead letter has `archived_at`. The other time only avoids a panic.
    let archived_at = letter.archived_at.unwrap_or(letter.updated_at);
    let WebhookId { task, endpoint, .. } = letter.id;
    DeadLetterPosition { archived_at, task, endpoint }
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
    let opened = dead_letter(&app, &id).await?;
    let view = DeadLetterView::full(&opened.webhook, opened.url(), &opened.payload);
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
    match deliveries::delete(&app, &id).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => Err(Problem::no_such_dead_letter()),
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}

async fn dead_letter(app: &App, id: &WebhookId) -> Result<Opened, Problem> {
    let found = deliveries::open(app, id).await?;
    let found = found.filter(|opened: &Opened| opened.webhook.is_dead_letter());
    found.ok_or_else(Problem::no_such_dead_letter)
}
