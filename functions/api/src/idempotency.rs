//! `Idempotency-Key`: a request that is repeated within 24 hours gets the response of the first
//! request and has no further effect.
//!
//! 1. *Reserve*: the key maps to a new task ID, which becomes the webhook's. A second request finds
//!    the ID of the first one.
//! 2. *Create* with that ID. If the webhook exists, an earlier try has created it, which is
//!    success.
//! 3. *Send* the message. A second message does no harm.
//! 4. *Finish*: the key maps to the response.
//!
//! A try can die after any step. The next try continues with the same ID, even while the first one
//! is still running.
//!
//! An ID that is older than [`Config::max_id_age`](shared::config::Config::max_id_age) is not
//! created any more, because the audit may have read its minute. The next try bars it
//! ([`Webhooks::tombstone_id`](shared::store::Webhooks::tombstone_id)), so that no create that is
//! still in flight takes effect. If no webhook had that ID, the key is renewed: it maps to a new
//! ID. For a batch, each item is settled in this way, and the key remembers the IDs of the items
//! that exist. So each item is created once, whichever try dies at whichever step.
//!
//! A deleted webhook stays deleted: the store remembers its ID for as long as a key may map to it.
//! A try that finds it deleted returns the response that the first try would have returned.
//!
//! A key belongs to its caller and to the path. Below `/applications/{application_id}/` it belongs
//! to the application instead of its caller, whichever key calls. For calls that create nothing
//! (resend, redrive, cleanup) the key maps to the response only. If the response is lost, a retry
//! runs the call again, which is harmless because of the call's own conditions.

pub(crate) mod sealed;

use std::error::Error;

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};
use sha2::{Digest, Sha256};
use shared::{
    applications::id::ApplicationId,
    clock::Timestamp,
    id::TaskId,
    planted::{self, Bug},
    store::{
        IDEMPOTENCY_TTL, ReplaceReservationError, Reservation, ReserveError, StoredReservation,
    },
};

use crate::{
    app::{App, Call},
    edge::auth::Caller,
    limits::MAX_IDEMPOTENCY_KEY_BYTES,
    problem::{Problem, ProblemKind},
    respond,
};

/// The request header.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of a response that is repeated.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The largest response that is stored for a key. It fits into one item of every store. A retry
/// whose response is larger (a batch with very many errors) runs again.
const MAX_STORED_RESPONSE_BYTES: usize = 256 * 1024;

/// How often a request reads its key again because another request has changed it.
pub(crate) const MAX_RESERVE_TRIES: u32 = 4;

/// The idempotency key of a request, as hashes.
#[derive(Debug)]
pub(crate) struct Key {
    stored: String,
    fingerprint: String,
}

impl Key {
    /// The key of the request, if it has one. A malformed key is a 400.
    pub(crate) fn of(parts: &Parts, call: &Call, body: &[u8]) -> Result<Option<Self>, Problem> {
        let owner = match &call.caller {
            Caller::Full(identity) => identity.hash(),
            // Neither reaches a route outside of an application that has keys.
            Caller::Key { .. } | Caller::Anonymous => return Err(Problem::internal()),
        };
        Self::owned(parts, owner, body)
    }

    /// The key of a request below `/applications/{application_id}/`, if it has one.
    pub(crate) fn within(
        application: &ApplicationId,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Option<Self>, Problem> {
        let owner = Sha256::new().chain_update("application/").chain_update(application.as_str());
        Self::owned(parts, owner.finalize().into(), body)
    }

    fn owned(parts: &Parts, owner: [u8; 32], body: &[u8]) -> Result<Option<Self>, Problem> {
        let Some(key) = presented(&parts.headers)? else { return Ok(None) };
        // Neither a path nor a query contains NUL, so different requests have different inputs.
        let stored = Sha256::new()
            .chain_update(owner)
            .chain_update(parts.uri.path())
            .chain_update([0])
            .chain_update(key);
        let query = parts.uri.query().unwrap_or_default();
        let fingerprint = Sha256::new().chain_update(query).chain_update([0]).chain_update(body);
        Ok(Some(Self {
            stored: hex::encode(stored.finalize()),
            fingerprint: hex::encode(fingerprint.finalize()),
        }))
    }
}

fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    if values.next().is_some()
        || !(1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len())
        || !key.iter().all(u8::is_ascii_graphic)
    {
        let message = format!(
            "must be sent once, with 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters"
        );
        return Err(Problem::about(ProblemKind::BadRequest, "Idempotency-Key", message));
    }
    Ok(Some(key))
}

/// What a key maps to.
#[derive(Debug)]
pub(crate) enum KeyState {
    /// An earlier request has finished with this response.
    Answered(String),
    /// The request is to be run with the ID of this reservation.
    Unanswered(ReservedKey),
}

/// A key that maps to an ID. Several tries of the same request may have it at a time.
#[derive(Debug)]
pub(crate) struct ReservedKey {
    key: String,
    reserved: StoredReservation,
    /// Whether an earlier try of the same request may have done the work already.
    tried_before: bool,
}

