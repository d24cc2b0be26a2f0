//! `PATCH` of an endpoint, and the routes that enable and disable it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use shared::applications::{
    access::Action,
    application::Application,
    change::{Actor, ChangeError},
    id::EndpointId,
};

use crate::{
    app::{App, Call},
    application_view::ChangedEndpointView,
    edge::permission::{EndpointInPath, InApplication, Permitted},
    edit::{Editor, edit},
    input::{body::read_json, endpoint, fields, query},
    limits::ENVELOPE_BYTES,
    openapi::{errors, parameters, schemas},
    problem::{FieldErrors, Problem},
    respond,
};

/// Change an endpoint
///
/// Changes the fields that the request has. `null` removes a field, so its default applies.
/// Requires the scope `manage`.
#[utoipa::path(
    patch, path = "/applications/{application_id}/endpoints/{endpoint_id}", tag = "Endpoints",
    operation_id = "change_endpoint",
    params(parameters::ApplicationId, parameters::EndpointId),
    request_body = schemas::EndpointPatch,
    responses(
        (status = 200, description = "The endpoint after the change.",
            body = ChangedEndpointView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn endpoint_patch(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ChangeEndpoint as usize }>,
    EndpointInPath(id): EndpointInPath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, ENVELOPE_BYTES).await?;
    let fields = fields::parse(&body, "must be an object")?;
    let id = existing(&app, &application, id).await?;
    let patch = endpoint::read_patch(&app.context, &fields, (application.id(), id))?;
    change(&app, &call, &application, id, |seen, actor| {
        seen.patch_endpoint(id, patch.clone(), actor)
    })
    .await
}

/// Enable an endpoint
///
/// Messages that are published from `applies_from` on go to it. Deliveries that failed meanwhile
/// stay failed. Requires the scope `manage`.
#[utoipa::path(
    post, path = "/applications/{application_id}/endpoints/{endpoint_id}/enable",
    tag = "Endpoints", operation_id = "enable_endpoint",
    params(parameters::ApplicationId, parameters::EndpointId),
    request_body(content = Option<schemas::Nothing>),
    responses(
        (status = 200, description = "The endpoint is enabled.",
            body = ChangedEndpointView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn endpoint_enable(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::EnableEndpoint as usize }>,
    EndpointInPath(id): EndpointInPath,
    request: Request,
) -> Result<Response, Problem> {
    let call = read_nothing(&app, request).await?;
    let id = existing(&app, &application, id).await?;
    change(&app, &call, &application, id, |seen, actor| seen.enable_endpoint(id, actor)).await
}

/// Disable an endpoint
///
/// Messages that are published from `applies_from` on list it as disabled. Deliveries under way
/// fail with `endpoint_disabled` when they are next looked at. Requires the scope `manage`.
#[utoipa::path(
    post, path = "/applications/{application_id}/endpoints/{endpoint_id}/disable",
    tag = "Endpoints", operation_id = "disable_endpoint",
    params(parameters::ApplicationId, parameters::EndpointId),
    request_body(content = Option<schemas::Nothing>),
    responses(
        (status = 200, description = "The endpoint is disabled.",
            body = ChangedEndpointView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn endpoint_disable(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::DisableEndpoint as usize }>,
    EndpointInPath(id): EndpointInPath,
    request: Request,
) -> Result<Response, Problem> {
    let call = read_nothing(&app, request).await?;
    let id = existing(&app, &application, id).await?;
    change(&app, &call, &application, id, |seen, actor| seen.disable_endpoint(id, actor)).await
}

/// Reads a body without fields: none, or an empty object.
async fn read_nothing(app: &App, request: Request) -> Result<Call, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) = read_json(app, &call, &parts.headers, body, ENVELOPE_BYTES).await?;
    let mut errors = FieldErrors::default();
    for (name, _) in fields::parse_or_empty(&body)?.entries {
        errors.add(&name, "is not a known field. This request has no fields.");
    }
    errors.check()?;
    Ok(call)
}

/// The ID in the path, if the application has such an endpoint. So a request about an absent one
/// is a 404 whatever its fields are.
async fn existing(
    app: &App,
    application: &Permitted,
    id: Option<EndpointId>,
) -> Result<EndpointId, Problem> {
    let stored = application.current(app).await?;
    let found = id.filter(|id| stored.endpoint(*id).is_some());
    found.ok_or_else(Problem::no_such_endpoint)
}

async fn change(
    app: &App,
    call: &Call,
    application: &Permitted,
    id: EndpointId,
    change: impl Fn(&Application, Actor<'_>) -> Result<Application, ChangeError>,
) -> Result<Response, Problem> {
    let editor = Editor::of(app, call);
    let written = edit(app, application, |seen| Ok(change(seen, editor.actor())?)).await?;
    let endpoint = written.endpoint(id).ok_or_else(Problem::no_such_endpoint)?;
    let view = ChangedEndpointView::of(endpoint, app.now(), app.context.config.endpoint_cache);
    Ok(respond::json(StatusCode::OK, &view))
}
