//! Applications, endpoints and keys as responses show them. No view contains a secret, the value of
//! a header or a hash of a key, except [`NewEndpointView`], [`SecretView`] and [`NewKeyView`].

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use shared::{
    applications::{
        application::{Application, ChangeNote},
        endpoint::{Disabled, DisabledWhy, Endpoint, Metadata},
        event_type::EventPattern,
        id::{ApplicationId, EndpointId},
        keys::{ApplicationKeyId, Scope, StoredKey},
        secrets::{SecretId, SecretKind},
    },
    circuit::State as CircuitState,
    clock::{Timestamp, rfc3339},
    retry_override::RetryOverride,
    store::{DestinationActivity, TargetState},
};
use utoipa::ToSchema;

use crate::{openapi::schemas, view::LatestError};

/// What is shown instead of a header's value.
const MASKED: &str = "***";

/// An application.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Application)]
pub(crate) struct ApplicationView<'a> {
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    name: Option<&'a str>,
    /// Whether a message is stored that no endpoint matches.
    keep_unmatched: bool,
    #[schema(value_type = BTreeMap<String, String>)]
    metadata: &'a Metadata,
    /// The number of its endpoints, enabled or not.
    #[schema(maximum = 100)]
    endpoint_count: usize,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    created_at: Timestamp,
    /// When the application, an endpoint or a key was last changed.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    updated_at: Timestamp,
}

impl<'a> ApplicationView<'a> {
    pub(crate) fn of(application: &'a Application) -> Self {
        Self {
            application_id: &application.id,
            name: application.name.as_deref(),
            keep_unmatched: application.keep_unmatched,
            metadata: &application.metadata,
            endpoint_count: application.endpoints.len(),
            created_at: application.created_at,
            updated_at: application.updated_at,
        }
    }
}

/// An application with the state of its endpoints.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApplicationState)]
pub(crate) struct ApplicationStateView<'a> {
    #[serde(flatten)]
    pub(crate) application: ApplicationView<'a>,
    /// The state of its endpoints, oldest first.
    #[schema(max_items = 100)]
    pub(crate) endpoints: Vec<EndpointState<'a>>,
}

/// Whether an endpoint receives messages, and how its attempts end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EndpointState<'a> {
    #[schema(value_type = schemas::EndpointId)]
    endpoint_id: EndpointId,
    #[schema(value_type = schemas::HttpUrl)]
    url: &'a str,
    enabled: bool,
    disabled: Option<DisabledView>,
    /// The state of its circuit.
    #[schema(value_type = schemas::CircuitState)]
    circuit: CircuitState,
    /// When the next probe is allowed. Null if the circuit is closed.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    open_until: Option<Timestamp>,
    /// When the pause ends that the receiver asked for. Null if it is not paused.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    paused_until: Option<Timestamp>,
    /// The part of the attempts of the current and the previous hour that succeeded, from 0 to 1.
    /// Null if no attempt is known. Only the 100 destinations with the most failures are known.
    #[schema(minimum = 0, maximum = 1)]
    success_share: Option<f64>,
    /// Those attempts. Zero if none is known.
    attempts: u64,
    /// Those that failed.
    failed: u64,
    /// The latest failed attempt of the two hours. Null if none is known.
    last_error: Option<LatestError<'a>>,
}

impl<'a> EndpointState<'a> {
    pub(crate) fn of(
        endpoint: &'a Endpoint,
        target: Option<&TargetState>,
        activity: Option<&'a DestinationActivity>,
        now: Timestamp,
    ) -> Self {
        let target = target.and_then(|state| state.target.as_ref());
        let pace = target.and_then(|target| target.pace(now)).filter(|pace| pace.is_paused(now));
        let (delivered, failed) =
            activity.map_or((0, 0), |activity| (activity.delivered, activity.failed));
        let attempts = delivered.saturating_add(failed);
        let last_error = activity.and_then(|activity| activity.last_error.as_ref());
        Self {
            endpoint_id: endpoint.id,
            url: &endpoint.url,
            enabled: endpoint.is_enabled(),
            disabled: endpoint.disabled.map(DisabledView::of),
            circuit: target.map_or(CircuitState::Closed, |target| target.circuit.state(now)),
            open_until: target.and_then(|target| target.circuit.open_until),
            paused_until: pace.map(|pace| pace.resume_at),
            success_share: (attempts > 0).then(|| delivered as f64 / attempts as f64),
            attempts,
            failed,
            last_error: last_error.map(|(at, error)| LatestError::of(error, *at)),
        }
    }
}

/// Since when and why an endpoint receives nothing.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Disabled)]
pub(crate) struct DisabledView {
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    at: Timestamp,
    /// `customer`: by an application key. `operator`: with full access. `failing` and `gone`: by
    /// Posthaste.
    #[schema(value_type = schemas::DisabledReason)]
    why: DisabledWhy,
}

