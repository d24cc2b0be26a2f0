//! `POST /webhooks/batch`: up to 100 webhooks, each judged on its own.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use shared::{id::TaskId, model::Webhook};

#[cfg(feature = "openapi")]
use crate::openapi::{errors, parameters, schemas};
use crate::{
    accept::{log_accepted, max_body_bytes},
    app::{App, Call},
    body::{MAX_BODY_BYTES, read_json},
    dispatch,
    fields::{self, Elements, Fields, given},
    idempotency::{self, Begun, Key, MAX_ROUNDS, Slot, answer, replayed},
    problem::{Cause, FieldErrors, Kind, Problem},
    query,
    submission::Submission,
    view::{self, Accepted},
};

/// Webhooks in one batch.
pub(crate) const MAX_ITEMS: usize = 100;

type Items = Vec<Result<Submission, Problem>>;

#[cfg_attr(feature = "openapi", utoipa::path(
    post, path = "/webhooks/batch", tag = "Webhooks", operation_id = "accept_batch",
    summary = "Accept up to 100 webhooks",
    params(parameters::IdempotencyKey, parameters::TraceParent, parameters::TraceState),
    request_body = schemas::NewBatch,
    responses((status = 202, description = "A result for each, in their order.",
        body = Results<'static>), errors::Body),
))]
pub(crate) async fn accept(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let limit = max_body_bytes(&app).saturating_mul(MAX_ITEMS).min(MAX_BODY_BYTES);
    let (body, _room) = read_json(&app, &call, &parts.headers, body, limit).await?;
    let items = read_items(&app, &fields::parse(&body, "must be an object with webhooks")?)?;
    let key = Key::of(&parts, &call, &body)?;
    // The payloads were copied from it.
    drop(body);
    let Some(key) = key else {
        let base = app.mint();
        let outcomes = create_all(&app, &call, &items, |index| Placed::New(base.nth(index))).await;
        return results(items, outcomes).map(|(body, _)| answer(StatusCode::ACCEPTED, body));
    };
    for _ in 0..MAX_ROUNDS {
        let mut slot = match idempotency::begin(&app, &key).await? {
            Begun::Done(body) => return Ok(replayed(StatusCode::ACCEPTED, body)),
            Begun::Todo(slot) => slot,
        };
        let Some(settled) = resume(&app, &call, &mut slot, &items).await? else { continue };
        let place = |index: usize| match settled.get(index).copied().flatten() {
            Some(task) => Placed::Settled(task),
            None => Placed::New(slot.task().nth(index)),
        };
        let outcomes = create_all(&app, &call, &items, place).await;
        if outcomes.iter().any(|outcome| matches!(outcome, Ok(None))) {
            // Barred: another try has found the id too old meanwhile.
            continue;
        }
        let (body, is_final) = results(items, outcomes)?;
        if is_final {
            slot.finish(&app, &body).await;
        }
        return Ok(answer(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

fn read_items(app: &App, fields: &Fields<'_>) -> Result<Items, Problem> {
    let mut field_errors = FieldErrors::default();
    let [webhooks] = fields.pick(&["webhooks"], "", &mut field_errors);
    let elements: Option<Elements<'_, MAX_ITEMS>> =
        given(webhooks).and_then(|raw| serde_json::from_str(raw.get()).ok());
    let count = elements.as_ref().map_or(0, |elements| elements.count);
    if !(1..=MAX_ITEMS).contains(&count) {
        field_errors.add("webhooks", format!("must be an array of 1 to {MAX_ITEMS} webhooks"));
    }
    field_errors.check()?;
    let items = elements.map(|elements| elements.items).unwrap_or_default();
    let judge = |(index, raw): (usize, &&serde_json::value::RawValue)| {
        let name = format!("webhooks[{index}]");
        match Fields::of(raw) {
            Some(fields) => Submission::read(&app.context, &fields, &format!("{name}.")),
            None => Err(Problem::about(
                Kind::InvalidFields,
                &name,
                "must be an object with url and payload",
            )),
        }
    };
    Ok(items.iter().enumerate().map(judge).collect())
}

/// Under which id an item is made.
#[derive(Clone, Copy)]
enum Placed {
    /// This one; it may exist already.
    New(TaskId),
    /// An earlier id has settled it: it exists, or was deleted.
    Settled(TaskId),
}

/// The ids of the items that are settled, by item; all others may be created under the slot's id.
/// `None`: the key has to be asked for again.
///
/// An id that is too old is barred for each item before the key is made to stand for a new one, and
/// the key remembers those that it had settled. So whatever dies in between, and whoever else is at
/// it, no item is created under two ids.
async fn resume(
    app: &App,
    call: &Call,
    slot: &mut Slot,
    items: &Items,
) -> Result<Option<Vec<Option<TaskId>>>, Problem> {
    let known: Vec<Option<TaskId>> = (0..items.len()).map(|index| slot.settled(index)).collect();
    if !slot.is_stale(app) {
        return Ok(Some(known));
    }
    let base = slot.task();
    let looks = items.iter().zip(&known).enumerate().map(|(index, (item, known))| async move {
        match (item, known) {
            (Ok(submission), None) => {
                let task = base.nth(index);
                dispatch::settled(app, call, submission, task)
                    .await
                    .map(|found| found.map(|_| task))
            }
            _ => Ok(*known),
        }
    });
    let settled =
        dispatch::all(looks.collect()).await.into_iter().collect::<Result<Vec<_>, Problem>>()?;
    let is_whole =
        items.iter().zip(&settled).all(|(item, settled)| item.is_err() || settled.is_some());
    Ok((is_whole || slot.renew(app, settled.clone()).await?).then_some(settled))
}

/// Creates what is not settled, and sends. Answers for each valid item, in their order; `None`
/// where the id is barred.
async fn create_all(
    app: &App,
    call: &Call,
    items: &Items,
    place: impl Fn(usize) -> Placed,
) -> Vec<Result<Option<Webhook>, Problem>> {
    let valid = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| Some((place(index), item.as_ref().ok()?)));
    let creations = valid.map(|(placed, submission)| make(app, call, submission, placed));
    let outcomes = dispatch::all(creations.collect()).await;
    let created = outcomes.iter().flatten().flatten();
    let unsent: Vec<&Webhook> =
        created.clone().filter(|webhook| dispatch::needs_message(webhook)).collect();
    dispatch::send(app, &unsent).await;
    created.for_each(log_accepted);
    outcomes
}

async fn make(
    app: &App,
    call: &Call,
    submission: &Submission,
    placed: Placed,
) -> Result<Option<Webhook>, Problem> {
    match placed {
        Placed::New(task) => dispatch::create(app, call, submission, task).await,
        Placed::Settled(task) => {
            let found = app.context.store.get(&submission.id(task)).await?;
            Ok(Some(found.unwrap_or_else(|| dispatch::as_created(app, call, submission, task))))
        }
    }
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = BatchResults))]
struct Results<'a> {
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 100))]
    results: Vec<Verdict<'a>>,
}

