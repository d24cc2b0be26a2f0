//! Idempotency keys: which request a key belongs to, and its answer.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::StoreError;
use crate::{clock::Timestamp, id::TaskId};

/// How long the store remembers an idempotency key: 24 h.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);

/// What an idempotency key refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The task id that the key's first request gave to its webhook. For a batch, the id that the
    /// ids of its items derive from.
    pub task: TaskId,
    /// For a batch that received a new id: the ids of the items that an earlier id settled
    /// (created, whether or not deleted since), by item. Trailing items that are not settled are
    /// left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<Option<TaskId>>,
    /// SHA-256 of the request, in hexadecimal. A caller must not send another request under the
    /// same key.
    pub fingerprint: String,
    /// The body of the answer, once the request is done.
    pub answer: Option<String>,
    /// When the key becomes free again.
    pub expires_at: Timestamp,
}

/// Identifies the stored bytes of one reservation, like an `ETag`.
///
/// A backend derives it from the bytes that it wrote or read. It never serialises a reservation
/// anew to compare it, so a reservation that another version wrote can be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationVersion(String);

impl ReservationVersion {
    /// A version that a backend can compare as it stands.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// 64 bits of the SHA-256 of the stored bytes, in hexadecimal.
    pub fn hash_of(stored: &[u8]) -> Self {
        let hash = Sha256::digest(stored);
        let digits = hash.iter().take(8).map(|byte| format!("{byte:02x}"));
        Self(digits.collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A reservation as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReservation {
    /// What the key refers to.
    pub reservation: Reservation,
    /// The version of the stored bytes.
    pub version: ReservationVersion,
}

/// Why a key was not reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The key is reserved. This is the reservation.
    #[error("the key is reserved")]
    Taken(Box<StoredReservation>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a reservation was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceReservationError {
    /// Another try replaced the reservation first.
    #[error("another try replaced the reservation first")]
    Changed,
    /// The reservation does not exist, or it has expired.
    #[error("no such reservation")]
    Missing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The reservations of idempotency keys.
///
/// # Contract
///
/// - Of concurrent calls to [`IdempotencyKeys::reserve`] for a key, one succeeds.
/// - An expired reservation counts as none.
#[async_trait]
pub trait IdempotencyKeys {
    /// Reads the key's reservation, as the latest acknowledged write left it.
    async fn reservation(&self, key: &str) -> Result<Option<StoredReservation>, StoreError>;

    /// Reserves the key. The reservation survives a power loss.
    ///
    /// Returns [`ReserveError::Taken`] with the stored reservation if there is one. If that equals
    /// `reservation`, an earlier try of the same call took effect. A backend may then succeed.
    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError>;

    /// Replaces the reservation `before` with `after`.
    ///
    /// Takes effect only if the stored reservation has the version of `before` and is not expired.
    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError>;
}
