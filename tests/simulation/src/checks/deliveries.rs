//! Deliveries: their endpoints, and what their receivers get.

use shared::{
    id::WebhookId,
    model::{ErrorKind, Webhook},
    status::Status,
};

use super::number_in;
use crate::{
    application_load::canary_in,
    state::{
        records::{short, short_id},
        tracking::Checks,
    },
    world::Process,
};

/// Whether it failed because of its endpoint.
pub(super) fn is_endpoint_gone(delivery: &Webhook) -> bool {
    let kind = delivery.last_error.as_ref().map(|error| error.kind);
    delivery.status == Status::Failed
        && matches!(kind, Some(ErrorKind::EndpointDeleted | ErrorKind::EndpointDisabled))
}

/// What a receiver got.
pub(crate) struct Received<'a> {
    pub(crate) id: &'a WebhookId,
    pub(crate) attempt: u32,
    pub(crate) url: &'a str,
    pub(crate) payload: &'a [u8],
    /// The value of `webhook-signature`.
    pub(crate) signature: &'a str,
    /// What the signature has to be with the receiver's secret.
    pub(crate) expected: Option<String>,
}

impl Checks {
    /// A delivery fails for its endpoint only if the stored document says so while the worker looks
    /// at it.
    pub(super) fn endpoint_gone(&mut self, process: &Process, after: &Webhook) {
        let is_new = after.failed_at == Some(after.updated_at);
        let (Some(application), Some(endpoint)) = (&after.application, after.id.endpoint) else {
            return;
        };
        if !is_endpoint_gone(after) || !is_new {
            return;
        }
        let (now, kind) = (process.world.now(), after.last_error.as_ref().map(|error| error.kind));
        let from = process.invoked_at().minus(self.max_skew);
        let was_gone = self.published.documents(application, from, now).any(|document| {
            let found = document.endpoint(endpoint);
            match kind {
                Some(ErrorKind::EndpointDisabled) => {
                    found.is_some_and(|endpoint| !endpoint.is_enabled())
                }
                _ => found.is_none(),
            }
        });
        self.require(was_gone, || {
            format!("{process} failed {} for {kind:?}, and the endpoint is there", short(after))
        });
    }

    /// A delivery goes to an endpoint of its plan, as the endpoint was when the worker claimed it,
    /// and is signed with its secret.
    pub(crate) fn delivery_requested(&mut self, process: &Process, received: &Received<'_>) {
        let Received { id, attempt, url, payload, .. } = *received;
        let (name, now) = (short_id(id), process.world.now());
        let known = self.published.messages.get(&id.task);
        let Some((ledger, endpoint)) = known.zip(id.endpoint) else {
            return self.require(false, || format!("{name} was sent, and never published"));
        };
        let application = ledger.application.clone();
        let is_planned = ledger.plan.contains(&endpoint);
        self.require(is_planned, || format!("{name} was sent outside the plan"));
        let canary = canary_in(payload);
        self.require(canary.as_deref() == Some(application.as_str()), || {
            format!("{name} has a payload of {canary:?}, not of {application}")
        });
        let number = number_in(payload).unwrap_or(u64::MAX);
        let is_own = self.created_for.get(&number).is_some_and(|ids| ids.contains(&id.task));
        self.require(is_own, || format!("{name} has the payload of another message"));
        let claimed_at = self.progress.get(id).and_then(|known| known.claimed_at.get(&attempt));
        let claimed_at = claimed_at.copied().unwrap_or(now);
        let from = claimed_at.minus(self.published.cache + self.published.slow);
        let known = self.published.endpoints(&application, endpoint, from, now);
        let urls: Vec<&str> = known
            .filter(|endpoint| endpoint.is_enabled())
            .map(|endpoint| endpoint.url.as_str())
            .collect();
        let (was_enabled, has_url) = (!urls.is_empty(), urls.contains(&url));
        self.require(was_enabled, || {
            format!("attempt {attempt} of {name} was sent, and its endpoint is off or deleted")
        });
        self.require(has_url || !was_enabled, || {
            format!("attempt {attempt} of {name} went to {url}")
        });
        self.signed(received, &name);
    }

    fn signed(&mut self, received: &Received<'_>, name: &str) {
        let is_signed = received.expected.as_deref() == Some(received.signature);
        self.require(is_signed, || {
            let Received { signature, expected, .. } = received;
            format!("{name} is signed {signature:?}, and its receiver expects {expected:?}")
        });
    }
}
