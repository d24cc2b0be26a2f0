//! The changes of an application's document as pure functions. Each returns the next document, with
//! its revision raised by one, or an error that names what to do.
//!
//! The caller writes the result on condition that the stored document still has the revision that
//! it read, and after a conflict reads the document and calls the function again, up to eight
//! times.

use super::{
    application::{
        Application, ChangeNote, MAX_CHANGES_KEPT, MAX_DOCUMENT_BYTES, MAX_ENDPOINTS,
        MAX_NAME_BYTES,
    },
    endpoint::{
        Disabled, DisabledWhy, Endpoint, EndpointPatch, FieldError, Given, Metadata,
        check_metadata, check_text,
    },
    id::{ApplicationId, EndpointId},
    keys::{ApplicationKeyId, MAX_KEYS, StoredKey},
    secrets::StoredSecret,
};
use crate::{
    clock::Timestamp,
    model::{APPLICATIONS_SCHEMA, truncated},
};

/// The most bytes of [`ChangeNote::by`].
pub const MAX_ACTOR_BYTES: usize = 128;

/// Why a change does not apply. The API answers each with another status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Fields are invalid (422).
    #[error("{} fields are invalid", .0.len())]
    Fields(Vec<FieldError>),
    /// The application was deleted (404).
    #[error("the application was deleted")]
    Deleted,
    /// There is no such endpoint (404).
    #[error("the application has no such endpoint")]
    NoSuchEndpoint,
    /// There is no such key (404).
    #[error("the application has no such key")]
    NoSuchKey,
    /// An endpoint or key has this id. The caller generates another one.
    #[error("the id is taken")]
    IdTaken,
    /// It has [`MAX_ENDPOINTS`] (409 `application-full`).
    #[error(
        "the application has {MAX_ENDPOINTS} endpoints, which is the limit; delete one, or use \
         another application"
    )]
    TooManyEndpoints,
    /// It has [`MAX_KEYS`] (409 `application-full`).
    #[error("the application has {MAX_KEYS} keys, which is the limit; delete one")]
    TooManyKeys,
    /// The document would exceed [`MAX_DOCUMENT_BYTES`] (409 `application-full`).
    #[error(
        "the application would have {bytes} bytes compressed, and may have {MAX_DOCUMENT_BYTES}; \
         shorten headers, metadata or descriptions of its endpoints, or delete some"
    )]
    TooLarge {
        /// The size that it would have.
        bytes: usize,
    },
    /// The endpoint already is as the change wants it. The caller answers as after the change, and
    /// writes nothing.
    #[error("nothing changes")]
    Unchanged,
}

/// Who makes a change, and when.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// See [`ChangeNote::by`]. Cut to [`MAX_ACTOR_BYTES`].
    pub by: &'a str,
    /// What a disabled endpoint shows, if this change disables one.
    pub why: DisabledWhy,
    /// The time.
    pub now: Timestamp,
}

/// The fields of an application as a caller puts them. What is absent gets its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApplicationInput {
    /// For people.
    pub name: Given<String>,
    /// Whether a message is stored that no endpoint matches. Default: false.
    pub keep_unmatched: Given<bool>,
    /// The publisher's own data.
    pub metadata: Given<Metadata>,
}

impl ApplicationInput {
    fn check(&self) -> Result<(), ChangeError> {
        let mut errors = Vec::new();
        check_text("name", &self.name, MAX_NAME_BYTES, &mut errors);
        check_metadata(&self.metadata, &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(ChangeError::Fields(errors)) }
    }
}

impl Application {
    /// A new application, with revision 1.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Fields`]: also for the reserved id.
    pub fn new(
        id: ApplicationId,
        input: ApplicationInput,
        actor: Actor<'_>,
    ) -> Result<Self, ChangeError> {
        if id.is_reserved() {
            let message = "is reserved for messages of Posthaste itself; choose another id";
            return Err(ChangeError::Fields(vec![FieldError::new("application_id", message)]));
        }
        let blank = Self {
            schema: APPLICATIONS_SCHEMA,
            revision: 0,
            id,
            name: None,
            keep_unmatched: false,
            metadata: Metadata::new(),
            created_at: actor.now,
            updated_at: actor.now,
            deleted_at: None,
            tokens_not_before: None,
            keys: Vec::new(),
            endpoints: Vec::new(),
            changes: Vec::new(),
        };
        blank.put_as(input, actor, "application.created")
    }

