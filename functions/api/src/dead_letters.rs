//! `/dead-letters`: failed webhooks once they are archived. A dead letter *is* the webhook's
//! record.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    apply::Applied,
    id::{ReferenceId, WebhookId},
    model::{Content, Transition, Webhook},
    store::{DeadLetterPosition, DeleteError, Listed, MAX_READ},
};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::{App, Call, Named},
    cursor, dispatch,
    idempotency::{self, Key, Started, answer},
    listing::{Pages, Placed},
    problem::{Kind, Problem},
    query::{self, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Query},
    resend,
    view::{DeadLetterView, to_json},
};

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = DeadLetterList))]
struct Listing {
    #[cfg_attr(feature = "openapi", schema(max_items = 100,
        value_type = Vec<DeadLetterView<'static>>))]
    items: Vec<Box<RawValue>>,
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    page_size: usize,
    next_cursor: Option<String>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/dead-letters", tag = "Dead letters", operation_id = "list_dead_letters",
    summary = "Dead letters, latest first, without payload and attempts",
    description = "A page ends before `page_size` where it would have more than 2.5 MiB.",
    params(parameters::Reference, parameters::PageSize, parameters::Cursor),
    responses((status = 200, description = "One page.", body = Listing), errors::Unclear),
))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &["reference_id", "cursor", "page_size"]);
    let reference = query.reference();
    let page_size = query.number("page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE);
    let (after, page) = read_cursor(query)?;
    let _room = app.room.records(page_size).await?;
    let found = app.context.store.dead_letters(reference.as_ref(), after, page_size).await?;
    let (mut pages, mut next) = (Pages::new(page_size, 0), found.next);
    for Listed { webhook, url } in &found.items {
        // An archived one has the time; without it there would be no position to go on from.
        let archived_at = webhook.archived_at.unwrap_or(webhook.updated_at);
        let position = DeadLetterPosition { archived_at, task: webhook.id.task };
        if pages.add(&DeadLetterView::listed(webhook, url), position)? == Placed::Beyond {
            next = pages.last();
            break;
        }
    }
    let next_cursor = next.map(|next| cursor::encode(next, page.saturating_add(1)));
    let listing = Listing { items: pages.into_items(), page_size, next_cursor };
    Ok(answer(StatusCode::OK, to_json(&listing)))
}

#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/dead-letters/{webhook_id}", tag = "Dead letters",
    operation_id = "show_dead_letter",
    summary = "A dead letter, whole",
    params(parameters::WebhookId),
    responses((status = 200, description = "The dead letter.", body = DeadLetterView<'static>),
        errors::Missing),
))]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Named(id): Named,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let (webhook, content) = dead_letter(&app, &id).await?;
    Ok(answer(
        StatusCode::OK,
        to_json(&DeadLetterView::whole(&webhook, &content.url, &content.payload)),
    ))
}

#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/dead-letters/{webhook_id}", tag = "Dead letters",
    operation_id = "delete_dead_letter",
    summary = "Delete a dead letter, and the webhook with it",
    params(parameters::WebhookId),
    responses((status = 204, description = "It is gone."), errors::Missing),
))]
/// The webhook goes with it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Named(id): Named,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    dead_letter(&app, &id).await?;
    match app.context.store.delete(&id).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(DeleteError::Missing | DeleteError::Changed) => Err(no_such_dead_letter()),
        Err(DeleteError::Store(error)) => Err(error.into()),
    }
}

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/dead-letters/{webhook_id}/redrive", tag = "Dead letters",
    operation_id = "redrive_dead_letter",
    summary = "Send a dead letter again",
    description = "Back to `pending`, with a fresh budget of attempts.",
    params(parameters::WebhookId, parameters::IdempotencyKey),
    responses((status = 202, description = "On its way again.",
        body = crate::view::Accepted<'static>), errors::Keyed, errors::Missing),
))]
pub(crate) async fn redrive(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> Result<Response, Problem> {
    resend::again(&app, &id, request, Transition::Redrive).await
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Redriven))]
struct RedriveReport {
    redriven: usize,
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    next_cursor: Option<String>,
}

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/dead-letters/redrive", tag = "Dead letters",
    operation_id = "redrive_dead_letters",
    summary = "Send dead letters again: all, or those of a reference id",
    description = "A call looks at no more than 1000; `more` says that there are further ones, and \
        `next_cursor` goes on behind.",
    params(parameters::Reference, parameters::Cursor, parameters::IdempotencyKey),
    responses((status = 202, description = "How many are on their way again.",
        body = RedriveReport), errors::Keyed),
))]
/// All dead letters, or those of a reference id; at most [`MAX_READ`] in one call.
pub(crate) async fn redrive_many(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query = Query::parse(parts.uri.query(), &["reference_id", "cursor"]);
    let reference = query.reference();
    let (after, _) = read_cursor(query)?;
    let key = Key::of(&parts, &call, &[])?;
    let slot = match idempotency::start(&app, key, StatusCode::ACCEPTED).await? {
        Started::Done(response) => return Ok(response),
        Started::Todo(slot) => slot,
    };
    let body = redrive_matching(&app, reference.as_ref(), after).await?;
    Ok(idempotency::end(&app, slot, StatusCode::ACCEPTED, body).await)
}

async fn redrive_matching(
    app: &App,
    reference: Option<&ReferenceId>,
    after: Option<DeadLetterPosition>,
) -> Result<String, Problem> {
    let _room = app.room.records(MAX_READ).await?;
    let found = app.context.store.dead_letters(reference, after, MAX_READ).await?;
    // What has no URL is a message that could not be read.
    let wanted = found.items.into_iter().filter(|listed| !listed.url.is_empty());
    let calls =
        wanted.map(|Listed { webhook, .. }| resend::start_again(app, webhook, Transition::Redrive));
    let outcomes = dispatch::all(calls.collect()).await;
    let mut redriven: Vec<Webhook> = Vec::with_capacity(outcomes.len());
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(Applied::Done(webhook, ())) => redriven.push(webhook),
            // Somebody else redrove or deleted it in the meantime.
            Ok(Applied::Refused(..) | Applied::Missing) => {}
            Err(error) => failure = Some(error),
        }
    }
    // Those that are on their way again get their messages even if others failed.
    dispatch::send(app, &redriven.iter().collect::<Vec<_>>()).await;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let next_cursor = found.next.map(|next| cursor::encode(next, 1));
    Ok(to_json(&RedriveReport {
        redriven: redriven.len(),
        more: next_cursor.is_some(),
        next_cursor,
    }))
}

async fn dead_letter(app: &App, id: &WebhookId) -> Result<(Webhook, Content), Problem> {
    let found = app.context.store.open(id).await?;
    found.filter(|(webhook, _)| webhook.is_dead_letter()).ok_or_else(no_such_dead_letter)
}

fn no_such_dead_letter() -> Problem {
    Problem::new(
        Kind::NotFound,
        "There is no dead letter with this id; a webhook becomes one moments after it has failed.",
    )
}

fn read_cursor(query: Query<'_>) -> Result<(Option<DeadLetterPosition>, usize), Problem> {
    let cursor = query.get("cursor").map(str::to_owned);
    query.field_errors.check()?;
    match cursor {
        Some(cursor) => cursor::decode(&cursor).map(|(after, page)| (Some(after), page)),
        None => Ok((None, 1)),
    }
}
