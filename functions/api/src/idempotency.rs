//! `Idempotency-Key`: a request that is sent again within 24 h is answered as the first was, and
//! does nothing.
//!
//! 1. *Reserve*: the key stands for a task id from now on, the webhook's. Whoever comes second
//!    finds the first one's.
//! 2. *Create* with that id. Finding it there is success: an earlier try got that far.
//! 3. *Send*. A message that is sent twice does no harm.
//! 4. *Finish*: the key stands for the answer.
//!
//! A try may die after any step; the next one goes on with the same id, also while the first is
//! still at it. Only an id of more than [`Config::max_id_age`](shared::config::Config::max_id_age)
//! is not created any more, since the audit may have read its minute: it is barred
//! ([`Store::tombstone_id`](shared::store::Store::tombstone_id)), so that no create that is still under way takes
//! effect, and if there was no webhook under it the key is made to stand for a new id. Of a batch
//! each item is judged so, and the key remembers the ids of those that the old id had settled. So
//! each item is created once, whichever try dies where.
//!
//! A webhook that was deleted stays deleted: the store remembers its id for as long as a key may
//! stand for it, and a try that finds it deleted answers what the first one would have.
//!
//! A key belongs to its caller and to the path. Of the calls that accept nothing (resend, redrive,
//! cleanup) the answer is remembered too; if it was lost, they are done again, which their own
//! conditions make harmless.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use sha2::{Digest, Sha256};
use shared::{
    clock::Timestamp,
    id::TaskId,
    planted::{self, Bug},
    store::{
        IDEMPOTENCY_TTL, ReplaceReservationError, Reservation, ReserveError, StoredReservation,
    },
};

use crate::{
    app::{App, Call},
    auth::Caller,
    problem::{Kind, Problem},
};

/// The header of the request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key.
pub(crate) const MAX_KEY_BYTES: usize = 255;

/// The largest answer that is remembered, below what every store takes as one item. What is larger
/// (a batch with very many errors) is made again when it is asked for again.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// How often a key is asked for again because somebody else changed it just then.
pub(crate) const MAX_ROUNDS: u32 = 4;

/// A request's key, as it is stored.
#[derive(Debug)]
pub(crate) struct Key {
    stored: String,
    fingerprint: String,
}

impl Key {
    /// The key that the request bears, if it does; 400 if it is not 1 to 255 visible ASCII
    /// characters.
    pub(crate) fn of(parts: &Parts, call: &Call, body: &[u8]) -> Result<Option<Self>, Problem> {
        let Some(key) = presented(&parts.headers)? else { return Ok(None) };
        let caller = match call.caller {
            Caller::Known(hash) => hash,
            Caller::Anonymous => [0; 32],
        };
        // No path and no query holds a NUL, so no two requests run into one another.
        let stored = Sha256::new()
            .chain_update(caller)
            .chain_update(parts.uri.path())
            .chain_update([0])
            .chain_update(key);
        let query = parts.uri.query().unwrap_or_default();
        let fingerprint = Sha256::new().chain_update(query).chain_update([0]).chain_update(body);
        Ok(Some(Self {
            stored: hex(&stored.finalize()),
            fingerprint: hex(&fingerprint.finalize()),
        }))
    }
}

fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    if values.next().is_some()
        || !(1..=MAX_KEY_BYTES).contains(&key.len())
        || !key.iter().all(u8::is_ascii_graphic)
    {
        let message =
            format!("must be given once, with 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Problem::about(Kind::BadRequest, "Idempotency-Key", message));
    }
    Ok(Some(key))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// What a key turned out to be.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Done before; this was the answer.
    Done(String),
    /// To be done, under this id.
    Todo(Slot),
}

/// The right to do what a key stands for; several tries may hold it at a time.
#[derive(Debug)]
pub(crate) struct Slot {
    key: String,
    reserved: StoredReservation,
    /// Whether an earlier try of the same request may have done it already.
    pub(crate) tried_before: bool,
}

