//! Application keys, checked by the document of their application.
//!
//! A copy of the document serves for `ENDPOINT_CACHE_MS`, so a revoked key works for at most that
//! long in other processes. A key that the copy does not have may be younger than the copy. It is
//! looked up again in the stored document, so a new key works at once.

use shared::{
    applications::{
        id::ApplicationId,
        keys::{KeyCheck, PresentedKey},
    },
    context::Context,
};

use crate::{
    edge::auth::{self, Caller},
    problem::Problem,
};

/// The caller with this key. An unknown, revoked or expired key is a 401, and so is one of an
/// application that does not exist: the answers do not tell them apart.
pub(crate) async fn caller(context: &Context, key: &PresentedKey) -> Result<Caller, Problem> {
    let id: ApplicationId = key.application().parse().map_err(|_| auth::invalid_key())?;
    let clock = &*context.clock;
    let Some(mut known) = context.application(&id).await? else {
        return Err(auth::invalid_key());
    };
    let is_unknown = key.check(&known.application.keys, clock.now()) == KeyCheck::Unknown;
    if is_unknown && !known.is_recent(clock) {
        known = context.read_application(&id).await?.ok_or_else(auth::invalid_key)?;
    }
    match key.check(&known.application.keys, clock.now()) {
        KeyCheck::Valid(key) => Ok(Caller::with_key(&id, key)),
        KeyCheck::Expired(_) | KeyCheck::Unknown => Err(auth::invalid_key()),
    }
}
