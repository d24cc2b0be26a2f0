//! Accepts what a request submits, once for each idempotency key: one webhook or message.
//! `accept_batch` accepts several.

use axum::response::Response;
use http::StatusCode;
use shared::id::TaskId;

use crate::{
    app::{App, Call},
    idempotency::{self, Key, KeyState, MAX_RESERVE_TRIES, ReservedKey},
    limits::{ENVELOPE_BYTES, MAX_BODY_BYTES},
    problem::{Problem, ProblemKind},
    respond,
};

/// A new ID is not free: something else has it, or it is barred. Only equal random bits can cause
/// that.
#[derive(Debug, thiserror::Error)]
#[error("the ID {0} is not free")]
pub(crate) struct IdTaken(pub(crate) TaskId);

/// What a request asks to accept: a webhook, or a message.
///
/// What is stored depends only on the submission and the ID, whose time is the creation time. So
/// each try of a request stores the same.
pub(crate) trait Submitted: Send + Sync {
    /// What was accepted.
    type Accepted: Send + Sync;

    /// Creates it with this ID.
    ///
    /// If it exists, an earlier try of the same request has created it, which is success too. That
    /// holds even if it was deleted since: the result is the record as it was created. `None` means
    /// that the ID is barred, because the idempotency key maps to another ID by now.
    fn create(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> impl Future<Output = Result<Option<Self::Accepted>, Problem>> + Send;

    /// What an earlier try of the request has created with an ID that is too old for a create.
    /// `None` means nothing. In that case the ID is barred, so that a create that is still in
    /// flight has no effect.
    fn settle(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> impl Future<Output = Result<Option<Self::Accepted>, Problem>> + Send;

    /// What an earlier try of the request has created with this ID. It may have been deleted since.
    fn existing(
        &self,
        app: &App,
        call: &Call,
        task: TaskId,
    ) -> impl Future<Output = Result<Self::Accepted, Problem>> + Send;

    /// Sends the queue messages of what one request has accepted. It has no error: what the queue
    /// refuses is sent by the sweep.
    fn enqueue(app: &App, accepted: &[&Self::Accepted]) -> impl Future<Output = ()> + Send;
}

/// The largest body of a request with one webhook or message.
pub(crate) fn max_body_bytes(app: &App) -> usize {
    (app.context.config.max_payload_bytes + ENVELOPE_BYTES).min(MAX_BODY_BYTES)
}

/// The store did not answer a create.
pub(crate) fn unknown_outcome() -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        "The store did not respond, so it is unknown whether the request was accepted. Send it \
         again. With the same Idempotency-Key, it is accepted only once.",
    )
}

/// Accepts one submission. `body` shapes the response from the parts of the record that never
/// change, so that every try of a request gets the same response.
pub(crate) async fn accept<S: Submitted>(
    app: &App,
    call: &Call,
    key: Option<&Key>,
    submission: &S,
    body: fn(&S::Accepted) -> String,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let task = app.mint();
        let created = submission.create(app, call, task).await?;
        let accepted = created.ok_or_else(|| unknown_outcome().because(IdTaken(task)))?;
        S::enqueue(app, &[&accepted]).await;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body(&accepted)));
    };
    for _ in 0..MAX_RESERVE_TRIES {
        let mut reserved = match idempotency::reserve(app, key).await? {
            KeyState::Answered(body) => {
                return Ok(idempotency::replay(StatusCode::ACCEPTED, body));
            }
            KeyState::Unanswered(reserved) => reserved,
        };
        let accepted = accept_reserved(app, call, submission, &mut reserved).await?;
        let Some(accepted) = accepted else { continue };
        S::enqueue(app, &[&accepted]).await;
        let body = body(&accepted);
        reserved.finish(app, &body).await;
        return Ok(respond::json_text(StatusCode::ACCEPTED, body));
    }
    Err(idempotency::contended())
}

/// Accepts a submission with the ID of the key. `None` means that another request has changed the
/// key, so it must be read again.
async fn accept_reserved<S: Submitted>(
    app: &App,
    call: &Call,
    submission: &S,
    reserved: &mut ReservedKey,
) -> Result<Option<S::Accepted>, Problem> {
    if reserved.is_too_old(app) {
        let settled = submission.settle(app, call, reserved.task()).await?;
        if settled.is_some() || !reserved.renew(app, Vec::new()).await? {
            return Ok(settled);
        }
    }
    submission.create(app, call, reserved.task()).await
}