/// Reserves the key, or reads what it maps to. If it belongs to a different request, that is a 409.
pub(crate) async fn reserve(app: &App, key: &Key) -> Result<KeyState, Problem> {
    let ours = new_reservation(app, key.fingerprint.clone());
    let unanswered = |reserved, tried_before| {
        KeyState::Unanswered(ReservedKey { key: key.stored.clone(), reserved, tried_before })
    };
    let existing = match app.context.store.reserve(&key.stored, &ours).await {
        Ok(reserved) => return Ok(unanswered(reserved, false)),
        Err(ReserveError::Taken(existing)) => *existing,
        Err(ReserveError::Store(error)) => return Err(error.into()),
    };
    if existing.reservation.fingerprint != key.fingerprint {
        return Err(Problem::new(
            ProblemKind::KeyReused,
            "This Idempotency-Key was used for a different request in the last 24 hours. Use a \
             new key for each request.",
        ));
    }
    if let Some(answer) = existing.reservation.answer {
        return Ok(KeyState::Answered(answer));
    }
    if planted::is(Bug::KeyMintsNewId) {
        return Ok(unanswered(StoredReservation { reservation: ours, ..existing }, false));
    }
    Ok(unanswered(existing, true))
}

/// Whether an earlier try of the same request may have stored something under the key. If the key
/// belongs to a different request, [`reserve`] tells.
pub(crate) async fn is_reserved(app: &App, key: &Key) -> Result<bool, Problem> {
    Ok(app.context.store.reservation(&key.stored).await?.is_some())
}

fn new_reservation(app: &App, fingerprint: String) -> Reservation {
    let task = app.mint();
    Reservation {
        task,
        settled: Vec::new(),
        fingerprint,
        answer: None,
        expires_at: task.created_at().plus(IDEMPOTENCY_TTL),
    }
}

impl ReservedKey {
    /// The ID of the webhook. For a batch, the IDs of the items derive from it.
    pub(crate) const fn task(&self) -> TaskId {
        self.reserved.reservation.task
    }

    /// When the first try started.
    fn reserved_at(&self) -> Timestamp {
        self.task().created_at()
    }

    /// Whether the ID is too old for a create.
    pub(crate) fn is_too_old(&self, app: &App) -> bool {
        app.now().since(self.reserved_at()) > app.context.config.max_id_age()
    }

    /// The ID of a batch's item, if the item was settled with an ID that the key mapped to before.
    pub(crate) fn settled(&self, index: usize) -> Option<TaskId> {
        self.reserved.reservation.settled.get(index).copied().flatten()
    }

    /// Maps the key to a new ID. Items with a `settled` ID keep that one. Returns whether
    /// the key was renewed. If not, another request has changed it, and it must be read again.
    pub(crate) async fn renew(
        &mut self,
        app: &App,
        mut settled: Vec<Option<TaskId>>,
    ) -> Result<bool, Problem> {
        settled.truncate(settled.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        if planted::is(Bug::SettledForgotten) {
            settled.clear();
        }
        let fingerprint = self.reserved.reservation.fingerprint.clone();
        let renewed = Reservation { settled, ..new_reservation(app, fingerprint) };
        let store = &app.context.store;
        match store.replace_reservation(&self.key, &self.reserved, &renewed).await {
            Ok(reserved) => {
                self.reserved = reserved;
                Ok(true)
            }
            Err(ReplaceReservationError::Changed | ReplaceReservationError::Missing) => Ok(false),
            Err(ReplaceReservationError::Store(error)) => Err(error.into()),
        }
    }

    /// Maps the key to the response. The work is done by now, so a failure is only logged:
    /// a retry runs the request again and finds the work done.
    pub(crate) async fn finish(self, app: &App, answer: &str) {
        if answer.len() > MAX_STORED_RESPONSE_BYTES {
            return;
        }
        let earlier = self.reserved.reservation.clone();
        let done = Reservation { answer: Some(answer.to_owned()), ..earlier };
        let store = &app.context.store;
        // If the store refuses the write, another try has finished with the same response.
        if let Err(ReplaceReservationError::Store(error)) =
            store.replace_reservation(&self.key, &self.reserved, &done).await
        {
            tracing::warn!(
                error = &error as &dyn Error,
                "Could not store the response for an idempotency key. A retry will run the request \
                 again."
            );
        }
    }
}

/// Other requests have changed the key [`MAX_RESERVE_TRIES`] times.
pub(crate) fn contended() -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        "Another request with this Idempotency-Key is in progress. Try again shortly.",
    )
}

/// Runs a call that creates nothing, once if it has a key. `run` returns the response's body. Its
/// argument is when an earlier try of the same request began, if there was one: that try may have
/// done the work already.
pub(crate) async fn once(
    app: &App,
    key: Option<Key>,
    status: StatusCode,
    run: impl AsyncFnOnce(Option<Timestamp>) -> Result<String, Problem>,
) -> Result<Response, Problem> {
    let Some(key) = key else { return Ok(respond::json_text(status, run(None).await?)) };
    let reserved = match reserve(app, &key).await? {
        KeyState::Answered(body) => return Ok(replay(status, body)),
        KeyState::Unanswered(reserved) => reserved,
    };
    let tried_at = reserved.tried_before.then(|| reserved.reserved_at());
    let body = run(tried_at).await?;
    reserved.finish(app, &body).await;
    Ok(respond::json_text(status, body))
}

/// A response that an earlier request has got.
pub(crate) fn replay(status: StatusCode, body: String) -> Response {
    let mut response = respond::json_text(status, body);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