/// Reserves the key, or finds what it stands for; 409 if that is another request.
pub(crate) async fn begin(app: &App, key: &Key) -> Result<Begun, Problem> {
    let ours = reservation(app, key.fingerprint.clone());
    let slot = |reserved, tried_before| Slot { key: key.stored.clone(), reserved, tried_before };
    let theirs = match app.context.store.reserve(&key.stored, &ours).await {
        Ok(reserved) => return Ok(Begun::Todo(slot(reserved, false))),
        Err(ReserveError::Taken(theirs)) => *theirs,
        Err(ReserveError::Store(error)) => return Err(error.into()),
    };
    if theirs.reservation.fingerprint != key.fingerprint {
        return Err(Problem::new(
            Kind::KeyReused,
            "This Idempotency-Key was sent with another request in the last 24 hours; use a new \
             key for each.",
        ));
    }
    if let Some(answer) = theirs.reservation.answer {
        return Ok(Begun::Done(answer));
    }
    if planted::is(Bug::KeyMintsNewId) {
        return Ok(Begun::Todo(slot(StoredReservation { reservation: ours, ..theirs }, false)));
    }
    Ok(Begun::Todo(slot(theirs, true)))
}

fn reservation(app: &App, fingerprint: String) -> Reservation {
    let task = app.mint();
    Reservation {
        task,
        settled: Vec::new(),
        fingerprint,
        answer: None,
        expires_at: task.created_at().plus(IDEMPOTENCY_TTL),
    }
}

impl Slot {
    /// The id that the webhook has; for a batch, what its items' ids derive from.
    pub(crate) const fn task(&self) -> TaskId {
        self.reserved.reservation.task
    }

    /// When the first try began.
    pub(crate) fn began_at(&self) -> Timestamp {
        self.task().created_at()
    }

    /// Whether nothing may be created under its id any more.
    pub(crate) fn is_stale(&self, app: &App) -> bool {
        app.now().since(self.began_at()) > app.context.config.max_id_age()
    }

    /// The id of a batch's item, if one that the key stood for before has settled it.
    pub(crate) fn settled(&self, index: usize) -> Option<TaskId> {
        self.reserved.reservation.settled.get(index).copied().flatten()
    }

    /// Makes the key stand for a new id, under which nothing is created that was settled. Whether
    /// it did: else somebody else was first, and the key has to be asked for again.
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
        let renewed = Reservation { settled, ..reservation(app, fingerprint) };
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

    /// Makes the key stand for the answer. What was asked for is done by now, so a failure is only
    /// logged: the next try finds it.
    pub(crate) async fn finish(self, app: &App, answer: &str) {
        if answer.len() > MAX_ANSWER_BYTES {
            return;
        }
        let earlier = self.reserved.reservation.clone();
        let done = Reservation { answer: Some(answer.to_owned()), ..earlier };
        let store = &app.context.store;
        // If it is refused, another try has finished, with the same answer.
        if let Err(ReplaceReservationError::Store(error)) =
            store.replace_reservation(&self.key, &self.reserved, &done).await
        {
            let error = &error as &(dyn std::error::Error + 'static);
            tracing::warn!(
                error,
                "An idempotency key's answer was not stored; the request would be gone through \
                 again"
            );
        }
    }
}

/// Somebody else changed the key again and again.
pub(crate) fn contended() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "Another request with this Idempotency-Key is under way; try again.",
    )
}

/// Whether a call that accepts nothing is to be done.
pub(crate) enum Started {
    /// It was done before; here is the answer.
    Done(Response),
    /// To be done, under a key or without.
    Todo(Option<Slot>),
}

/// Reserves the key, if there is one.
pub(crate) async fn start(
    app: &App,
    key: Option<Key>,
    status: StatusCode,
) -> Result<Started, Problem> {
    let Some(key) = key else { return Ok(Started::Todo(None)) };
    Ok(match begin(app, &key).await? {
        Begun::Done(body) => Started::Done(replayed(status, body)),
        Begun::Todo(slot) => Started::Todo(Some(slot)),
    })
}

/// Makes the key stand for the answer, if there is one.
pub(crate) async fn end(
    app: &App,
    slot: Option<Slot>,
    status: StatusCode,
    body: String,
) -> Response {
    if let Some(slot) = slot {
        slot.finish(app, &body).await;
    }
    answer(status, body)
}

/// An answer in JSON.
pub(crate) fn answer(status: StatusCode, body: String) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        Body::from(body),
    )
        .into_response()
}

/// An answer that was given before.
pub(crate) fn replayed(status: StatusCode, body: String) -> Response {
    let mut response = answer(status, body);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
