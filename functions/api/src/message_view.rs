//! Messages and deliveries as an application's callers see them.

use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    applications::{
        event_type::EventType,
        id::{ApplicationId, EndpointId},
        message::PublishedMessage,
    },
    clock::{Timestamp, rfc3339},
    id::{MessageId, ReferenceId, WebhookId},
    model::Webhook,
    status::Status,
    transition::Rules,
};
use utoipa::ToSchema;

use crate::{
    openapi::schemas,
    publish::Published,
    respond::to_json,
    view::{AttemptView, ErrorView, max_attempts, next_attempt_at},
};

/// A delivery that a message plans.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlannedDelivery)]
pub(crate) struct PlannedView {
    #[schema(value_type = schemas::DeliveryId)]
    pub(crate) delivery_id: WebhookId,
    #[schema(value_type = schemas::EndpointId)]
    pub(crate) endpoint_id: EndpointId,
}

impl PlannedView {
    pub(crate) fn of(id: &WebhookId) -> Option<Self> {
        id.endpoint.map(|endpoint_id| Self { delivery_id: id.clone(), endpoint_id })
    }

    /// Every delivery of the message, in the order of its plan.
    fn all(message: &PublishedMessage) -> Vec<Self> {
        let planned = message.plan.iter().map(|entry| Self {
            delivery_id: message.id.delivery(entry.endpoint),
            endpoint_id: entry.endpoint,
        });
        planned.collect()
    }
}

/// The response to a published message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Published)]
pub(crate) struct PublishedView<'a> {
    /// Null if the message was not stored.
    #[schema(value_type = Option<schemas::MessageId>)]
    message_id: Option<&'a MessageId>,
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    /// Null if the message was not stored and the request has none.
    #[schema(value_type = Option<schemas::ReferenceId>)]
    reference_id: Option<&'a ReferenceId>,
    #[schema(value_type = schemas::EventType)]
    event_type: &'a EventType,
    /// Whether the message was stored. False if no endpoint matches it, unless the application has
    /// `keep_unmatched`.
    kept: bool,
    /// The deliveries of the message.
    #[schema(max_items = 100)]
    deliveries: Vec<PlannedView>,
    /// The endpoints that match and are disabled. Nothing is sent to them.
    #[schema(max_items = 100, value_type = Vec<schemas::EndpointId>)]
    disabled: &'a [EndpointId],
}

impl<'a> PublishedView<'a> {
    /// It has only what never changes. So a repeated response is the same.
    pub(crate) fn of(published: &'a Published) -> Self {
        match published {
            Published::Kept { message, .. } => Self {
                message_id: Some(&message.id),
                application_id: &message.application,
                reference_id: Some(&message.id.reference),
                event_type: &message.event_type,
                kept: true,
                deliveries: PlannedView::all(message),
                disabled: &message.off,
            },
            Published::Unmatched { application, publication } => Self {
                message_id: None,
                application_id: application,
                reference_id: publication.reference.as_ref(),
                event_type: &publication.event_type,
                kept: false,
                deliveries: Vec::new(),
                disabled: &[],
            },
        }
    }
}

/// The response body for a published message.
pub(crate) fn published(published: &Published) -> String {
    to_json(&PublishedView::of(published))
}

/// A message in a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageSummary)]
pub(crate) struct MessageView<'a> {
    #[serde(flatten)]
    head: MessageHead<'a>,
    /// The deliveries of the message.
    #[schema(max_items = 100)]
    deliveries: Vec<PlannedView>,
}

/// A message with the states of its deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageDetails<'a> {
    #[serde(flatten)]
    head: MessageHead<'a>,
    /// The deliveries, in the order of the plan. Deleted and expired ones are left out.
    #[schema(max_items = 100)]
    deliveries: Vec<DeliveryState<'a>>,
    /// Present with `include=payload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Anything, required = false)]
    payload: Option<&'a RawValue>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageHead<'a> {
    #[schema(value_type = schemas::MessageId)]
    message_id: &'a MessageId,
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    #[schema(value_type = schemas::EventType)]
    event_type: &'a EventType,
    correlation_id: &'a str,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    created_at: Timestamp,
    /// No attempt starts before this time: `deliver_at`, or when the message was published.
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    deliver_at: Timestamp,
    /// Whether the message is being deleted. Nothing starts any more.
    deleting: bool,
    /// The endpoints that matched and were disabled. Nothing is sent to them.
    #[schema(max_items = 100, value_type = Vec<schemas::EndpointId>)]
    disabled: &'a [EndpointId],
}

