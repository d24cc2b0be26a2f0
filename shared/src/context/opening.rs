//! What a backend gets to open itself, and what it returns.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::error::RecoverInFlightError;
use crate::{
    clock::{Clock, Timestamp},
    config::Config,
    liveness::Liveness,
    queue::Queue,
    sealing::MasterKeys,
    store::Store,
};

/// Whether other processes may use the embedded backend's data directory at the same time. The
/// other backends are always shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDirMode {
    /// Only this process. It can recover the work that its last run left in flight.
    Exclusive,
    /// Any number of processes.
    Shared,
    /// The same. This process is the stack whose functions run in the other processes. It makes the
    /// master key of the directory, which they read.
    SharedByStack,
}

/// The duties of a backend besides storing and queueing.
#[async_trait]
pub(super) trait Service: Send + Sync + fmt::Debug {
    /// Ends the work that the last run of this process left in flight. Returns the number of
    /// webhooks and messages, which is 0 for a backend that other processes may use.
    async fn recover_in_flight(&self, now: Timestamp) -> Result<u64, RecoverInFlightError>;

    /// Runs until it is dropped. Returns early if the backend has nothing to do.
    async fn run(&self);
}

/// The roles in which one backend is used.
#[allow(dead_code, reason = "the features decide which fields are read")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    pub(super) store: bool,
    pub(super) queue: bool,
}

/// The arguments of opening a backend.
#[allow(dead_code, reason = "the features decide which fields are read")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) mode: DataDirMode,
    pub(super) roles: Roles,
}

/// One backend, opened. It has a store and a queue if it was opened in those roles.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) queue: Option<Arc<dyn Queue>>,
    /// The liveness that the store's claims depend on.
    pub(super) liveness: Option<Arc<Liveness>>,
    /// The master keys that the store keeps, if `MASTER_KEY` is not set.
    pub(super) master_keys: Option<MasterKeys>,
    pub(super) service: Option<Arc<dyn Service>>,
}
