//! `GET` and `DELETE /applications/{application_id}/messages/{message_id}`.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use serde_json::value::RawValue;
use shared::{
    applications::{access::Action, id::ApplicationId, standing::Standing},
    id::MessageId,
    message_deletion::{Deletion, delete_message},
};

use crate::{
    app::App,
    edge::permission::InApplication,
    input::{
        path::MessagePath,
        query::{self, Query},
    },
    message_view::MessageDetails,
    openapi::{errors, parameters},
    problem::Problem,
    respond,
};

/// Get a message
///
/// The response contains the state of each delivery. With `include=payload`, it contains the
/// payload too.
#[utoipa::path(
    get, path = "/applications/{application_id}/messages/{message_id}", tag = "Messages",
    operation_id = "show_message",
    params(parameters::ApplicationId, parameters::MessageId, parameters::Include),
    responses(
        (status = 200, description = "The message.", body = MessageDetails<'static>),
        errors::Missing,
    ),
)]
pub(crate) async fn message_get(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::GetMessage as usize }>,
    MessagePath(id): MessagePath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(query.as_deref(), &[query::INCLUDE]);
    let with_payload = query.include_payload();
    query.field_errors.check()?;
    application.document(&app).await?;
    let standing = standing(&app, application.id(), &id).await?;
    let payload = if with_payload { Some(payload(&app, &id).await?) } else { None };
    let deliveries = standing.visible_deliveries(app.now());
    let view = MessageDetails::of(&standing.message, &deliveries, payload.as_deref());
    Ok(respond::json(StatusCode::OK, &view))
}

/// Delete a message
///
/// This deletes the message with its payload and all its deliveries, whatever their status. No
/// attempt starts after the response. An attempt in flight may still reach its endpoint.
#[utoipa::path(
    delete, path = "/applications/{application_id}/messages/{message_id}", tag = "Messages",
    operation_id = "delete_message",
    params(parameters::ApplicationId, parameters::MessageId),
    responses((status = 204, description = "The message is deleted."), errors::Missing),
)]
pub(crate) async fn message_delete(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::DeleteMessage as usize }>,
    MessagePath(id): MessagePath,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    query::none(query.as_deref())?;
    application.document(&app).await?;
    let (store, now) = (&*app.context.store, app.now());
    let found = store.message(&id).await?.ok_or_else(Problem::no_such_message)?;
    if found.application != *application.id() {
        return Err(Problem::no_such_message());
    }
    match delete_message(store, &app.context.rules, &id, now).await? {
        Deletion::Deleted => Ok(StatusCode::NO_CONTENT),
        Deletion::Missing => Err(Problem::no_such_message()),
    }
}

/// The message of the application with the keys of its deliveries.
pub(crate) async fn standing(
    app: &App,
    application: &ApplicationId,
    id: &MessageId,
) -> Result<Standing, Problem> {
    let standing = app.context.store.standing(id).await?;
    let own = standing.filter(|standing| standing.message.application == *application);
    own.ok_or_else(Problem::no_such_message)
}

async fn payload(app: &App, id: &MessageId) -> Result<Box<RawValue>, Problem> {
    let opened = app.context.store.open_message(id).await?;
    opened.map(|(_, content)| content.payload).ok_or_else(Problem::no_such_message)
}
