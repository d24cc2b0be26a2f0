//! Accepts up to 100 webhooks or messages, each on its own.

use std::error::Error;

use axum::response::Response;
use http::StatusCode;
use serde_json::value::RawValue;
use shared::id::TaskId;

use crate::{
    accept::{Submitted, max_body_bytes},
    app::{App, Call},
    dispatch,
    idempotency::{self, Key, KeyState, MAX_RESERVE_TRIES, ReservedKey},
    input::fields::{Elements, Fields, given},
    limits::{MAX_BATCH_ITEMS, MAX_BODY_BYTES},
    problem::{Cause, FieldErrors, Problem, ProblemKind},
    respond,
};

/// The items of a batch, in their order: valid submissions, and what is wrong with the others.
pub(crate) type Items<S> = Vec<Result<S, Problem>>;

/// For each item, in their order: what was accepted, or why it was refused.
pub(crate) type Results<S> = [Result<<S as Submitted>::Accepted, Problem>];

/// For each valid item, in their order: what was accepted, or `None` if its ID is barred.
type Outcomes<S> = Vec<Result<Option<<S as Submitted>::Accepted>, Problem>>;

/// The ID of one item of a batch.
#[derive(Clone, Copy)]
enum ItemId {
    /// The item is created with this ID, unless an earlier try of the request has done that.
    Create(TaskId),
    /// An earlier try has created the item with this ID. It may have been deleted since.
    Settled(TaskId),
}

/// The largest body of a batch.
pub(crate) fn max_batch_bytes(app: &App) -> usize {
    max_body_bytes(app).saturating_mul(MAX_BATCH_ITEMS).min(MAX_BODY_BYTES)
}

/// Reads the items of the field `name`. `item` reads one, whose fields have a prefix in errors.
/// `expected` completes "must be an object with ".
pub(crate) fn read_items<S>(
    fields: &Fields<'_>,
    name: &'static str,
    expected: &'static str,
    item: impl Fn(&Fields<'_>, &str) -> Result<S, Problem>,
) -> Result<Items<S>, Problem> {
    let mut field_errors = FieldErrors::default();
    let [array] = fields.pick(&[name], "", &mut field_errors);
    let elements: Option<Elements<'_, MAX_BATCH_ITEMS>> =
        given(array).and_then(|raw| serde_json::from_str(raw.get()).ok());
    let count = elements.as_ref().map_or(0, |elements| elements.count);
    if !(1..=MAX_BATCH_ITEMS).contains(&count) {
        field_errors.add(name, format!("must be an array of 1 to {MAX_BATCH_ITEMS} {name}"));
    }
    field_errors.check()?;
    let items = elements.map(|elements| elements.items).unwrap_or_default();
    let read = |(index, raw): (usize, &&RawValue)| {
        let name = format!("{name}[{index}]");
        let Some(fields) = Fields::of(raw) else {
            let message = format!("must be an object with {expected}");
            return Err(Problem::about(ProblemKind::InvalidFields, &name, message));
        };
        item(&fields, &format!("{name}."))
    };
    Ok(items.iter().enumerate().map(read).collect())
}

/// Accepts the valid items. `body` shapes the response, as for [`accept`](crate::accept::accept).
pub(crate) async fn accept_batch<S: Submitted>(
    app: &App,
    call: &Call,
    key: Option<&Key>,
    items: Items<S>,
    body: fn(&Results<S>) -> String,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let tasks = app.mint_batch(items.len());
        let outcomes = accept_items(app, call, &items, |index| ItemId::Create(tasks[index])).await;
        let (body, _) = response(items, outcomes, body)?;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    };
    for _ in 0..MAX_RESERVE_TRIES {
        let mut reserved = match idempotency::reserve(app, key).await? {
            KeyState::Answered(body) => {
                return Ok(idempotency::replay(StatusCode::ACCEPTED, body));
            }
            KeyState::Unanswered(reserved) => reserved,
        };
        let settled = settle_items(app, call, &mut reserved, &items).await?;
        let Some(settled) = settled else { continue };
        let id_of = |index: usize| match settled.get(index).copied().flatten() {
            Some(task) => ItemId::Settled(task),
            None => ItemId::Create(reserved.task().nth(index)),
        };
        let outcomes = accept_items(app, call, &items, id_of).await;
        if outcomes.iter().any(|outcome| matches!(outcome, Ok(None))) {
            // An ID is barred: another try has found it too old in the meantime.
            continue;
        }
        let (body, is_final) = response(items, outcomes, body)?;
        if is_final {
            reserved.finish(app, &body).await;
        }
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

/// The IDs of the items that are settled, by index. All other items may be created with an ID that
/// derives from the key's. `None` means that another request has changed the key, so it must be
/// read again.
///
/// If the key's ID is too old, the ID of each item is barred before the key is renewed, and the key
/// remembers the items that exist. So no item is created with two IDs, whichever try dies, and
/// however many run at the same time.
async fn settle_items<S: Submitted>(
    app: &App,
    call: &Call,
    reserved: &mut ReservedKey,
    items: &Items<S>,
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
        let settled = submission.settle(app, call, task).await?;
        Ok(settled.map(|_| task))
    });
    let settled = dispatch::concurrently(calls.collect()).await;
    let settled = settled.into_iter().collect::<Result<Vec<_>, Problem>>()?;
    let all_settled =
        items.iter().zip(&settled).all(|(item, settled)| item.is_err() || settled.is_some());
    Ok((all_settled || reserved.renew(app, settled.clone()).await?).then_some(settled))
}

/// Creates the valid items and sends their queue messages. The outcomes are in the order of the
/// items.
async fn accept_items<S: Submitted>(
    app: &App,
    call: &Call,
    items: &Items<S>,
    id_of: impl Fn(usize) -> ItemId,
) -> Outcomes<S> {
    let valid = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| Some((id_of(index), item.as_ref().ok()?)));
    let creations = valid.map(async |(id, submission)| match id {
        ItemId::Create(task) => submission.create(app, call, task).await,
        ItemId::Settled(task) => submission.existing(app, call, task).await.map(Some),
    });
    let outcomes = dispatch::concurrently(creations.collect()).await;
    let accepted: Vec<&S::Accepted> = outcomes.iter().flatten().flatten().collect();
    S::enqueue(app, &accepted).await;
    outcomes
}

/// The response, and whether a retry would get the same one. If the store failed for every valid
/// item, the whole request fails.
fn response<S: Submitted>(
    items: Items<S>,
    outcomes: Outcomes<S>,
    body: fn(&Results<S>) -> String,
) -> Result<(String, bool), Problem> {
    let any_valid = !outcomes.is_empty();
    if any_valid && outcomes.iter().all(Result::is_err) {
        let first = outcomes.into_iter().find_map(Result::err);
        return Err(first.unwrap_or_else(idempotency::contended));
    }
    let mut outcomes = outcomes.into_iter();
    let merged: Vec<Result<S::Accepted, Problem>> = items
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
        let items = failed.iter().filter(|problem| problem.cause().is_some()).count();
        tracing::error!(
            error = &**cause as &dyn Error,
            items,
            "Could not store some items of a batch"
        );
    }
    let is_final = !failed.iter().any(|problem| problem.is_transient());
    Ok((body(&merged), is_final))
}
