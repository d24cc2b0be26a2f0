//! The documents of applications.

use async_trait::async_trait;

use super::{error::StoreError, page::Page};
use crate::applications::{application::Application, id::ApplicationId};

/// Why a document was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteApplicationError {
    /// The stored document has another revision, or there is one where the caller expected none, or
    /// none where it expected one. This is what is stored.
    #[error("another writer changed the application first")]
    Changed(Option<Box<Application>>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The documents of applications.
///
/// # Contract
///
/// - A document changes only by a write that is conditional on its revision.
/// - A read by id returns every write that was acknowledged before the call.
/// - A write survives a power loss.
/// - An unreadable document, of a newer version or malformed, fails a read with
///   [`StoreError::Unreadable`]. It is never written. Lists leave it out.
/// - Documents do not expire.
#[async_trait]
pub trait Applications {
    /// Reads a document.
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError>;

    /// Writes `after` in place of the document with the revision `before`. `None`: no document must
    /// be stored.
    ///
    /// If the stored document equals `after`, an earlier try of the same write took effect, and the
    /// write succeeds. Returns [`StoreError::Full`] only for a new document.
    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError>;

    /// Lists applications in the order of their ids, after `after`. Deleted ones are included. The
    /// list may trail the writes by a moment. A page may be short and still have a `next`.
    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError>;
}
