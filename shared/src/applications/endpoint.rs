//! An endpoint within the document of an application, and the bounds of its fields.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    event_type::{EventPattern, EventType},
    id::{ApplicationId, EndpointId},
    secrets::StoredSecret,
};
use crate::{
    clock::Timestamp,
    model::is_default,
    retry_override::RetryOverride,
    sealing::{Binding, MasterKeys, Sealed, UnsealError},
    sender::{MAX_URL_BYTES, check_header},
};

/// The most patterns in `event_types`.
pub const MAX_EVENT_TYPES: usize = 50;

/// The most custom headers of an endpoint.
pub const MAX_HEADERS: usize = 32;

/// The most bytes of an endpoint's custom headers, names and values.
pub const MAX_HEADERS_BYTES: usize = 8 * 1024;

/// The most bytes of `metadata` as JSON, of an endpoint or an application.
pub const MAX_METADATA_BYTES: usize = 2 * 1024;

/// The most bytes of a description.
pub const MAX_DESCRIPTION_BYTES: usize = 1024;

/// The shortest `timeout_ms`. The longest is `DELIVERY_TIMEOUT_MS`.
pub const MIN_TIMEOUT_MS: u64 = 1000;

/// The publisher's own data about an application or an endpoint. Posthaste returns it and does not
/// read it.
pub type Metadata = BTreeMap<String, String>;

/// A URL of an application, and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The id. It is never used again.
    pub id: EndpointId,
    /// The number of changes of this endpoint. Each attempt notes it.
    #[serde(rename = "rev")]
    pub revision: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Where its deliveries are sent.
    pub url: String,
    /// The events that it receives. `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_types: Option<Vec<EventPattern>>,
    /// Custom headers of its requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<SealedHeader>,
    /// The secrets that sign its requests, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<StoredSecret>,
    /// Where its retry policy differs from the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOverride>,
    /// The deadline of an attempt. `None`: the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The publisher's own data.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Metadata,
    /// Since when and why it receives nothing. `None`: it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// A custom header of an endpoint. Its value is sealed, because it can be a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHeader {
    /// The name, as the caller wrote it.
    pub name: String,
    /// The value, sealed under the master key
    /// ([`Binding::headers`](crate::sealing::Binding::headers)).
    pub sealed: Sealed,
}

/// Why an endpoint receives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// The reason.
    pub why: DisabledWhy,
    /// Whether the operational message about it was published. True while there are none.
    pub told: bool,
}

/// The reason for which an endpoint is disabled. Stored, so a name never changes, and an older
/// version cannot read a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledWhy {
    /// Its attempts failed for too long.
    Failing,
    /// It answered 410.
    Gone,
    /// A caller with a key of the application disabled it.
    Customer,
    /// A caller with a full key disabled it.
    Operator,
}

impl Endpoint {
    /// Whether messages go to it.
    pub const fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }

    /// The names and values of its custom headers, in their order. One value that does not open
    /// makes the whole result an error: a request without it could be refused, or misunderstood.
    pub fn open_headers(
        &self,
        application: &ApplicationId,
        keys: &MasterKeys,
    ) -> Result<Vec<(String, String)>, UnsealError> {
        let binding = Binding::headers(application, self.id);
        let open = |header: &SealedHeader| {
            let value = keys.open(&header.sealed, &binding)?.into_bytes();
            let value = String::from_utf8(value).map_err(|_| UnsealError::Malformed)?;
            Ok((header.name.clone(), value))
        };
        self.headers.iter().map(open).collect()
    }

    /// Whether its `event_types` choose this type. A disabled endpoint's may, too.
    pub fn wants(&self, event_type: &EventType) -> bool {
        let chooses = |patterns: &Vec<EventPattern>| {
            patterns.iter().any(|pattern| pattern.matches(event_type))
        };
        self.event_types.as_ref().is_none_or(chooses)
    }
}

/// A field that is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's name in a request, such as `headers.x-tenant` or `event_types[3]`.
    pub field: String,
    /// What is wrong and what to send instead: the rest of a sentence that begins with the field.
    pub message: String,
}

