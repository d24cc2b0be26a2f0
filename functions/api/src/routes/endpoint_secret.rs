//! `GET /applications/{application_id}/endpoints/{endpoint_id}/secret`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::applications::{access::Action, secrets::live};
use utoipa::ToSchema;

use crate::{
    app::App,
    application_view::SecretView,
    edge::permission::{EndpointInPath, InApplication},
    edit::master_keys,
    input::query,
    openapi::{errors, parameters},
    problem::Problem,
    respond,
};

#[derive(Serialize, ToSchema)]
struct EndpointSecrets {
    /// The live secrets, newest first. Each signs every webhook.
    #[schema(max_items = 5)]
    secrets: Vec<SecretView>,
}

/// Get the secrets of an endpoint
///
/// Requires the scope `manage`, and `MASTER_KEY`.
#[utoipa::path(
    get, path = "/applications/{application_id}/endpoints/{endpoint_id}/secret",
    tag = "Endpoints", operation_id = "show_endpoint_secrets",
    params(parameters::ApplicationId, parameters::EndpointId),
    responses(
        (status = 200, description = "The secrets.", body = EndpointSecrets),
        errors::Missing,
    ),
)]
pub(crate) async fn endpoint_secret_get(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::GetSecret as usize }>,
    EndpointInPath(id): EndpointInPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let application = application.current(&app).await?;
    let endpoint =
        id.and_then(|id| application.endpoint(id)).ok_or_else(Problem::no_such_endpoint)?;
    let keys = master_keys(&app.context)?;
    let secrets = live(&endpoint.secrets, app.now()).map(|stored| {
        let secret = stored.open(&application.id, endpoint.id, keys)?.reveal();
        Ok(SecretView { id: stored.id, kind: stored.kind, secret, expires_at: stored.expires_at })
    });
    let secrets = secrets.collect::<Result<_, Problem>>()?;
    Ok(respond::json(StatusCode::OK, &EndpointSecrets { secrets }))
}
