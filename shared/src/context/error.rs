//! Why a process cannot start.

use std::error::Error;

use crate::{
    config::ConfigErrors,
    queue::QueueError,
    sender::{InvalidPem, InvalidSender, guard::InvalidHostGlob},
    store::StoreError,
};

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// This binary does not contain the backend.
    #[error("{variable} is {backend}, but this build of Posthaste does not include that backend")]
    NotBuiltIn {
        /// The variable that selects the backend.
        variable: &'static str,
        /// The name of the backend.
        backend: &'static str,
    },
    /// A backend cannot be opened.
    #[error(transparent)]
    Backend(Box<dyn Error + Send + Sync>),
    /// A setting refers to a secret that cannot be read.
    #[error(transparent)]
    Secret(Box<dyn Error + Send + Sync>),
    /// Settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The host allowlist is invalid.
    #[error(transparent)]
    Guard(#[from] InvalidHostGlob),
    /// A certificate or key file is invalid.
    #[error(transparent)]
    Pem(#[from] InvalidPem),
    /// The HTTP sender cannot be set up.
    #[error(transparent)]
    Sender(#[from] InvalidSender),
}

#[cfg_attr(
    not(any(feature = "aws", feature = "redis", feature = "sqlite")),
    expect(dead_code, reason = "no backend is built in")
)]
impl ContextError {
    /// The backend cannot be opened for this reason.
    pub(super) fn backend(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Backend(Box::new(error))
    }
}

/// The work that the last run left in flight cannot be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverInFlightError {
    /// The store failed.
    #[error("cannot recover the webhooks that the last run left in flight")]
    Store(#[from] StoreError),
    /// The queue failed.
    #[error("cannot recover the messages that the last run left in flight")]
    Queue(#[from] QueueError),
}
