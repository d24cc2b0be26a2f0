//! The two steps of accepting a webhook: create its record, then send its message to the queue.
//! [`enqueue`] states what happens if the second step fails.

use std::{error::Error, time::Duration};

use futures_util::{StreamExt, stream};
use shared::{
    apply::apply,
    id::TaskId,
    logging::webhook_span,
    message::Message,
    model::{Function, Webhook, Why},
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, Outgoing},
    status::Status,
    store::{CreateError, IdState, StoreError, Tombstone},
};
use tracing::Instrument;

use crate::{
    accept::{IdTaken, Submitted, unknown_outcome},
    app::{App, Call},
    input::submission::Submission,
    problem::Problem,
};

/// The concurrent store and queue calls of one request.
const MAX_CONCURRENT_CALLS: usize = 50;

/// A webhook. Without a due time it is pending at once, and its message is sent.
impl Submitted for Submission {
    type Accepted = Webhook;

    async fn create(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> Result<Option<Webhook>, Problem> {
        let webhook = record(app, call, self, task);
        match app.context.store.create(&webhook, &self.content).await {
            Ok(()) | Err(CreateError::Tombstone(Tombstone::Deleted)) => Ok(Some(webhook)),
            Err(CreateError::Conflict(existing)) if existing.id == webhook.id => {
                Ok(Some(*existing))
            }
            Err(CreateError::Conflict(_)) => Err(unknown_outcome().because(IdTaken(task))),
            Err(CreateError::Tombstone(Tombstone::Unused)) => Ok(None),
            Err(CreateError::Store(error @ StoreError::Unavailable(_))) => {
                Err(unknown_outcome().because(error))
            }
            Err(CreateError::Store(error)) => Err(error.into()),
        }
    }

    async fn settle(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> Result<Option<Webhook>, Problem> {
        let id = self.id(task);
        let state = app.context.store.tombstone_id(&id).await?;
        if planted::is(Bug::DeletedIsNew) && matches!(state, IdState::Tombstone(_)) {
            return Ok(None);
        }
        match state {
            IdState::Webhook(webhook) if webhook.id == id => Ok(Some(*webhook)),
            IdState::Webhook(_) => Err(unknown_outcome().because(IdTaken(task))),
            IdState::Tombstone(Tombstone::Deleted) => Ok(Some(record(app, call, self, task))),
            IdState::Tombstone(Tombstone::Unused) => Ok(None),
        }
    }

    async fn existing(&self, app: &App, call: &Call, task: TaskId) -> Result<Webhook, Problem> {
        let existing = app.context.store.get(&self.id(task)).await?;
        Ok(existing.unwrap_or_else(|| record(app, call, self, task)))
    }

    /// A webhook in the due index has no message: the sweep sends it when it is due. A webhook that
    /// a worker has seen needs none any more.
    async fn enqueue(app: &App, accepted: &[&Webhook]) {
        let queued = accepted
            .iter()
            .copied()
            .filter(|webhook| webhook.status == Status::Pending && webhook.due_at.is_none());
        enqueue(app, &queued.collect::<Vec<_>>()).await;
        for webhook in accepted {
            // At debug level: at thousands of webhooks a second, the log would cost more than the
            // work itself.
            tracing::debug!(webhook_id = %webhook.id, "Accepted webhook");
        }
    }
}

/// The record of a new webhook with this ID.
fn record(app: &App, call: &Call, submission: &Submission, task: TaskId) -> Webhook {
    app.context.rules.create(submission.to_new(task, call), task.created_at())
}

/// Sends a message for each webhook.
///
/// # If the queue refuses a message
///
/// The webhook exists, so the caller still gets its 202:
///
/// 1. The webhook enters the due index with the current time ([`adopt`]), and the next sweep sends
///    its message. A queue outage delays webhooks, it does not refuse or lose them.
/// 2. If that write fails too, or if this process dies before it, the audit finds the webhook: it
///    lists young webhooks and adopts each one that is unfinished. A resent or redriven webhook is
///    in the due index already.
///
/// So this function has no error.
pub(crate) async fn enqueue(app: &App, webhooks: &[&Webhook]) {
    let batches = webhooks.chunks(MAX_BATCH).map(|batch| send_batch(app, batch));
    let refused = concurrently(batches.collect()).await.into_iter().flatten();
    let adoptions = refused.map(|webhook| {
        // A webhook that is resent has its own correlation ID.
        adopt(app, webhook).instrument(webhook_span(webhook, None))
    });
    concurrently(adoptions.collect()).await;
}

/// Makes one queue call. Returns the webhooks whose messages the queue refused.
async fn send_batch<'a>(app: &App, webhooks: &[&'a Webhook]) -> Vec<&'a Webhook> {
    let messages: Vec<Outgoing> = webhooks
        .iter()
        .map(|webhook| Outgoing {
            body: Message::with_seen(webhook).to_json(),
            delay: Duration::ZERO,
            group: webhook.fairness_group().to_owned(),
        })
        .collect();
    let Err(error) = app.context.queue.send(Lane::Webhooks, &messages).await else {
        return Vec::new();
    };
    let refused: Vec<_> =
        error.failed.iter().filter_map(|index| webhooks.get(*index).copied()).collect();
    tracing::warn!(
        error = &error as &dyn Error,
        webhooks = refused.len(),
        "Could not send messages to the queue. The sweep will send them."
    );
    refused
}

/// Puts a webhook into the due index, so that the next sweep sends its message.
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
        tracing::error!(
            error = &error as &dyn Error,
            "Could not write the webhook to the due index after the queue refused its message. \
             The audit will find it."
        );
    }
}

/// Runs these calls, at most [`MAX_CONCURRENT_CALLS`] at a time. The results are in the order of
/// the calls.
pub(crate) async fn concurrently<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    // A request whose messages were all sent adopts nothing. An empty stream costs allocations.
    if calls.is_empty() {
        return Vec::new();
    }
    stream::iter(calls).buffered(MAX_CONCURRENT_CALLS).collect().await
}