impl<'a> MessageHead<'a> {
    fn of(message: &'a PublishedMessage) -> Self {
        Self {
            message_id: &message.id,
            application_id: &message.application,
            reference_id: &message.id.reference,
            event_type: &message.event_type,
            correlation_id: &message.correlation_id,
            created_at: message.created_at,
            deliver_at: message.allowed_at,
            deleting: message.deleting,
            disabled: &message.off,
        }
    }
}

impl<'a> MessageView<'a> {
    pub(crate) fn of(message: &'a PublishedMessage) -> Self {
        Self { head: MessageHead::of(message), deliveries: PlannedView::all(message) }
    }
}

impl<'a> MessageDetails<'a> {
    pub(crate) fn of(
        message: &'a PublishedMessage,
        deliveries: &'a [Webhook],
        payload: Option<&'a RawValue>,
    ) -> Self {
        let deliveries = deliveries.iter().filter_map(DeliveryState::of).collect();
        Self { head: MessageHead::of(message), deliveries, payload }
    }
}

/// The state of a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryState<'a> {
    #[serde(flatten)]
    delivery: PlannedView,
    #[schema(value_type = schemas::Status)]
    status: Status,
    /// Whether it is a dead letter: it failed and was archived.
    dead_letter: bool,
    /// The number of attempts that have started.
    attempt_count: u32,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    next_attempt_at: Option<Timestamp>,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    delivered_at: Option<Timestamp>,
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    failed_at: Option<Timestamp>,
    last_error: Option<ErrorView<'a>>,
}

impl<'a> DeliveryState<'a> {
    /// `None` for a direct webhook.
    fn of(webhook: &'a Webhook) -> Option<Self> {
        Some(Self {
            delivery: PlannedView::of(&webhook.id)?,
            status: webhook.status,
            dead_letter: webhook.is_dead_letter(),
            attempt_count: webhook.attempt_count,
            next_attempt_at: next_attempt_at(webhook),
            delivered_at: webhook.delivered_at,
            failed_at: webhook.failed_at,
            last_error: webhook.last_error.as_ref().map(ErrorView::of),
        })
    }
}

/// A delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView<'a> {
    #[serde(flatten)]
    state: DeliveryState<'a>,
    #[schema(value_type = schemas::MessageId)]
    message_id: MessageId,
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    #[schema(value_type = schemas::ReferenceId)]
    reference_id: &'a ReferenceId,
    #[schema(value_type = Option<schemas::EventType>)]
    event_type: Option<&'a str>,
    correlation_id: &'a str,
    /// The endpoint's URL. Null if the endpoint was deleted.
    url: Option<&'a str>,
    /// The number of the last attempt if all attempts fail like the latest one.
    max_attempts: u32,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    created_at: Timestamp,
    #[serde(with = "rfc3339")]
    #[schema(value_type = schemas::Time)]
    updated_at: Timestamp,
    /// The recorded attempts, oldest first.
    #[schema(max_items = 50)]
    attempts: Vec<AttemptView<'a>>,
    /// Present with `include=payload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Anything, required = false)]
    payload: Option<&'a RawValue>,
}

impl<'a> DeliveryView<'a> {
    /// `None` for a direct webhook.
    pub(crate) fn of(webhook: &'a Webhook, url: Option<&'a str>, rules: &Rules) -> Option<Self> {
        Some(Self {
            state: DeliveryState::of(webhook)?,
            message_id: webhook.id.message_id()?,
            application_id: webhook.application.as_ref()?,
            reference_id: &webhook.id.reference,
            event_type: webhook.event_type.as_deref(),
            correlation_id: &webhook.correlation_id,
            url,
            max_attempts: max_attempts(webhook, rules),
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
            attempts: webhook.attempts.iter().map(AttemptView::of).collect(),
            payload: None,
        })
    }

    /// Adds the payload.
    pub(crate) fn with_payload(self, payload: &'a RawValue) -> Self {
        Self { payload: Some(payload), ..self }
    }
}

/// The response to a resend of one delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Resent)]
pub(crate) struct ResentView<'a> {
    #[serde(flatten)]
    delivery: PlannedView,
    #[schema(value_type = schemas::MessageId)]
    message_id: MessageId,
    #[schema(value_type = schemas::ApplicationId)]
    application_id: &'a ApplicationId,
    #[schema(value_type = schemas::Status)]
    status: Status,
}

/// The response body for a delivery that was resent. The status is always `pending`, so a repeated
/// response is the same.
pub(crate) fn resent(webhook: &Webhook) -> String {
    let view = || {
        Some(ResentView {
            delivery: PlannedView::of(&webhook.id)?,
            message_id: webhook.id.message_id()?,
            application_id: webhook.application.as_ref()?,
            status: Status::Pending,
        })
    };
    to_json(&view())
}