impl FieldError {
    /// An error of this field.
    pub fn new(field: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { field: field.to_string(), message: message.to_string() }
    }
}

/// A field of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Given<T> {
    /// The request does not have it. A change keeps the stored value.
    #[default]
    Absent,
    /// `null`: a change removes the stored value, so the default applies.
    Null,
    /// A value.
    Value(T),
}

impl<T> Given<T> {
    /// The value, if there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The field after the change, for a field that may be missing.
    pub(super) fn or(self, stored: Option<T>) -> Option<T> {
        match self {
            Self::Absent => stored,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// Whether the request has the field.
    pub(super) const fn is_given(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    fn try_map<U>(self, change: impl FnOnce(T) -> Option<U>) -> Given<U> {
        match self {
            Self::Absent => Given::Absent,
            Self::Null => Given::Null,
            // A value that is refused makes the whole input an error.
            Self::Value(value) => change(value).map_or(Given::Absent, Given::Value),
        }
    }
}

/// The fields of an endpoint as a caller sends them, to create or to change it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointInput {
    /// The URL. The caller of [`EndpointInput::check`] also asks
    /// [`AddressGuard::check_url`](crate::sender::AddressGuard::check_url), as each attempt does.
    pub url: Given<String>,
    /// Event types and patterns.
    pub event_types: Given<Vec<String>>,
    /// Names and values of custom headers.
    pub headers: Given<Vec<(String, String)>>,
    /// Overrides of the retry policy.
    pub retry: Given<RetryOverride>,
    /// The deadline of an attempt.
    pub timeout_ms: Given<u64>,
    /// For people.
    pub description: Given<String>,
    /// The publisher's own data.
    pub metadata: Given<Metadata>,
    /// Whether messages go to it. Default: true.
    pub enabled: Given<bool>,
}

/// A valid change of an endpoint, with its header values sealed. [`EndpointInput::check`] makes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPatch {
    pub(super) url: Given<String>,
    pub(super) event_types: Given<Vec<EventPattern>>,
    pub(super) headers: Given<Vec<SealedHeader>>,
    pub(super) retry: Given<RetryOverride>,
    pub(super) timeout_ms: Given<u64>,
    pub(super) description: Given<String>,
    pub(super) metadata: Given<Metadata>,
    pub(super) enabled: Given<bool>,
}

impl EndpointInput {
    /// Checks each field, and seals the header values if none is wrong. `max_timeout_ms` is
    /// `DELIVERY_TIMEOUT_MS`. `seal` seals one value for the endpoint's headers.
    ///
    /// # Errors
    ///
    /// One for each wrong field. None contains a header's value.
    pub fn check(
        self,
        max_timeout_ms: u64,
        mut seal: impl FnMut(&str) -> Sealed,
    ) -> Result<EndpointPatch, Vec<FieldError>> {
        let mut errors = Vec::new();
        check_url(&self.url, &mut errors);
        let event_types = self.event_types.try_map(|texts| read_event_types(&texts, &mut errors));
        if let Given::Value(headers) = &self.headers {
            check_headers(headers, &mut errors);
        }
        if let Given::Value(retry) = &self.retry {
            let name = |field| format!("retry.{field}");
            let faults = retry.check().into_iter();
            errors.extend(faults.map(|fault| FieldError::new(name(fault.field), fault.message)));
        }
        if let Given::Value(ms) = self.timeout_ms
            && !(MIN_TIMEOUT_MS..=max_timeout_ms).contains(&ms)
        {
            let bounds =
                format!("must be {MIN_TIMEOUT_MS} to {max_timeout_ms} (DELIVERY_TIMEOUT_MS)");
            errors.push(FieldError::new("timeout_ms", bounds));
        }
        check_text("description", &self.description, MAX_DESCRIPTION_BYTES, &mut errors);
        check_metadata(&self.metadata, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let headers = self.headers.try_map(|headers| {
            let sealed = headers.into_iter().map(|(name, value)| {
                let sealed = seal(&value);
                SealedHeader { name, sealed }
            });
            Some(sealed.collect())
        });
        Ok(EndpointPatch {
            url: self.url,
            event_types,
            headers,
            retry: self.retry,
            timeout_ms: self.timeout_ms,
            description: self.description,
            metadata: self.metadata,
            enabled: self.enabled,
        })
    }
}

impl EndpointPatch {
    /// A patch that sets `enabled` alone.
    pub fn enabled(enabled: bool) -> Self {
        Self { enabled: Given::Value(enabled), ..Self::default() }
    }

