//! `POST /webhooks/{webhook_id}/resend`, and what redrive shares with it: a webhook that is
//! finished goes on its way again.

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

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters};
use crate::{
    app::{App, Call, Named},
    dispatch,
    idempotency::{self, Key, Slot, Started},
    problem::{Kind, Problem},
    query, view,
};

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/webhooks/{webhook_id}/resend", tag = "Operating",
    operation_id = "resend_webhook",
    summary = "Send a finished webhook again",
    description = "With a fresh budget of attempts. 409 while it is still on its way.",
    params(parameters::WebhookId, parameters::IdempotencyKey),
    responses((status = 202, description = "On its way again.", body = view::Accepted<'static>),
        errors::Keyed, errors::Missing),
))]
pub(crate) async fn resend(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> Result<Response, Problem> {
    again(&app, &id, request, Transition::Resend).await
}

/// Sends one webhook again, by `resend` or by `redrive`, under a key or without.
pub(crate) async fn again(
    app: &App,
    id: &WebhookId,
    request: Request,
    transition: Transition,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let key = Key::of(&parts, &call, &[])?;
    let slot = match idempotency::start(app, key, StatusCode::ACCEPTED).await? {
        Started::Done(response) => return Ok(response),
        Started::Todo(slot) => slot,
    };
    let (webhook, content) =
        app.context.store.open(id).await?.ok_or_else(Problem::no_such_webhook)?;
    if content.url.is_empty() {
        return Err(no_url());
    }
    // An earlier try of this very request did it, and its answer was lost.
    let tried_at = slot.as_ref().filter(|slot| slot.tried_before).map(Slot::began_at);
    let webhook = if tried_at.is_some_and(|tried_at| did(&webhook, transition, tried_at)) {
        webhook
    } else {
        match start_again(app, webhook, transition).await? {
            Applied::Done(webhook, ()) => webhook,
            Applied::Refused(refusal, webhook) => {
                return Err(refused(refusal, &webhook, transition));
            }
            Applied::Missing => return Err(Problem::no_such_webhook()),
        }
    };
    if webhook.status == Status::Pending {
        dispatch::send(app, &[&webhook]).await;
    }
    Ok(idempotency::end(app, slot, StatusCode::ACCEPTED, view::accepted(&webhook)).await)
}

/// The write of a resend or a redrive. The message is still to be sent; until then the due index
/// holds the webhook.
pub(crate) async fn start_again(
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

fn did(webhook: &Webhook, transition: Transition, since: Timestamp) -> bool {
    webhook.history.iter().any(|step| step.transition == transition && step.at >= since)
}

/// A message that nobody could read became a dead letter without a webhook: there is nowhere to
/// send it.
fn no_url() -> Problem {
    Problem::new(
        Kind::Conflict,
        "This dead letter is a queue message that could not be read; there is no URL to send it \
         to.",
    )
}

fn refused(refusal: Refusal, webhook: &Webhook, transition: Transition) -> Problem {
    match refusal {
        Refusal::Expired => Problem::no_such_webhook(),
        _ if !webhook.status.is_finished() => Problem::new(
            Kind::Conflict,
            format!(
                "The webhook is still on its way ({}); it can be sent again once it is delivered \
                 or failed.",
                webhook.status
            ),
        ),
        Refusal::NotFailed if webhook.failed_at.is_some() => Problem::new(
            Kind::Conflict,
            "The webhook has failed but is not archived yet; try again in a moment, or resend it.",
        ),
        _ if transition == Transition::Redrive => {
            Problem::new(Kind::NotFound, "There is no dead letter with this id.")
        }
        other => {
            Problem::new(Kind::Conflict, format!("The webhook cannot be sent again: {other}."))
        }
    }
}
