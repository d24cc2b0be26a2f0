//! `POST /applications/{application_id}/endpoints/{endpoint_id}/test`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use shared::applications::access::Action;

use crate::{
    accept::{accept, max_body_bytes},
    app::{App, Call},
    edge::permission::{EndpointInPath, InApplication},
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

/// Send a test message to an endpoint
///
/// Publishes a message for this endpoint alone, whatever event types it has chosen. Without fields,
/// the event type is `posthaste.test` and the payload `{"test": true}`. An endpoint gets at most
/// one test message a second.
#[utoipa::path(
    post, path = "/applications/{application_id}/endpoints/{endpoint_id}/test", tag = "Endpoints",
    operation_id = "test_endpoint",
    params(
        parameters::ApplicationId, parameters::EndpointId, parameters::IdempotencyKey,
        parameters::TraceParent, parameters::TraceState,
    ),
    request_body = Option<schemas::TestMessage>,
    responses(
        (status = 202, description = "The message is accepted and will be delivered.",
            body = message_view::PublishedView<'static>),
        errors::Body, errors::Missing, errors::Limited,
    ),
)]
pub(crate) async fn endpoint_test(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::TestEndpoint as usize }>,
    EndpointInPath(endpoint): EndpointInPath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) =
        read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let fields: Fields<'_> = fields::parse_or_empty(&body)?;
    let publication = Publication::test(&app.context, &fields)?;
    let endpoint = endpoint.ok_or_else(Problem::no_such_endpoint)?;
    let key = Key::within(application.id(), &parts, &body)?;
    let planned =
        publish::plan_for(&app, application.id(), endpoint, key.as_ref(), publication).await?;
    accept(&app, &call, key.as_ref(), &planned, message_view::published).await
}