impl DisabledView {
    const fn of(disabled: Disabled) -> Self {
        Self { at: disabled.at, why: disabled.why }
    }
}

/// An endpoint, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(crate) struct EndpointView<'a> {
    #[schema(value_type = schemas::EndpointId)]
    endpoint_id: EndpointId,
    #[schema(value_type = schemas::HttpUrl)]
    url: &'a str,
    /// The events that it receives. Null: all.
    #[schema(value_type = Option<Vec<schemas::EventPattern>>)]
    event_types: Option<&'a [EventPattern]>,
    /// Its custom headers. Each value is shown as `***`.
    headers: BTreeMap<&'a str, &'static str>,
    /// Where its retry policy differs from `ENDPOINT_RETRY_SCHEDULE` and `RETRY_*`.
    #[schema(value_type = Option<schemas::Retry>)]
    retry: Option<&'a RetryOverride>,
    /// The deadline of an attempt. Null: `DELIVERY_TIMEOUT_MS`.
    timeout_ms: Option<u64>,
    description: Option<&'a str>,
    #[schema(value_type = BTreeMap<String, String>)]
    metadata: &'a Metadata,
    enabled: bool,
    /// Null if it is enabled.
    disabled: Option<DisabledView>,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    created_at: Timestamp,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    updated_at: Timestamp,
}

impl<'a> EndpointView<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        Self {
            endpoint_id: endpoint.id,
            url: &endpoint.url,
            event_types: endpoint.event_types.as_deref(),
            headers: endpoint.headers.iter().map(|header| (&*header.name, MASKED)).collect(),
            retry: endpoint.retry.as_ref(),
            timeout_ms: endpoint.timeout_ms,
            description: endpoint.description.as_deref(),
            metadata: &endpoint.metadata,
            enabled: endpoint.is_enabled(),
            disabled: endpoint.disabled.map(DisabledView::of),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

/// An endpoint after a change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChangedEndpoint)]
pub(crate) struct ChangedEndpointView<'a> {
    #[serde(flatten)]
    endpoint: EndpointView<'a>,
    /// From when on every process applies the change.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    applies_from: Timestamp,
}

impl<'a> ChangedEndpointView<'a> {
    /// `cache` is `ENDPOINT_CACHE_MS`.
    pub(crate) fn of(endpoint: &'a Endpoint, now: Timestamp, cache: Duration) -> Self {
        Self { endpoint: EndpointView::of(endpoint), applies_from: now.plus(cache) }
    }
}

/// A new endpoint with its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = NewEndpointResult)]
pub(crate) struct NewEndpointView<'a> {
    #[serde(flatten)]
    pub(crate) endpoint: ChangedEndpointView<'a>,
    /// The secret that signs its webhooks. `GET …/secret` shows it again.
    #[schema(value_type = schemas::Secret)]
    pub(crate) secret: String,
}

/// A live secret of an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
pub(crate) struct SecretView {
    #[schema(value_type = schemas::SecretId)]
    pub(crate) id: SecretId,
    #[schema(value_type = schemas::SignatureKind)]
    pub(crate) kind: SecretKind,
    #[schema(value_type = schemas::Secret)]
    pub(crate) secret: String,
    /// From when on it no longer signs. Null: it does not expire.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    pub(crate) expires_at: Option<Timestamp>,
}

/// An application key, without the key itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApplicationKey)]
pub(crate) struct KeyView<'a> {
    #[schema(value_type = schemas::KeyId)]
    key_id: ApplicationKeyId,
    #[schema(value_type = schemas::KeyName)]
    name: &'a str,
    #[schema(value_type = Vec<schemas::Scope>, min_items = 1, max_items = 3)]
    scopes: Vec<Scope>,
    /// From when on it is invalid. Null: it does not expire.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    expires_at: Option<Timestamp>,
}

impl<'a> KeyView<'a> {
    pub(crate) fn of(key: &'a StoredKey) -> Self {
        Self {
            key_id: key.id,
            name: key.name.as_str(),
            scopes: key.scopes.iter().collect(),
            expires_at: key.expires_at,
        }
    }
}

/// A new application key.
#[derive(Serialize, ToSchema)]
#[schema(as = NewKeyResult)]
pub(crate) struct NewKeyView<'a> {
    #[serde(flatten)]
    pub(crate) view: KeyView<'a>,
    /// The key itself. No other response contains it.
    pub(crate) key: &'a str,
}

/// A change of an application.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Change)]
pub(crate) struct ChangeView<'a> {
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    at: Timestamp,
    /// The ID and name of an application key, `API_KEYS`, the ARN of a role or user, or `local`.
    by: &'a str,
    /// The kind of change, its object, and the names of the fields.
    what: &'a str,
}

impl<'a> ChangeView<'a> {
    pub(crate) fn of(note: &'a ChangeNote) -> Self {
        Self { at: note.at, by: &note.by, what: &note.what }
    }
}
