//! `POST /webhooks/{webhook_id}/resend`, and its common part with a redrive: a finished webhook
//! becomes pending again.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use shared::{
    apply::{Applied, apply},
    clock::Timestamp,
    id::WebhookId,
    model::{Transition, Webhook},
    status::Status,
    store::StoreError,
    transition::Refusal,
};

use crate::{
    app::{App, Call},
    deliveries::{self, EndpointState, Opened},
    dispatch,
    idempotency::{self, Key},
    input::{path::PathId, query},
    openapi::{errors, parameters},
    problem::{Problem, ProblemKind},
    view,
};

/// Resend a webhook
///
/// Sends a delivered or failed webhook again, with a new budget of attempts. An unfinished webhook
/// is a 409, and so is a delivery whose endpoint was deleted or is disabled.
#[utoipa::path(
    post, path = "/webhooks/{webhook_id}/resend", tag = "Operating",
    operation_id = "resend_webhook",
    params(parameters::WebhookId, parameters::IdempotencyKey),
    responses(
        (status = 202, description = "The webhook is pending again.",
            body = view::Accepted<'static>),
        errors::Keyed, errors::Missing,
    ),
)]
pub(crate) async fn webhook_resend(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, Problem> {
    send_again(&app, &id, request, Transition::Resend).await
}

/// Runs a resend or a redrive of one webhook.
pub(crate) async fn send_again(
    app: &App,
    id: &WebhookId,
    request: Request,
    transition: Transition,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let key = Key::of(&parts, &call, &[])?;
    idempotency::once(app, key, StatusCode::ACCEPTED, async |tried_at| {
        let webhook = resend_unless_done(app, id, transition, tried_at).await?;
        Ok(view::accepted(&webhook))
    })
    .await
}

/// Makes the webhook pending and sends its message. An earlier try of the request, which began at
/// `tried_at`, may have made it pending, and its response was lost.
pub(crate) async fn resend_unless_done(
    app: &App,
    id: &WebhookId,
    transition: Transition,
    tried_at: Option<Timestamp>,
) -> Result<Webhook, Problem> {
    let opened = match deliveries::open(app, id).await? {
        Some(opened) => opened,
        None if id.is_delivery() => return Err(no_such(id)),
        None => return Err(deliveries::missing(app, id).await),
    };
    if opened.is_unreadable() {
        return Err(no_url());
    }
    let is_tried = |tried_at| is_done(&opened.webhook, transition, tried_at);
    let webhook = if tried_at.is_some_and(is_tried) {
        opened.webhook
    } else {
        check_delivery(&opened)?;
        let webhook = opened.webhook;
        match make_pending(app, webhook, transition).await? {
            Applied::Done(webhook, ()) => webhook,
            Applied::Refused(refusal, webhook) => {
                return Err(refused(refusal, &webhook, transition));
            }
            Applied::Missing => return Err(no_such(id)),
        }
    };
    if webhook.status == Status::Pending {
        dispatch::enqueue(app, &[&webhook]).await;
    }
    Ok(webhook)
}

/// Writes the transition. The webhook is in the due index until its message is sent.
pub(crate) async fn make_pending(
    app: &App,
    webhook: Webhook,
    transition: Transition,
) -> Result<Applied, StoreError> {
    let (rules, now) = (&app.context.rules, app.now());
    apply(&*app.context.store, webhook, |seen| match transition {
        Transition::Redrive => rules.redrive(seen, now),
        _ => rules.resend(seen, now),
    })
    .await
}

/// Refuses a delivery of a message that is being deleted, and one to an endpoint that receives
/// nothing: the next look would only fail it.
fn check_delivery(opened: &Opened) -> Result<(), Problem> {
    if opened.is_deleting {
        return Err(Problem::being_deleted());
    }
    match opened.endpoint.as_ref().and_then(EndpointState::obstacle) {
        None => Ok(()),
        Some(obstacle) => Err(Problem::new(
            ProblemKind::Conflict,
            format!("The endpoint {obstacle}, so nothing can be sent to it."),
        )),
    }
}

/// Whether the webhook was sent again since then.
pub(crate) fn is_done(webhook: &Webhook, transition: Transition, since: Timestamp) -> bool {
    webhook.history.iter().any(|step| step.transition == transition && step.at >= since)
}

/// The dead letter of an unreadable queue message has no webhook and no URL.
fn no_url() -> Problem {
    Problem::new(
        ProblemKind::Conflict,
        "This dead letter is an unreadable queue message without a URL, so it cannot be sent. \
         Delete it instead.",
    )
}

fn no_such(id: &WebhookId) -> Problem {
    if id.is_delivery() { Problem::no_such_delivery() } else { Problem::no_such_webhook() }
}

fn refused(refusal: Refusal, webhook: &Webhook, transition: Transition) -> Problem {
    let conflict = |detail: String| Problem::new(ProblemKind::Conflict, detail);
    let noun = if webhook.id.is_delivery() { "delivery" } else { "webhook" };
    match refusal {
        Refusal::Expired => no_such(&webhook.id),
        _ if !webhook.status.is_finished() => conflict(format!(
            "The {noun} is {}. Wait until it is delivered or failed, then send it again.",
            webhook.status
        )),
        Refusal::NotFailed if webhook.failed_at.is_some() => conflict(format!(
            "The {noun} has failed but is not a dead letter yet. Try again shortly, or resend it."
        )),
        _ if transition == Transition::Redrive => Problem::no_such_dead_letter(),
        other => conflict(format!("The {noun} cannot be sent again: {other}.")),
    }
}
