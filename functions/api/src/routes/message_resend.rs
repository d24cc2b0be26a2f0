//! `POST /applications/{application_id}/messages/{message_id}/resend`: one delivery of a message,
//! or all that failed.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{
    applications::{
        access::Action,
        id::{ApplicationId, EndpointId},
    },
    apply::Applied,
    clock::Timestamp,
    id::MessageId,
    model::{Transition, Webhook},
    status::Status,
};
use utoipa::ToSchema;

use crate::{
    accept::max_body_bytes,
    app::{App, Call},
    deliveries::endpoint_of,
    dispatch,
    edge::permission::{InApplication, Permitted},
    idempotency::{self, Key},
    input::{
        body::read_json,
        fields::{self, Fields, given},
        path::MessagePath,
        query,
    },
    message_view::PlannedView,
    openapi::{errors, parameters, schemas},
    problem::{FieldErrors, Problem, ProblemKind},
    respond::to_json,
    routes::{
        message_status::standing,
        webhook_resend::{is_done, make_pending, resend_unless_done},
    },
};

/// The fields of a resend.
pub(crate) const FIELDS: [&str; 1] = ["endpoint_id"];

#[derive(Debug, Serialize, ToSchema)]
struct ResentMessage<'a> {
    #[schema(value_type = schemas::MessageId)]
    message_id: &'a MessageId,
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    /// The deliveries that are pending again.
    #[schema(max_items = 100)]
    deliveries: Vec<PlannedView>,
    /// The failed deliveries whose endpoints were deleted or are disabled.
    #[schema(max_items = 100)]
    skipped: Vec<PlannedView>,
}

/// Resend a message
///
/// Sends the message again to one endpoint, or to every endpoint whose delivery has failed. Each
/// delivery gets a new budget of attempts. A delivery that is on its way is a 409, and so is an
/// endpoint that was not planned, was deleted or is disabled.
#[utoipa::path(
    post, path = "/applications/{application_id}/messages/{message_id}/resend", tag = "Messages",
    operation_id = "resend_message",
    params(parameters::ApplicationId, parameters::MessageId, parameters::IdempotencyKey),
    request_body = Option<schemas::NewResend>,
    responses(
        (status = 202, description = "The deliveries are pending again.",
            body = ResentMessage<'static>),
        errors::Body, errors::Missing,
    ),
)]
pub(crate) async fn message_resend(
    State(app): State<Arc<App>>,
    InApplication(application): InApplication<{ Action::ResendMessage as usize }>,
    MessagePath(id): MessagePath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let (body, _permit) =
        read_json(&app, &call, &parts.headers, body, max_body_bytes(&app)).await?;
    let endpoint = read_endpoint(&body)?;
    let key = Key::within(application.id(), &parts, &body)?;
    idempotency::once(&app, key, StatusCode::ACCEPTED, async |tried_at| {
        application.document(&app).await?;
        let (resent, skipped) = match endpoint {
            Some(endpoint) => {
                (vec![one(&app, &application, &id, endpoint, tried_at).await?], Vec::new())
            }
            None => all_failed(&app, &application, &id, tried_at).await?,
        };
        let views = |webhooks: &[Webhook]| -> Vec<PlannedView> {
            webhooks.iter().filter_map(|webhook| PlannedView::of(&webhook.id)).collect()
        };
        Ok(to_json(&ResentMessage {
            message_id: &id,
            application_id: application.id(),
            deliveries: views(&resent),
            skipped: views(&skipped),
        }))
    })
    .await
}

fn read_endpoint(body: &[u8]) -> Result<Option<EndpointId>, Problem> {
    let fields: Fields<'_> = fields::parse_or_empty(body)?;
    let mut field_errors = FieldErrors::default();
    let [endpoint] = fields.pick(&FIELDS, "", &mut field_errors);
    let mut refuse = |message: String| {
        field_errors.add(FIELDS[0], message);
        None
    };
    let endpoint = match given(endpoint).map(fields::text) {
        None => None,
        Some(None) => refuse("must be a string.".to_owned()),
        Some(Some(text)) => {
            text.parse::<EndpointId>().map_or_else(|invalid| refuse(invalid.to_string()), Some)
        }
    };
    field_errors.check()?;
    Ok(endpoint)
}

fn conflict(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ProblemKind::Conflict, detail)
}

/// Resends the delivery to one endpoint.
async fn one(
    app: &App,
    application: &Permitted,
    id: &MessageId,
    endpoint: EndpointId,
    tried_at: Option<Timestamp>,
) -> Result<Webhook, Problem> {
    let message = app.context.store.message(id).await?;
    let message = message.filter(|message| message.application == *application.id());
    let message = message.ok_or_else(Problem::no_such_message)?;
    if message.deleting {
        return Err(Problem::being_deleted());
    }
    if message.place(endpoint).is_none() {
        return Err(conflict(
            "The message was not published to this endpoint. Publish it again to send it there.",
        ));
    }
    resend_unless_done(app, &id.delivery(endpoint), Transition::Resend, tried_at).await
}

/// Resends every delivery that has failed. Returns those that are pending again, and those whose
/// endpoints receive nothing.
async fn all_failed(
    app: &App,
    application: &Permitted,
    id: &MessageId,
    tried_at: Option<Timestamp>,
) -> Result<(Vec<Webhook>, Vec<Webhook>), Problem> {
    let standing = standing(app, application.id(), id).await?;
    if standing.message.deleting {
        return Err(Problem::being_deleted());
    }
    let was_resent = |webhook: &Webhook| {
        tried_at.is_some_and(|tried_at| is_done(webhook, Transition::Resend, tried_at))
    };
    let (mut resent, mut skipped, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for webhook in standing.visible_deliveries(app.now()) {
        if was_resent(&webhook) {
            resent.push(webhook);
        } else if webhook.status == Status::Failed {
            let state = endpoint_of(app, &webhook).await?;
            let is_receiving = state.is_none_or(|state| state.obstacle().is_none());
            if is_receiving { failed.push(webhook) } else { skipped.push(webhook) }
        }
    }
    if failed.is_empty() && resent.is_empty() && !skipped.is_empty() {
        return Err(conflict(
            "The endpoints of all failed deliveries were deleted or are disabled. Enable them \
             first.",
        ));
    }
    let writes = failed.into_iter().map(|webhook| make_pending(app, webhook, Transition::Resend));
    let outcomes = dispatch::concurrently(writes.collect()).await;
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(Applied::Done(webhook, ())) => resent.push(webhook),
            // Another request has resent or deleted it in the meantime.
            Ok(Applied::Refused(..) | Applied::Missing) => {}
            Err(error) => failure = Some(error),
        }
    }
    // The deliveries that are pending again get their messages even if other writes failed.
    let pending = resent.iter().filter(|webhook| webhook.status == Status::Pending);
    dispatch::enqueue(app, &pending.collect::<Vec<_>>()).await;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok((resent, skipped)),
    }
}
