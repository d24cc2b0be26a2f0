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
    app::{App, Call, PathId},
    dispatch,
    idempotency::{self, Key},
    input::query,
    openapi::{errors, parameters},
    problem::{Problem, ProblemKind},
    view,
};

/// Resend a webhook
///
/// Sends a delivered or failed webhook again, with a new budget of attempts. An unfinished webhook
/// is a 409.
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
async fn resend_unless_done(
    app: &App,
    id: &WebhookId,
    transition: Transition,
    tried_at: Option<Timestamp>,
) -> Result<Webhook, Problem> {
    let (webhook, content) =
        app.context.store.open(id).await?.ok_or_else(Problem::no_such_webhook)?;
    if content.url.is_empty() {
        return Err(no_url());
    }
    let webhook = if tried_at.is_some_and(|tried_at| is_done(&webhook, transition, tried_at)) {
        webhook
    } else {
        match make_pending(app, webhook, transition).await? {
            Applied::Done(webhook, ()) => webhook,
            Applied::Refused(refusal, webhook) => {
                return Err(refused(refusal, &webhook, transition));
            }
            Applied::Missing => return Err(Problem::no_such_webhook()),
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

fn is_done(webhook: &Webhook, transition: Transition, since: Timestamp) -> bool {
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

fn refused(refusal: Refusal, webhook: &Webhook, transition: Transition) -> Problem {
    let conflict = |detail: String| Problem::new(ProblemKind::Conflict, detail);
    match refusal {
        Refusal::Expired => Problem::no_such_webhook(),
        _ if !webhook.status.is_finished() => conflict(format!(
            "The webhook is {}. Wait until it is delivered or failed, then send it again.",
            webhook.status
        )),
        Refusal::NotFailed if webhook.failed_at.is_some() => conflict(
            "The webhook has failed but is not a dead letter yet. Try again shortly, or resend it."
                .to_owned(),
        ),
        _ if transition == Transition::Redrive => Problem::no_such_dead_letter(),
        other => conflict(format!("The webhook cannot be sent again: {other}.")),
    }
}