#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = BatchResult))]
#[serde(untagged)]
enum Verdict<'a> {
    Accepted(Accepted<'a>),
    Refused {
        #[cfg_attr(feature = "openapi", schema(value_type = schemas::Problem))]
        error: &'a Problem,
    },
}

/// The answer, and whether it would be the same if it were asked for again. If the store took none
/// of the valid ones, that is the request's own failure.
fn results(
    items: Items,
    outcomes: Vec<Result<Option<Webhook>, Problem>>,
) -> Result<(String, bool), Problem> {
    let any_valid = !outcomes.is_empty();
    if any_valid && outcomes.iter().all(Result::is_err) {
        return Err(outcomes
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(idempotency::contended));
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
        let error = &**cause as &(dyn std::error::Error + 'static);
        let webhooks = failed.iter().filter(|problem| problem.cause().is_some()).count();
        tracing::error!(error, webhooks, "Some webhooks of a batch could not be stored");
    }
    let is_final = !failed.iter().any(|problem| problem.is_passing());
    let verdicts = merged.iter().map(|outcome| match outcome {
        Ok(webhook) => Verdict::Accepted(Accepted::of(webhook)),
        Err(problem) => Verdict::Refused { error: problem },
    });
    Ok((view::to_json(&Results { results: verdicts.collect() }), is_final))
}
