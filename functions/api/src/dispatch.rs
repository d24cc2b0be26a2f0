//! The two steps of accepting: create, then send. And what happens when the second one fails: the
//! webhook enters the due index, so a queue outage delays and does not refuse.

use futures_util::{StreamExt, stream};
use shared::{
    apply::apply,
    id::TaskId,
    message::Message,
    model::{Function, Webhook, Why},
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, Outgoing},
    status::Status,
    store::{CreateError, IdState, StoreError, Tombstone},
};
use std::time::Duration;

use crate::{
    app::{App, Call},
    problem::{Kind, Problem},
    submission::Submission,
};

/// Store and queue calls of one request that are under way at a time.
pub(crate) const MAX_CONCURRENT_CALLS: usize = 50;

/// Two webhooks were given the same random id, or an id was guessed.
#[derive(Debug, thiserror::Error)]
#[error("the id {0} is another webhook's")]
struct IdTaken(TaskId);

/// The webhook exists from now on, under this id. That it existed before is success too: then an
/// earlier try of the same request had got that far; then it may have been deleted since, and stays
/// so: the answer is the record as it was made, and a message for it finds nothing. `None`: the id
/// is barred, since the key that it was made under stands for another one by now.
///
/// The record follows from the submission and the id alone (its time is the id's), so each try of a
/// request makes the same one.
pub(crate) async fn create(
    app: &App,
    call: &Call,
    submission: &Submission,
    task: TaskId,
) -> Result<Option<Webhook>, Problem> {
    let webhook = as_created(app, call, submission, task);
    match app.context.store.create(&webhook, &submission.content).await {
        Ok(()) | Err(CreateError::Tombstone(Tombstone::Deleted)) => Ok(Some(webhook)),
        Err(CreateError::Conflict(existing)) if existing.id == webhook.id => Ok(Some(*existing)),
        Err(CreateError::Conflict(_)) => Err(unknown_fate().because(IdTaken(task))),
        Err(CreateError::Tombstone(Tombstone::Unused)) => Ok(None),
        Err(CreateError::Store(error @ StoreError::Unavailable(_))) => {
            Err(unknown_fate().because(error))
        }
        Err(CreateError::Store(error)) => Err(error.into()),
    }
}

/// A webhook under an id that nothing else can have been created under.
pub(crate) async fn create_new(
    app: &App,
    call: &Call,
    submission: &Submission,
) -> Result<Webhook, Problem> {
    let task = app.mint();
    create(app, call, submission, task).await?.ok_or_else(|| unknown_fate().because(IdTaken(task)))
}

/// What an earlier try has made under an id that is too old to be created; as it was made, if it
/// was deleted since. `None`: nothing, and nothing will be.
pub(crate) async fn settled(
    app: &App,
    call: &Call,
    submission: &Submission,
    task: TaskId,
) -> Result<Option<Webhook>, Problem> {
    let id = submission.id(task);
    match app.context.store.tombstone_id(&id).await? {
        IdState::Webhook(webhook) if webhook.id == id => Ok(Some(*webhook)),
        IdState::Webhook(_) => Err(unknown_fate().because(IdTaken(task))),
        IdState::Tombstone(Tombstone::Deleted) if !planted::is(Bug::DeletedIsNew) => {
            Ok(Some(as_created(app, call, submission, task)))
        }
        IdState::Tombstone(_) => Ok(None),
    }
}

/// The record as it was made under this id, or is to be.
pub(crate) fn as_created(app: &App, call: &Call, submission: &Submission, task: TaskId) -> Webhook {
    app.context.rules.create(submission.to_new(task, call), task.created_at())
}

fn unknown_fate() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "The store did not answer, so whether the webhook was accepted is not known. Send it \
         again; with the same Idempotency-Key it is accepted only once.",
    )
}

/// Whether a webhook that was just created, or found to be, is held by a message: not if it stands
/// in the due index, and no more once a worker has seen it.
pub(crate) fn needs_message(webhook: &Webhook) -> bool {
    webhook.status == Status::Pending && webhook.due_at.is_none()
}

/// Sends a message for each. Where the queue does not take it, the webhook is due now and the sweep
/// sends it.
///
/// There is no error: if the store fails too, the webhook is young and the audit finds it, or it
/// stands in the due index already (resend, redrive).
pub(crate) async fn send(app: &App, webhooks: &[&Webhook]) {
    let batches = webhooks.chunks(MAX_BATCH).map(|batch| send_batch(app, batch));
    let unsent = all(batches.collect()).await.into_iter().flatten();
    all(unsent.map(|webhook| adopt(app, webhook)).collect()).await;
}

/// Runs these, at most [`MAX_CONCURRENT_CALLS`] at a time; answers in their order.
pub(crate) async fn all<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    stream::iter(calls).buffered(MAX_CONCURRENT_CALLS).collect().await
}

/// One call of the queue. Answers with those that it did not take.
async fn send_batch<'a>(app: &App, webhooks: &[&'a Webhook]) -> Vec<&'a Webhook> {
    let messages: Vec<Outgoing> = webhooks
        .iter()
        .map(|webhook| Outgoing {
            body: Message::with_seen(webhook).to_json(),
            delay: Duration::ZERO,
            group: webhook.destination.clone(),
        })
        .collect();
    match app.context.queue.send(Lane::Webhooks, &messages).await {
        Ok(()) => Vec::new(),
        Err(error) => {
            let unsent: Vec<_> =
                error.failed.iter().filter_map(|index| webhooks.get(*index).copied()).collect();
            let error = &error as &(dyn std::error::Error + 'static);
            tracing::warn!(
                error,
                webhooks = unsent.len(),
                "The queue did not take webhooks; the sweep will send them"
            );
            unsent
        }
    }
}

async fn adopt(app: &App, webhook: &Webhook) {
    if planted::is(Bug::UnsentNotHeld) {
        return;
    }
    let now = app.now();
    let rules = &app.context.rules;
    let adopted = apply(&*app.context.store, webhook.clone(), |seen| {
        rules.adopt(seen, now, (Function::Api, Why::Unsent), now)
    });
    if let Err(error) = adopted.await {
        let (correlation_id, webhook_id) = (&*webhook.correlation_id, &webhook.id);
        let error = &error as &(dyn std::error::Error + 'static);
        tracing::error!(
            error, correlation_id, %webhook_id,
            "[{correlation_id}] Neither the queue nor the due index took the webhook; the audit \
             will find it"
        );
    }
}
