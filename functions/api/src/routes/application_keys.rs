//! `/applications/{application_id}/keys`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    applications::{access::Action, keys::StoredKey},
    random::Random,
};
use utoipa::ToSchema;

use crate::{
    app::{App, Call},
    application_view::{KeyView, NewKeyView},
    edge::permission::{InApplication, KeyInPath, Permitted},
    edit::{Editor, edit},
    idempotency::{
        Key,
        sealed::{Try, once_sealed},
    },
    input::{
        application::{NewKey, read_key},
        body::read_json,
        fields, query,
    },
    limits::ENVELOPE_BYTES,
    openapi::{errors, parameters, schemas},
    problem::{Problem, ProblemKind},
    respond,
};

/// Create a key of an application
///
/// The response contains the key. It is not stored, so no other response contains it. A repeat with
/// the same `Idempotency-Key` gets it again.
#[utoipa::path(
    post, path = "/applications/{application_id}/keys", tag = "Applications",
    operation_id = "create_key",
    params(parameters::ApplicationId, parameters::IdempotencyKey),
    request_body = schemas::NewKey,
    responses(
        (status = 201, description = "The key.", body = NewKeyView<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn key_create(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::CreateKey as usize }>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, ENVELOPE_BYTES).await?;
    let fields = fields::parse(&body, "must be an object with name and scopes")?;
    application.current(&app).await?;
    let new = read_key(&fields)?;
    let key = Key::within(application.id(), &parts, &body)?;
    once_sealed(&app, application.id(), key, async |attempt| {
        create(&app, &call, &application, new, attempt).await
    })
    .await
}

async fn create(
    app: &App,
    call: &Call,
    application: &Permitted,
    new: NewKey,
    attempt: Try,
) -> Result<String, Problem> {
    let editor = Editor::of(app, call);
    let [bits @ .., _, _] = attempt.id_bits(app);
    let random = KeyRandom { id: u64::from_le_bytes(bits), inner: &*app.context.random };
    let NewKey { name, scopes, expires_at } = new;
    let (stored, key) =
        StoredKey::issue(application.id(), name, scopes, expires_at, editor.now, &random).map_err(
            |expired| Problem::about(ProblemKind::InvalidFields, "expires_at", expired.to_string()),
        )?;
    edit(app, application, |seen| {
        let created = format!("key.created {}", stored.id);
        let is_known = attempt.is_repeated() && seen.keys.iter().any(|key| key.id == stored.id);
        if is_known || attempt.may_have_made(seen, &created) {
            return Err(answer_lost(&stored).into());
        }
        Ok(seen.add_key(stored.clone(), editor.actor())?)
    })
    .await?;
    Ok(respond::to_json(&NewKeyView { view: KeyView::of(&stored), key: key.reveal() }))
}

/// The first number is the ID of the key, which each try of a request has in common.
#[derive(Debug)]
struct KeyRandom<'a> {
    id: u64,
    inner: &'a dyn Random,
}

impl Random for KeyRandom<'_> {
    fn next_u64(&self) -> u64 {
        self.id
    }

    fn fill(&self, buffer: &mut [u8]) {
        self.inner.fill(buffer);
    }
}

/// Only a hash of the key is stored, so the key cannot be shown again.
fn answer_lost(key: &StoredKey) -> Problem {
    Problem::new(
        ProblemKind::Conflict,
        format!(
            "An earlier try of this request may have created the key {}, and its response was \
             lost. Delete that key if it exists, and create another with a new Idempotency-Key.",
            key.id
        ),
    )
}

#[derive(Serialize, ToSchema)]
#[schema(as = ApplicationKeyList)]
struct KeyList<'a> {
    #[schema(max_items = 20)]
    items: Vec<KeyView<'a>>,
}

/// List the keys of an application
///
/// The oldest come first, without the keys themselves.
#[utoipa::path(
    get, path = "/applications/{application_id}/keys", tag = "Applications",
    operation_id = "list_keys",
    params(parameters::ApplicationId),
    responses(
        (status = 200, description = "The keys.", body = KeyList<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn key_list(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ListKeys as usize }>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let application = application.current(&app).await?;
    let items = application.keys.iter().map(KeyView::of).collect();
    Ok(respond::json(StatusCode::OK, &KeyList { items }))
}

/// Revoke a key of an application
///
/// Every process refuses it within `ENDPOINT_CACHE_MS`.
#[utoipa::path(
    delete, path = "/applications/{application_id}/keys/{key_id}", tag = "Applications",
    operation_id = "delete_key",
    params(parameters::ApplicationId, parameters::KeyId),
    responses((status = 204, description = "The key is revoked."), errors::Missing),
)]
pub(crate) async fn key_delete(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::DeleteKey as usize }>,
    KeyInPath(id): KeyInPath,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    let editor = Editor::of(&app, &call);
    edit(&app, &application, |seen| {
        let id = id.ok_or_else(Problem::no_such_key)?;
        Ok(seen.delete_key(id, editor.actor())?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
