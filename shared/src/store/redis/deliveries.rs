//! The keys of deliveries: markers, and what occupies a key.

use super::{
    RedisStore, SCRIPTS, keys,
    records::{failed, parse},
    webhooks::deleted,
};
use crate::{
    applications::{message::KEY_OCCUPIED, standing::Found},
    clock::Timestamp,
    id::WebhookId,
    store::{DeleteError, IdState, ListPosition, StoreError, Tombstone, Webhooks},
};

/// How often a delivery is read again that changes while it is deleted.
const MAX_TRIES: u32 = 8;

/// What `forget_schema_2.lua` leaves in the place of an expired record.
const EXPIRED: &[u8] = b"expired";

impl RedisStore {
    /// Until when a marker that is written now occupies the key.
    pub(super) fn marker_until(&self, allowed_at: Option<Timestamp>) -> Timestamp {
        let now = self.clock.now();
        allowed_at.map_or(now, |at| at.max(now)).plus(KEY_OCCUPIED)
    }

    /// Puts a marker in place of the delivery's record, if it has this revision. Empty: whether or
    /// not there is one. Zero: if there is none, and no marker either.
    pub(super) async fn mark(
        &self,
        id: &WebhookId,
        until: Timestamp,
        revision: &str,
        again: bool,
    ) -> Result<(), DeleteError> {
        let mut call = SCRIPTS.mark.on(&keys::keys(&self.connection, id, false));
        call.arg(self.clock.now().as_millis())
            .arg(ListPosition::of(id).to_string())
            .arg(id.to_string())
            .arg(until.as_millis())
            .arg(revision);
        let answer: Result<String, _> = self.connection.run_durably(&call, again).await;
        deleted(&answer.map_err(|error| failed(id, error))?)
    }

    /// Deletes a delivery that has a record, readable or not.
    pub(super) async fn delete_delivery(&self, id: &WebhookId) -> Result<(), DeleteError> {
        for _ in 0..MAX_TRIES {
            // The time of the marker follows from the record that it replaces.
            let (allowed_at, revision) = match self.get(id).await {
                Ok(Some(webhook)) => (webhook.allowed_at, webhook.revision.to_string()),
                Ok(None) => return Err(DeleteError::Missing),
                Err(StoreError::Unreadable { .. }) => (None, String::new()),
                Err(error) => return Err(error.into()),
            };
            match self.mark(id, self.marker_until(allowed_at), &revision, false).await {
                Err(DeleteError::Changed) => {}
                done => return done,
            }
        }
        Err(StoreError::Unavailable("the record changed again and again".into()).into())
    }

    /// Bars the id of a delivery that has no record, by a marker.
    pub(super) async fn bar_delivery(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        match self.mark(id, self.marker_until(None), "0", true).await {
            Ok(()) | Err(DeleteError::Missing) => Ok(IdState::Tombstone(Tombstone::Deleted)),
            Err(DeleteError::Store(error)) => Err(error),
            Err(DeleteError::Changed) => {
                Ok(self.get(id).await?.map_or(IdState::Tombstone(Tombstone::Deleted), |webhook| {
                    IdState::Webhook(Box::new(webhook))
                }))
            }
        }
    }
}

/// What occupies the key of a delivery, from its fields `r` and `z`.
pub(super) fn found(
    id: &WebhookId,
    record: Option<&[u8]>,
    why: Option<&[u8]>,
    now: Timestamp,
) -> Option<Found> {
    let Some(record) = record else {
        return why.map(|why| if why == EXPIRED { Found::Expired } else { Found::Marker });
    };
    match parse(id, &String::from_utf8_lossy(record)) {
        Ok(Some(webhook)) if webhook.id == *id => Some(if webhook.is_expired(now) {
            Found::Expired
        } else {
            Found::Record(Box::new(webhook))
        }),
        _ => Some(Found::Unreadable),
    }
}