    /// The application with these settings. Endpoints and keys stay.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Fields`], [`ChangeError::Deleted`], [`ChangeError::TooLarge`].
    pub fn put(&self, input: ApplicationInput, actor: Actor<'_>) -> Result<Self, ChangeError> {
        self.put_as(input, actor, "application.changed")
    }

    fn put_as(
        &self,
        input: ApplicationInput,
        actor: Actor<'_>,
        what: &str,
    ) -> Result<Self, ChangeError> {
        input.check()?;
        let mut next = self.begin()?;
        next.name = input.name.or(None);
        next.keep_unmatched = input.keep_unmatched.or(None).unwrap_or_default();
        next.metadata = input.metadata.or(None).unwrap_or_default();
        next.limited(actor, what.to_owned())
    }

    /// Adds an endpoint with this id, which was never used before, and these secrets.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Fields`] without a URL, [`ChangeError::TooManyEndpoints`],
    /// [`ChangeError::IdTaken`], [`ChangeError::TooLarge`], [`ChangeError::Deleted`].
    pub fn create_endpoint(
        &self,
        id: EndpointId,
        patch: EndpointPatch,
        secrets: Vec<StoredSecret>,
        actor: Actor<'_>,
    ) -> Result<Self, ChangeError> {
        let mut next = self.begin()?;
        let Some(url) = patch.url.value().cloned() else {
            return Err(ChangeError::Fields(vec![FieldError::new("url", "is required")]));
        };
        if self.endpoints.len() >= MAX_ENDPOINTS {
            return Err(ChangeError::TooManyEndpoints);
        }
        if self.endpoint(id).is_some() {
            return Err(ChangeError::IdTaken);
        }
        let blank = Endpoint {
            id,
            revision: 0,
            created_at: actor.now,
            updated_at: actor.now,
            url,
            event_types: None,
            headers: Vec::new(),
            secrets,
            retry: None,
            timeout_ms: None,
            description: None,
            metadata: Metadata::new(),
            disabled: None,
        };
        next.endpoints.push(patched(&blank, patch, actor));
        next.limited(actor, format!("endpoint.created {id}"))
    }

    /// Changes the fields of an endpoint that the patch has. `null` removes a field, so its default
    /// applies. Enables or disables it, too.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NoSuchEndpoint`], [`ChangeError::TooLarge`], [`ChangeError::Deleted`].
    /// [`ChangeError::Unchanged`] for a patch that leaves every field as it is.
    pub fn patch_endpoint(
        &self,
        id: EndpointId,
        patch: EndpointPatch,
        actor: Actor<'_>,
    ) -> Result<Self, ChangeError> {
        let what = format!("endpoint.changed {id}: {}", patch.fields().join(", "));
        self.with_patch(id, patch, actor)?.limited(actor, what)
    }

    /// Enables an endpoint. Messages that are published from then on go to it.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NoSuchEndpoint`], [`ChangeError::Deleted`]. [`ChangeError::Unchanged`] if it
    /// is enabled.
    pub fn enable_endpoint(&self, id: EndpointId, actor: Actor<'_>) -> Result<Self, ChangeError> {
        let next = self.with_patch(id, EndpointPatch::enabled(true), actor)?;
        Ok(next.noted(actor, format!("endpoint.enabled {id}")))
    }

    /// Disables an endpoint. Messages that are published from then on list it in `off`, and
    /// deliveries under way fail.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NoSuchEndpoint`], [`ChangeError::Deleted`]. [`ChangeError::Unchanged`] if it
    /// is disabled: time and reason stay.
    pub fn disable_endpoint(&self, id: EndpointId, actor: Actor<'_>) -> Result<Self, ChangeError> {
        let next = self.with_patch(id, EndpointPatch::enabled(false), actor)?;
        Ok(next.noted(actor, format!("endpoint.disabled {id}")))
    }

    fn with_patch(
        &self,
        id: EndpointId,
        patch: EndpointPatch,
        actor: Actor<'_>,
    ) -> Result<Self, ChangeError> {
        let mut next = self.begin()?;
        let Some(endpoint) = next.endpoints.iter_mut().find(|endpoint| endpoint.id == id) else {
            return Err(ChangeError::NoSuchEndpoint);
        };
        let changed = patched(endpoint, patch, actor);
        let (revision, updated_at) = (endpoint.revision, endpoint.updated_at);
        if (Endpoint { revision, updated_at, ..changed.clone() }) == *endpoint {
            return Err(ChangeError::Unchanged);
        }
        *endpoint = changed;
        Ok(next)
    }

