//! `POST /webhooks/batch`: up to 100 webhooks, each accepted or refused on its own.

use std::{error::Error, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{id::TaskId, model::Webhook};
use utoipa::ToSchema;

use crate::{
    accept::max_body_bytes,
    app::{App, Call},
    dispatch::{self, ItemId},
    idempotency::{self, Key, KeyState, MAX_RESERVE_TRIES, ReservedKey},
    input::{
        body::read_json,
        fields::{self, Elements, Fields, given},
        query,
        submission::Submission,
    },
    limits::{MAX_BATCH_ITEMS, MAX_BODY_BYTES},
    openapi::{errors, parameters, schemas},
    problem::{Cause, FieldErrors, Problem, ProblemKind},
    respond::{self, to_json},
    view::Accepted,
};

/// The items of a batch, in their order: valid submissions, and what is wrong with the others.
type Items = Vec<Result<Submission, Problem>>;

/// For each valid item, in their order: its webhook, or `None` if its ID is barred.
type Outcomes = Vec<Result<Option<Webhook>, Problem>>;

/// Create up to 100 webhooks
///
/// Each item is accepted or refused on its own. The results are in the order of the items.
#[utoipa::path(
    post, path = "/webhooks/batch", tag = "Webhooks", operation_id = "accept_batch",
    params(parameters::IdempotencyKey, parameters::TraceParent, parameters::TraceState),
    request_body = schemas::NewBatch,
    responses(
        (status = 202, description = "One result for each item, in the order of the items.",
            body = BatchResults<'static>),
        errors::Body,
    ),
)]
pub(crate) async fn webhook_create_batch(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let limit = max_body_bytes(&app).saturating_mul(MAX_BATCH_ITEMS).min(MAX_BODY_BYTES);
    let (body, _permit) = read_json(&app, &call, &parts.headers, body, limit).await?;
    let fields = fields::parse(&body, "must be an object with the field webhooks")?;
    let items = read_items(&app, &fields)?;
    let key = Key::of(&parts, &call, &body)?;
    // The submissions have their own copies of the payloads.
    drop(body);
    let Some(key) = key else {
        let tasks = app.mint_batch(items.len());
        let outcomes =
            accept_items(&app, &call, &items, |index| ItemId::Create(tasks[index])).await;
        let (body, _) = results(items, outcomes)?;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    };
    for _ in 0..MAX_RESERVE_TRIES {
        let mut reserved = match idempotency::reserve(&app, &key).await? {
            KeyState::Answered(body) => {
                return Ok(idempotency::replay(StatusCode::ACCEPTED, body));
            }
            KeyState::Unanswered(reserved) => reserved,
        };
        let settled = settle_items(&app, &call, &mut reserved, &items).await?;
        let Some(settled) = settled else { continue };
        let id_of = |index: usize| match settled.get(index).copied().flatten() {
            Some(task) => ItemId::Settled(task),
            None => ItemId::Create(reserved.task().nth(index)),
        };
        let outcomes = accept_items(&app, &call, &items, id_of).await;
        if outcomes.iter().any(|outcome| matches!(outcome, Ok(None))) {
            // An ID is barred: another try has found it too old in the meantime.
            continue;
        }
        let (body, is_final) = results(items, outcomes)?;
        if is_final {
            reserved.finish(&app, &body).await;
        }
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

fn read_items(app: &App, fields: &Fields<'_>) -> Result<Items, Problem> {
    let mut field_errors = FieldErrors::default();
    let [webhooks] = fields.pick(&["webhooks"], "", &mut field_errors);
    let elements: Option<Elements<'_, MAX_BATCH_ITEMS>> =
        given(webhooks).and_then(|raw| serde_json::from_str(raw.get()).ok());
    let count = elements.as_ref().map_or(0, |elements| elements.count);
    if !(1..=MAX_BATCH_ITEMS).contains(&count) {
        let message = format!("must be an array of 1 to {MAX_BATCH_ITEMS} webhooks");
        field_errors.add("webhooks", message);
    }
    field_errors.check()?;
    let items = elements.map(|elements| elements.items).unwrap_or_default();
    let read = |(index, raw): (usize, &&RawValue)| {
        let name = format!("webhooks[{index}]");
        match Fields::of(raw) {
            Some(fields) => Submission::read(&app.context, &fields, &format!("{name}.")),
            None => Err(Problem::about(
                ProblemKind::InvalidFields,
                &name,
                "must be an object with url and payload",
            )),
        }
    };
    Ok(items.iter().enumerate().map(read).collect())
}

/// The IDs of the items that are settled, by index. All other items may be created with an ID that
/// derives from the key's. `None` means that another request has changed the key, so it must be
/// read again.
///
/// If the key's ID is too old, the ID of each item is barred before the key is renewed, and the key
/// remembers the items that exist. So no item is created with two IDs, whichever try dies, and
/// however many run at the same time.
async fn settle_items(
    app: &App,
    call: &Call,
    reserved: &mut ReservedKey,
    items: &Items,
) -> Result<Option<Vec<Option<TaskId>>>, Problem> {
    let known: Vec<Option<TaskId>> =
        (0..items.len()).map(|index| reserved.settled(index)).collect();
    if !reserved.is_too_old(app) {
        return Ok(Some(known));
    }
    let base = reserved.task();
    let calls = items.iter().zip(&known).enumerate().map(async |(index, (item, known))| {
        let (Ok(submission), None) = (item, known) else { return Ok(*known) };
        let task = base.nth(index);
        let settled = dispatch::settle(app, call, submission, task).await?;
        Ok(settled.map(|_| task))
    });
    let settled = dispatch::concurrently(calls.collect()).await;
    let settled = settled.into_iter().collect::<Result<Vec<_>, Problem>>()?;
    let all_settled =
        items.iter().zip(&settled).all(|(item, settled)| item.is_err() || settled.is_some());
    Ok((all_settled || reserved.renew(app, settled.clone()).await?).then_some(settled))
}

async fn accept_items(
    app: &App,
    call: &Call,
    items: &Items,
    id_of: impl Fn(usize) -> ItemId,
) -> Outcomes {
    let valid = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| Some((id_of(index), item.as_ref().ok()?)));
    dispatch::accept_batch(app, call, valid.collect()).await
}

#[derive(Serialize, ToSchema)]
struct BatchResults<'a> {
    #[schema(min_items = 1, max_items = 100)]
    results: Vec<BatchResult<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult<'a> {
    Accepted(Accepted<'a>),
    Refused {
        #[schema(value_type = schemas::Problem)]
        error: &'a Problem,
    },
}

/// The response, and whether a retry would get the same one. If the store failed for every valid
/// item, the whole request fails.
fn results(items: Items, outcomes: Outcomes) -> Result<(String, bool), Problem> {
    let any_valid = !outcomes.is_empty();
    if any_valid && outcomes.iter().all(Result::is_err) {
        let first = outcomes.into_iter().find_map(Result::err);
        return Err(first.unwrap_or_else(idempotency::contended));
    }
    let mut outcomes = outcomes.into_iter();
    let merged: Vec<Result<Webhook, Problem>> = items
        .into_iter()
        .map(|item| {
            item.and_then(|_| {
                outcomes.next().unwrap_or(Ok(None))?.ok_or_else(idempotency::contended)
            })
        })
        .collect();
    let failed: Vec<&Problem> =
        merged.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    if let Some(Cause(cause)) = failed.iter().find_map(|problem| problem.cause()) {
        let webhooks = failed.iter().filter(|problem| problem.cause().is_some()).count();
        tracing::error!(
            error = &**cause as &dyn Error,
            webhooks,
            "Could not store some webhooks of a batch"
        );
    }
    let is_final = !failed.iter().any(|problem| problem.is_transient());
    let results = merged.iter().map(|outcome| match outcome {
        Ok(webhook) => BatchResult::Accepted(Accepted::of(webhook)),
        Err(problem) => BatchResult::Refused { error: problem },
    });
    Ok((to_json(&BatchResults { results: results.collect() }), is_final))
}
