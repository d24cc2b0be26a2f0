//! `POST /applications/{application_id}/endpoints`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use shared::applications::{
    access::Action,
    application::Application,
    change::ChangeError,
    id::EndpointId,
    secrets::{EndpointSecret, StoredSecret, live},
};

use crate::{
    app::{App, Call},
    application_view::{ChangedEndpointView, NewEndpointView},
    edge::permission::{InApplication, Permitted},
    edit::{EditError, Editor, edit, master_keys},
    idempotency::{
        Key,
        sealed::{Try, once_sealed},
    },
    input::{
        body::read_json,
        endpoint,
        fields::{self, Fields},
        query,
    },
    limits::ENVELOPE_BYTES,
    openapi::{errors, parameters, schemas},
    problem::{Problem, ProblemKind},
    respond,
};

/// Create an endpoint
///
/// Messages that are published from `applies_from` on go to it. The response contains its secret.
/// Requires the scope `manage`.
#[utoipa::path(
    post, path = "/applications/{application_id}/endpoints", tag = "Endpoints",
    operation_id = "create_endpoint",
    params(parameters::ApplicationId, parameters::IdempotencyKey),
    request_body = schemas::NewEndpoint,
    responses(
        (status = 201, description = "The endpoint.", body = NewEndpointView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn endpoint_create(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::CreateEndpoint as usize }>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, ENVELOPE_BYTES).await?;
    let fields: Fields<'_> = fields::parse(&body, "must be an object with url")?;
    // An absent application is a 404 whatever the fields are.
    application.current(&app).await?;
    let key = Key::within(application.id(), &parts, &body)?;
    once_sealed(&app, application.id(), key, async |attempt| {
        create(&app, &call, &application, &fields, attempt).await
    })
    .await
}

async fn create(
    app: &App,
    call: &Call,
    application: &Permitted,
    fields: &Fields<'_>,
    attempt: Try,
) -> Result<String, Problem> {
    let (context, keys) = (&app.context, master_keys(&app.context)?);
    let id = EndpointId::mint(attempt.id_bits(app));
    let new = endpoint::read_new(context, fields, (application.id(), id))?;
    let editor = Editor::of(app, call);
    let secret = new.secret.unwrap_or_else(|| EndpointSecret::generate(&*context.random));
    let sealed =
        StoredSecret::seal(&secret, application.id(), id, keys, editor.now, &*context.random)
            .map_err(|error| Problem::internal().because(error))?;
    let written = edit(app, application, |seen| {
        check_repeated(seen, id, attempt)?;
        Ok(seen.create_endpoint(id, new.patch.clone(), vec![sealed.clone()], editor.actor())?)
    })
    .await?;
    response(app, &written, id)
}

/// An earlier try of the request may have created the endpoint, and it may have been deleted since.
/// An ID is never used again, so it is not created a second time.
fn check_repeated(seen: &Application, id: EndpointId, attempt: Try) -> Result<(), EditError> {
    if !attempt.is_repeated() {
        return Ok(());
    }
    if seen.endpoint(id).is_some() {
        return Err(ChangeError::Unchanged.into());
    }
    if attempt.may_have_made(seen, &format!("endpoint.created {id}")) {
        return Err(gone(id).into());
    }
    Ok(())
}

fn gone(id: EndpointId) -> Problem {
    Problem::new(
        ProblemKind::Conflict,
        format!(
            "An earlier try of this request may have created the endpoint {id}, which was deleted \
             since. Use a new Idempotency-Key."
        ),
    )
}

/// The response: the endpoint as it is stored, with its newest secret.
fn response(app: &App, application: &Application, id: EndpointId) -> Result<String, Problem> {
    let endpoint = application.endpoint(id).ok_or_else(Problem::no_such_endpoint)?;
    let (keys, now) = (master_keys(&app.context)?, app.now());
    let newest = live(&endpoint.secrets, now).next().ok_or_else(Problem::internal)?;
    let secret = newest.open(&application.id, id, keys)?.reveal();
    let endpoint = ChangedEndpointView::of(endpoint, now, app.context.config.endpoint_cache);
    Ok(respond::to_json(&NewEndpointView { endpoint, secret }))
}
