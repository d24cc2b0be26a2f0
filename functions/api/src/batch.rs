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
    problem::{Cause, Faults, Kind, Problem},
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
    responses((status = 202, description = "A result for each, in their order.", body = Results<'static>), errors::Body),
))]
pub(crate) async fn accept(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    query::none(parts.uri.query())?;
    let limit = max_body_bytes(&app).saturating_mul(MAX_ITEMS).min(MAX_BODY_BYTES);
    let body = read_json(&parts.headers, body, limit).await?;
    let items = read_items(&app, &fields::parse(&body, "must be an object with webhooks")?)?;
    let Some(key) = Key::of(&parts, &call, &body)? else {
        let outcomes = create_all(&app, &call, &items, app.mint(), Vec::new()).await;
        return results(items, outcomes).map(|(body, _)| answer(StatusCode::ACCEPTED, body));
    };
    for _ in 0..MAX_ROUNDS {
        let mut slot = match idempotency::begin(&app, &key).await? {
            Begun::Done(body) => return Ok(replayed(StatusCode::ACCEPTED, body)),
            Begun::Todo(slot) => slot,
        };
        let Some((base, found)) = resume(&app, &mut slot, &items).await? else { continue };
        let outcomes = create_all(&app, &call, &items, base, found).await;
        let (body, is_final) = results(items, outcomes)?;
        if is_final {
            slot.finish(&app, &body).await;
        }
        return Ok(answer(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

fn read_items(app: &App, fields: &Fields<'_>) -> Result<Items, Problem> {
    let mut faults = Faults::default();
    let [webhooks] = fields.pick(&["webhooks"], "", &mut faults);
    let elements: Option<Elements<'_, MAX_ITEMS>> = given(webhooks).and_then(|raw| serde_json::from_str(raw.get()).ok());
    let count = elements.as_ref().map_or(0, |elements| elements.count);
    if !(1..=MAX_ITEMS).contains(&count) {
        faults.add("webhooks", format!("must be an array of 1 to {MAX_ITEMS} webhooks"));
    }
    faults.check()?;
    let items = elements.map(|elements| elements.items).unwrap_or_default();
    let judge = |(index, raw): (usize, &&serde_json::value::RawValue)| {
        let name = format!("webhooks[{index}]");
        match Fields::of(raw) {
            Some(fields) => Submission::read(&app.context, &fields, &format!("{name}.")),
            None => Err(Problem::about(Kind::InvalidFields, &name, "must be an object with url and payload")),
        }
    };
    Ok(items.iter().enumerate().map(judge).collect())
}

/// What the ids of those that are still to be created derive from, and those that an earlier try has created. `None`: the key has to be
/// asked for again.
///
/// An old key of which some webhooks exist keeps them, and the others get fresh ids that it does not know: should this try die too, a
/// third one would create those again.
async fn resume(app: &App, slot: &mut Slot, items: &Items) -> Result<Option<(TaskId, Vec<Option<Webhook>>)>, Problem> {
    let base = slot.task();
    if !slot.is_stale(app) {
        return Ok(Some((base, Vec::new())));
    }
    let looks = items.iter().enumerate().map(|(index, item)| async move {
        match item {
            Ok(submission) => app.context.store.get(&submission.id(base.nth(index))).await,
            Err(_) => Ok(None),
        }
    });
    let found = dispatch::all(looks.collect()).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    if found.iter().any(Option::is_some) {
        return Ok(Some((app.mint(), found)));
    }
    Ok(slot.renew(app).await?.then(|| (slot.task(), found)))
}

/// Creates what was not found, and sends. Answers for each valid item, in their order.
async fn create_all(
    app: &App,
    call: &Call,
    items: &Items,
    base: TaskId,
    mut found: Vec<Option<Webhook>>,
) -> Vec<Result<Webhook, Problem>> {
    found.resize(items.len(), None);
    let valid =
        items.iter().zip(found).enumerate().filter_map(|(index, (item, found))| Some((index, item.as_ref().ok()?, found)));
    let creations = valid.map(|(index, submission, found)| async move {
        match found {
            Some(webhook) => Ok(webhook),
            None => dispatch::create(app, call, submission, base.nth(index)).await,
        }
    });
    let outcomes = dispatch::all(creations.collect()).await;
    let created = outcomes.iter().flatten();
    let unsent: Vec<&Webhook> = created.clone().filter(|webhook| dispatch::needs_message(webhook)).collect();
    dispatch::send(app, &unsent).await;
    created.for_each(log_accepted);
    outcomes
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

/// The answer, and whether it would be the same if it were asked for again. If the store took none of the valid ones, that is the
/// request's own failure.
fn results(items: Items, outcomes: Vec<Result<Webhook, Problem>>) -> Result<(String, bool), Problem> {
    let any_valid = !outcomes.is_empty();
    if any_valid && outcomes.iter().all(Result::is_err) {
        return Err(outcomes.into_iter().find_map(Result::err).unwrap_or_else(idempotency::contended));
    }
    let mut outcomes = outcomes.into_iter();
    let merged: Vec<Result<Webhook, Problem>> = items
        .into_iter()
        .map(|item| item.and_then(|_| outcomes.next().unwrap_or_else(|| Err(idempotency::contended()))))
        .collect();
    let failed: Vec<&Problem> = merged.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
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
