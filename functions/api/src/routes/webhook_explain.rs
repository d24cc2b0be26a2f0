//! `GET /webhooks/{webhook_id}/explain`: what happened to a webhook and why, and what happens next.
//! Both are derived from the record. The targets of an unfinished webhook tell what holds it back.
//! A delivery also depends on its endpoint, and before its first transition on its message.

mod next;
mod steps;
mod traffic;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    clock::{Timestamp, rfc3339},
    id::WebhookId,
    model::Webhook,
    status::Status,
    transition::{MAX_RATE_LIMITED, Rules},
};
use utoipa::ToSchema;

use self::{
    next::{Next, next},
    steps::{StepView, steps},
    traffic::{Traffic, TrafficView},
};
use crate::{
    app::App,
    deliveries::{self, EndpointState},
    input::{path::PathId, query},
    openapi::{errors, parameters, schemas},
    problem::Problem,
    respond,
    view::attempts_granted,
};

/// Explain a webhook
///
/// Returns every transition of the webhook with its reason, what happens next, what holds it back,
/// and the budgets that limit further attempts.
#[utoipa::path(
    get, path = "/webhooks/{webhook_id}/explain", tag = "Webhooks",
    operation_id = "explain_webhook",
    params(parameters::WebhookId),
    responses(
        (status = 200, description = "The transitions in their order, and what happens next.",
            body = Explanation<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn webhook_explain(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    match deliveries::find(&app, &id).await? {
        Some(webhook) => explain(&app, &webhook).await,
        None => Err(deliveries::missing(&app, &id).await),
    }
}

/// The response that explains a webhook, direct or a delivery.
pub(crate) async fn explain(app: &App, webhook: &Webhook) -> Result<Response, Problem> {
    let (store, config) = (&app.context.store, &app.context.config);
    let now = app.now();
    let traffic = Traffic::of(&**store, config, webhook, now).await?;
    let endpoint = deliveries::endpoint_of(app, webhook).await?;
    let message_due_at = match webhook.id.message_id() {
        Some(message) if webhook.revision == 0 => {
            store.message(&message).await?.and_then(|message| message.due_at)
        }
        _ => None,
    };
    let rules = deliveries::rules_for(app, endpoint.as_ref());
    let surroundings = Surroundings { traffic, endpoint, message_due_at };
    let explanation = Explanation::of(webhook, &surroundings, &rules, config.audit_age, now);
    Ok(respond::json(StatusCode::OK, &explanation))
}

/// What the future of a webhook depends on besides its record.
#[derive(Debug, Default)]
struct Surroundings {
    /// Its targets.
    traffic: Traffic,
    /// The endpoint of a delivery.
    endpoint: Option<EndpointState>,
    /// When the message of a delivery without a record is due.
    message_due_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation<'a> {
    /// The ID of the webhook or delivery.
    #[schema(value_type = schemas::AnyWebhookId)]
    webhook_id: &'a WebhookId,
    #[schema(value_type = schemas::Status)]
    status: Status,
    /// The time of this response.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    now: Timestamp,
    /// The transitions, oldest first. A long history lacks the ones after the first.
    #[schema(max_items = 50)]
    steps: Vec<StepView>,
    next: Next,
    traffic: TrafficView<'a>,
    budget: BudgetView,
}

/// What the webhook has used since it was accepted or last sent again, and the limits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Budget)]
struct BudgetView {
    attempts: Used,
    /// Attempts that the destination refused with a pause. They do not count as attempts.
    refused_attempts: u32,
    /// Attempts in a row without a recorded outcome.
    interrupted_attempts: Used,
    /// How often the queue gave up on its message.
    rescues: Used,
    /// Time spent waiting for an open circuit.
    deferred_ms: Used,
    /// Time spent waiting because of concurrency limits.
    host_deferred_ms: Used,
    /// Time spent waiting because the destination asked for fewer requests.
    paused_ms: Used,
    /// Time spent waiting because of a configured rate.
    rate_limited_ms: Used,
}

#[derive(Debug, Serialize, ToSchema)]
struct Used {
    used: u64,
    of: u64,
}

impl<'a> Explanation<'a> {
    fn of(
        webhook: &'a Webhook,
        surroundings: &'a Surroundings,
        rules: &Rules,
        audit_age: Duration,
        now: Timestamp,
    ) -> Self {
        let budget = &webhook.budget;
        let used = |used: u32, of: u32| Used { used: u64::from(used), of: u64::from(of) };
        let max_defer_ms = rules.limits.max_defer.as_millis() as u64;
        Self {
            webhook_id: &webhook.id,
            status: webhook.status,
            now,
            steps: steps(webhook),
            next: next(webhook, surroundings, rules, audit_age, now),
            traffic: surroundings.traffic.view(webhook, now),
            budget: BudgetView {
                attempts: used(budget.attempts, attempts_granted(webhook, rules)),
                refused_attempts: budget.throttled,
                interrupted_attempts: used(budget.interrupted, rules.limits.max_interrupted),
                rescues: used(budget.rescues, rules.limits.max_rescues),
                deferred_ms: Used { used: budget.deferred_ms, of: max_defer_ms },
                host_deferred_ms: Used { used: budget.host_deferred_ms, of: max_defer_ms },
                paused_ms: Used { used: budget.paused_ms, of: max_defer_ms },
                rate_limited_ms: Used {
                    used: budget.rate_limited_ms,
                    of: MAX_RATE_LIMITED.as_millis() as u64,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests;