    /// The names of the fields that it changes.
    pub fn fields(&self) -> Vec<&'static str> {
        let fields = [
            ("url", self.url.is_given()),
            ("event_types", self.event_types.is_given()),
            ("headers", self.headers.is_given()),
            ("retry", self.retry.is_given()),
            ("timeout_ms", self.timeout_ms.is_given()),
            ("description", self.description.is_given()),
            ("metadata", self.metadata.is_given()),
            ("enabled", self.enabled.is_given()),
        ];
        fields.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }
}

fn check_url(url: &Given<String>, errors: &mut Vec<FieldError>) {
    match url {
        Given::Null => errors.push(FieldError::new("url", "is required and cannot be removed")),
        Given::Value(url) if url.is_empty() || url.len() > MAX_URL_BYTES => {
            let bounds = format!("must be a URL of at most {MAX_URL_BYTES} bytes");
            errors.push(FieldError::new("url", bounds));
        }
        Given::Absent | Given::Value(_) => {}
    }
}

fn read_event_types(texts: &[String], errors: &mut Vec<FieldError>) -> Option<Vec<EventPattern>> {
    if texts.is_empty() || texts.len() > MAX_EVENT_TYPES {
        let bounds = format!(
            "must hold 1 to {MAX_EVENT_TYPES} event types; leave it out to receive every event"
        );
        errors.push(FieldError::new("event_types", bounds));
        return None;
    }
    let mut patterns = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(invalid) => {
                errors.push(FieldError::new(format_args!("event_types[{index}]"), invalid));
            }
        }
    }
    Some(patterns)
}

fn check_headers(headers: &[(String, String)], errors: &mut Vec<FieldError>) {
    if headers.len() > MAX_HEADERS {
        let bounds = format!("must contain at most {MAX_HEADERS} headers");
        errors.push(FieldError::new("headers", bounds));
        return;
    }
    for (index, (name, value)) in headers.iter().enumerate() {
        let field = format_args!("headers.{name}").to_string();
        let is_seen = |(seen, _): &(String, String)| seen.eq_ignore_ascii_case(name);
        if let Err(refused) = check_header(name, value) {
            errors.push(FieldError::new(field, refused));
        } else if headers[..index].iter().any(is_seen) {
            let message = "is repeated. Header names are case-insensitive. Send each one once";
            errors.push(FieldError::new(field, message));
        }
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADERS_BYTES {
        let bounds = format!("must contain at most {MAX_HEADERS_BYTES} bytes in total");
        errors.push(FieldError::new("headers", bounds));
    }
}

/// Checks the length of an optional text.
pub(super) fn check_text(
    field: &str,
    text: &Given<String>,
    limit: usize,
    errors: &mut Vec<FieldError>,
) {
    if text.value().is_some_and(|text| text.len() > limit) {
        errors.push(FieldError::new(field, format_args!("must have at most {limit} bytes")));
    }
}

/// Checks the size of `metadata`.
pub(super) fn check_metadata(metadata: &Given<Metadata>, errors: &mut Vec<FieldError>) {
    let bytes = |metadata: &Metadata| serde_json::to_string(metadata).map_or(0, |json| json.len());
    if metadata.value().is_some_and(|metadata| bytes(metadata) > MAX_METADATA_BYTES) {
        let bounds = format!("must have at most {MAX_METADATA_BYTES} bytes as JSON");
        errors.push(FieldError::new("metadata", bounds));
    }
}

#[cfg(test)]
mod tests;