    /// Removes an endpoint. Deliveries under way fail.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NoSuchEndpoint`], [`ChangeError::Deleted`].
    pub fn delete_endpoint(&self, id: EndpointId, actor: Actor<'_>) -> Result<Self, ChangeError> {
        let mut next = self.begin()?;
        next.endpoints.retain(|endpoint| endpoint.id != id);
        if next.endpoints.len() == self.endpoints.len() {
            return Err(ChangeError::NoSuchEndpoint);
        }
        Ok(next.noted(actor, format!("endpoint.deleted {id}")))
    }

    /// Adds a key.
    ///
    /// # Errors
    ///
    /// [`ChangeError::TooManyKeys`], [`ChangeError::IdTaken`], [`ChangeError::TooLarge`],
    /// [`ChangeError::Deleted`].
    pub fn add_key(&self, key: StoredKey, actor: Actor<'_>) -> Result<Self, ChangeError> {
        let mut next = self.begin()?;
        if self.keys.len() >= MAX_KEYS {
            return Err(ChangeError::TooManyKeys);
        }
        if self.keys.iter().any(|known| known.id == key.id) {
            return Err(ChangeError::IdTaken);
        }
        let what = format!("key.created {}", key.id);
        next.keys.push(key);
        next.limited(actor, what)
    }

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NoSuchKey`], [`ChangeError::Deleted`].
    pub fn delete_key(&self, id: ApplicationKeyId, actor: Actor<'_>) -> Result<Self, ChangeError> {
        let mut next = self.begin()?;
        next.keys.retain(|key| key.id != id);
        if next.keys.len() == self.keys.len() {
            return Err(ChangeError::NoSuchKey);
        }
        Ok(next.noted(actor, format!("key.deleted {id}")))
    }

    fn begin(&self) -> Result<Self, ChangeError> {
        if self.is_deleted() { Err(ChangeError::Deleted) } else { Ok(self.clone()) }
    }

    /// Counts and notes the change.
    fn noted(mut self, actor: Actor<'_>, what: String) -> Self {
        self.revision = self.revision.saturating_add(1);
        self.updated_at = actor.now;
        let by = truncated(actor.by, MAX_ACTOR_BYTES).to_owned();
        self.changes.push(ChangeNote { at: actor.now, by, what });
        let too_many = self.changes.len().saturating_sub(MAX_CHANGES_KEPT);
        self.changes.drain(..too_many);
        self
    }

    /// Notes a change that can make the document larger. Others are exempt from the limit, so that
    /// there is always a way out of it, and a full application can disable an endpoint.
    fn limited(self, actor: Actor<'_>, what: String) -> Result<Self, ChangeError> {
        let next = self.noted(actor, what);
        let bytes = next.deflated_bytes();
        if bytes > MAX_DOCUMENT_BYTES { Err(ChangeError::TooLarge { bytes }) } else { Ok(next) }
    }
}

/// The endpoint after the patch.
fn patched(endpoint: &Endpoint, patch: EndpointPatch, actor: Actor<'_>) -> Endpoint {
    let disabled = match patch.enabled {
        Given::Absent => endpoint.disabled,
        Given::Null | Given::Value(true) => None,
        Given::Value(false) => {
            let now = Disabled { at: actor.now, why: actor.why, told: true };
            endpoint.disabled.or(Some(now))
        }
    };
    let headers = patch.headers.or(Some(endpoint.headers.clone()));
    let metadata = patch.metadata.or(Some(endpoint.metadata.clone()));
    Endpoint {
        id: endpoint.id,
        revision: endpoint.revision.saturating_add(1),
        created_at: endpoint.created_at,
        updated_at: actor.now,
        url: patch.url.or(None).unwrap_or_else(|| endpoint.url.clone()),
        event_types: patch.event_types.or(endpoint.event_types.clone()),
        headers: headers.unwrap_or_default(),
        secrets: endpoint.secrets.clone(),
        retry: patch.retry.or(endpoint.retry.clone()),
        timeout_ms: patch.timeout_ms.or(endpoint.timeout_ms),
        description: patch.description.or(endpoint.description.clone()),
        metadata: metadata.unwrap_or_default(),
        disabled,
    }
}

#[cfg(test)]
mod tests;
