//! Why a call to the store failed.

use std::fmt::Display;

use crate::model::InvalidRecord;

/// Why the store could not do what a call asked for.
///
/// A write that the store refused because of its precondition has an error type of its own, next
/// to the method.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is unreachable, overloaded, or out of disk space. A write may have taken effect.
    /// Retry later.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store has no room for new webhooks. It wrote nothing. It still processes and deletes
    /// the webhooks that it has.
    #[error("the store is full: {0}")]
    Full(&'static str),
    /// This version cannot read the stored record. A retry does not help. Other webhooks are not
    /// affected.
    #[error("the record of {id} cannot be read")]
    Unreadable {
        /// The id of the webhook, message or application.
        id: String,
        /// A newer version wrote the record, or it is malformed.
        #[source]
        source: InvalidRecord,
    },
}

impl StoreError {
    /// This version cannot read the record of this webhook, message or application.
    pub fn unreadable(id: impl Display, source: InvalidRecord) -> Self {
        Self::Unreadable { id: id.to_string(), source }
    }

    /// What is stored of it is malformed.
    pub fn malformed(id: impl Display, why: &str) -> Self {
        Self::unreadable(id, InvalidRecord::Malformed(serde::de::Error::custom(why)))
    }
}
