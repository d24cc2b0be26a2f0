//! `PUT /applications/{application_id}`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use shared::applications::access::Action;

use crate::{
    app::{App, Call},
    application_view::ApplicationView,
    edge::permission::InApplication,
    edit::{self, Editor},
    input::{application, body::read_json, fields, query},
    limits::ENVELOPE_BYTES,
    openapi::{errors, parameters, schemas},
    problem::Problem,
    respond,
};

/// Create or change an application
///
/// Replaces all settings: an omitted one gets its default. Endpoints and keys stay. Repeat the
/// request as often as you like, for example whenever your service starts: equal settings write
/// nothing. Requires `MASTER_KEY`.
#[utoipa::path(
    put, path = "/applications/{application_id}", tag = "Applications",
    operation_id = "put_application",
    params(parameters::ApplicationId),
    request_body(content = Option<schemas::NewApplication>),
    responses(
        (status = 200, description = "The application existed and has these settings now.",
            body = ApplicationView<'static>),
        (status = 201, description = "The application is new.", body = ApplicationView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn application_put(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::PutApplication as usize }>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    edit::master_keys(&app.context)?;
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, ENVELOPE_BYTES).await?;
    let input = application::read(&fields::parse_or_empty(&body)?)?;
    let editor = Editor::of(&app, &call);
    let (status, written) = edit::put(&app, application.id(), &input, &editor).await?;
    Ok(respond::json(status, &ApplicationView::of(&written)))
}
