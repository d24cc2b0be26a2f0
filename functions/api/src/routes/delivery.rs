//! `/applications/{application_id}/deliveries/{delivery_id}`: one delivery of an application.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::StatusCode;
use shared::{
    applications::access::Action,
    id::WebhookId,
    model::{Transition, Webhook},
};

use crate::{
    app::{App, Call},
    deliveries::{self, Opened},
    edge::permission::{InApplication, Permitted},
    idempotency::{self, Key},
    input::{
        path::DeliveryPath,
        query::{self, Query},
    },
    message_view::{self, DeliveryView},
    openapi::{errors, parameters},
    problem::Problem,
    respond,
    routes::{
        webhook_explain::{Explanation, explain},
        webhook_resend::resend_unless_done,
    },
};

/// Get a delivery
///
/// The response contains all recorded attempts. With `include=payload`, it contains the payload
/// too.
#[utoipa::path(
    get, path = "/applications/{application_id}/deliveries/{delivery_id}", tag = "Deliveries",
    operation_id = "show_delivery",
    params(parameters::ApplicationId, parameters::DeliveryId, parameters::Include),
    responses(
        (status = 200, description = "The delivery.", body = DeliveryView<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn delivery_get(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::GetDelivery as usize }>,
    DeliveryPath(id): DeliveryPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &[query::INCLUDE]);
    let with_payload = query.include_payload();
    query.field_errors.check()?;
    application.document(&app).await?;
    let opened = deliveries::open(&app, &id).await?;
    let opened = opened.filter(|opened: &Opened| is_of(&opened.webhook, &application));
    let opened = opened.ok_or_else(Problem::no_such_delivery)?;
    let view = DeliveryView::of(&opened.webhook, opened.url(), &opened.rules(&app));
    let view = view.ok_or_else(Problem::internal)?;
    let view = if with_payload { view.with_payload(&opened.payload) } else { view };
    Ok(respond::json(StatusCode::OK, &view))
}

/// Explain a delivery
///
/// Returns every transition of the delivery with its reason, what happens next, what holds it back,
/// and the budgets that limit further attempts.
#[utoipa::path(
    get, path = "/applications/{application_id}/deliveries/{delivery_id}/explain",
    tag = "Deliveries", operation_id = "explain_delivery",
    params(parameters::ApplicationId, parameters::DeliveryId),
    responses(
        (status = 200, description = "The transitions in their order, and what happens next.",
            body = Explanation<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn delivery_explain(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ExplainDelivery as usize }>,
    DeliveryPath(id): DeliveryPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    application.document(&app).await?;
    let delivery = find(&app, &application, &id).await?;
    explain(&app, &delivery).await
}

/// Resend a delivery
///
/// Sends a delivered or failed delivery again, with a new budget of attempts. A delivery that is on
/// its way is a 409, and so is one whose endpoint was deleted or is disabled.
#[utoipa::path(
    post, path = "/applications/{application_id}/deliveries/{delivery_id}/resend",
    tag = "Deliveries", operation_id = "resend_delivery",
    params(parameters::ApplicationId, parameters::DeliveryId, parameters::IdempotencyKey),
    responses(
        (status = 202, description = "The delivery is pending again.",
            body = message_view::ResentView<'static>),
        errors::Keyed, errors::Missing,
    ),
)]
pub(crate) async fn delivery_resend(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ResendDelivery as usize }>,
    DeliveryPath(id): DeliveryPath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let key = Key::within(application.id(), &parts, &[])?;
    idempotency::once(&app, key, StatusCode::ACCEPTED, async |tried_at| {
        application.document(&app).await?;
        find(&app, &application, &id).await?;
        let delivery = resend_unless_done(&app, &id, Transition::Resend, tried_at).await?;
        Ok(message_view::resent(&delivery))
    })
    .await
}

async fn find(app: &App, application: &Permitted, id: &WebhookId) -> Result<Webhook, Problem> {
    let found = deliveries::find(app, id).await?;
    found.filter(|found| is_of(found, application)).ok_or_else(Problem::no_such_delivery)
}

fn is_of(delivery: &Webhook, application: &Permitted) -> bool {
    delivery.application.as_ref() == Some(application.id())
}
