//! `POST /dead-letters/{webhook_id}/redrive` and `POST /dead-letters/redrive`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    apply::Applied,
    id::ReferenceId,
    model::{Transition, Webhook},
    store::{DeadLetterFilter, DeadLetterPosition, Listed, MAX_READ},
};
use utoipa::ToSchema;

use crate::{
    app::{App, Call},
    deliveries::Documents,
    dispatch,
    idempotency::{self, Key},
    input::{cursor, path::PathId, query::Query},
    openapi::{errors, parameters},
    problem::Problem,
    respond::to_json,
    routes::webhook_resend,
    view,
};

/// Redrive a dead letter
///
/// Sends the webhook again: it is `pending`, with a new budget of attempts.
#[utoipa::path(
    post, path = "/dead-letters/{webhook_id}/redrive", tag = "Dead letters",
    operation_id = "redrive_dead_letter",
    params(parameters::WebhookId, parameters::IdempotencyKey),
    responses(
        (status = 202, description = "The webhook is pending again.",
            body = view::Accepted<'static>),
        errors::Keyed, errors::Missing,
    ),
)]
pub(crate) async fn dead_letter_redrive(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, Problem> {
    webhook_resend::send_again(&app, &id, request, Transition::Redrive).await
}

#[derive(Serialize, ToSchema)]
#[schema(as = Redriven)]
struct RedriveResult {
    /// How many webhooks this call has made pending again.
    redriven: usize,
    /// Whether there are dead letters that this call has not read.
    more: bool,
    /// The cursor of the next call, if there are more dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Redrive many dead letters
///
/// Redrives all dead letters, or those of direct webhooks with a reference ID. Deliveries whose
/// endpoint was deleted or is disabled are skipped. One call reads at most 1000 dead letters. If
/// there are more, `more` is true and `next_cursor` continues after them.
#[utoipa::path(
    post, path = "/dead-letters/redrive", tag = "Dead letters",
    operation_id = "redrive_dead_letters",
    params(parameters::Reference, parameters::Cursor, parameters::IdempotencyKey),
    responses(
        (status = 202, description = "The number of webhooks that are pending again.",
            body = RedriveResult),
        errors::Keyed,
    ),
)]
pub(crate) async fn dead_letter_redrive_many(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    let mut query = Query::parse(parts.uri.query(), &["reference_id", "cursor"]);
    let reference = query.reference();
    let (after, _) = cursor::read(query)?;
    let key = Key::of(&parts, &call, &[])?;
    idempotency::once(&app, key, StatusCode::ACCEPTED, async |_| {
        let redriven = redrive_matching(&app, reference.as_ref(), after).await?;
        Ok(to_json(&redriven))
    })
    .await
}

async fn redrive_matching(
    app: &App,
    reference: Option<&ReferenceId>,
    after: Option<DeadLetterPosition>,
) -> Result<RedriveResult, Problem> {
    let _permit = app.capacity.records(MAX_READ).await?;
    let filter = DeadLetterFilter::reference(reference);
    let found = app.context.store.dead_letters(&filter, after, MAX_READ).await?;
    // A direct webhook without a URL is an unreadable queue message.
    let is_readable = |letter: &Listed| letter.webhook.id.is_delivery() || !letter.url.is_empty();
    let letters = found.items.into_iter().filter(is_readable);
    let letters: Vec<Webhook> = letters.map(|Listed { webhook, .. }| webhook).collect();
    let documents = Documents::of(app, letters.iter()).await?;
    // A dead letter whose endpoint receives nothing stays one: a redrive would only fail again.
    let sendable = letters.into_iter().filter(|letter| documents.is_receiving(letter));
    let calls =
        sendable.map(|letter| webhook_resend::make_pending(app, letter, Transition::Redrive));
    let outcomes = dispatch::concurrently(calls.collect()).await;
    let mut redriven: Vec<Webhook> = Vec::with_capacity(outcomes.len());
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(Applied::Done(webhook, ())) => redriven.push(webhook),
            // Another request has redriven or deleted it in the meantime.
            Ok(Applied::Refused(..) | Applied::Missing) => {}
            Err(error) => failure = Some(error),
        }
    }
    // The webhooks that are pending again get their messages even if other writes failed.
    dispatch::enqueue(app, &redriven.iter().collect::<Vec<_>>()).await;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let next_cursor = found.next.map(|next| cursor::encode(next, 1));
    Ok(RedriveResult { redriven: redriven.len(), more: next_cursor.is_some(), next_cursor })
}
