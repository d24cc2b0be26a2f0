//! `POST /applications/{application_id}/messages`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use shared::{
    applications::access::Action,
    planted::{self, Bug},
};

use crate::{
    accept::{accept, max_body_bytes},
    app::{App, Call},
    edge::permission::InApplication,
    idempotency::Key,
    input::{
        body::read_json,
        fields::{self, Fields},
        publication::Publication,
        query,
    },
    message_view,
    openapi::{errors, parameters, schemas},
    problem::Problem,
    publish,
};

/// Publish a message
///
/// The message goes to every enabled endpoint of the application that matches its event type. After
/// the 202, Posthaste delivers it to each, or the delivery becomes a dead letter, or it is deleted.
/// After a 503, it is unknown whether the message was accepted. Send the request again with the
/// same `Idempotency-Key`.
#[utoipa::path(
    post, path = "/applications/{application_id}/messages", tag = "Messages",
    operation_id = "publish_message",
    params(
        parameters::ApplicationId, parameters::IdempotencyKey, parameters::TraceParent,
        parameters::TraceState,
    ),
    request_body = schemas::NewMessage,
    responses(
        (status = 202, description = "The message is accepted and will be delivered to each \
            endpoint in `deliveries`. If no endpoint matches, `kept` tells whether it was stored.",
            body = message_view::PublishedView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn message_create(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::Publish as usize }>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) =
        read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let fields: Fields<'_> = fields::parse(&body, "must be an object with event_type and payload")?;
    let publication = Publication::read(&app.context, &fields, "")?;
    let key = Key::within(application.id(), &parts, &body)?;
    let mut id = application.id().clone();
    if planted::is(Bug::TenantByBody) {
        let payload: serde_json::Value =
            serde_json::from_str(publication.payload.get()).unwrap_or_default();
        id = payload["application_id"].as_str().and_then(|id| id.parse().ok()).unwrap_or(id);
    }
    // The publication has its own copy of the payload.
    drop(body);
    let (key, planned) = publish::plan(&app, &id, key, vec![Ok(publication)]).await?;
    let planned = planned.into_iter().next().ok_or_else(Problem::internal)??;
    accept(&app, &call, key.as_ref(), &planned, message_view::published).await
}
