//! What traffic control does to a webhook now.

use futures_util::future;
use serde::Serialize;
use shared::{
    circuit::State as CircuitState,
    clock::{Timestamp, rfc3339},
    config::Config,
    model::{ErrorKind, Slot, Webhook},
    status::Status,
    store::{Store, StoreError, TargetState},
    traffic::{
        rate_limit::RateLimit,
        slots::Rate,
        target::{Target, TargetKey},
    },
};
use utoipa::ToSchema;

use crate::{openapi::schemas, target_view::TargetView};

/// What traffic control does to the webhook now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Traffic)]
pub(super) struct TrafficView<'a> {
    /// The targets of the webhook that restrict its attempts now: its destination and its URL, or
    /// the endpoint of a delivery. Empty for a finished webhook.
    #[schema(max_items = 2)]
    targets: Vec<TargetView<'a>>,
    /// The configured rate of its host, e.g. `10/1s`. Null without one, and for a finished webhook.
    rate_limit: Option<String>,
    /// When the slot opens for which the webhook waits. Null if its record has none, or if the rate
    /// has changed since, so that it takes a new one.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    pub(super) slot_opens_at: Option<Timestamp>,
}

/// The state of the targets of one webhook.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    /// Those that restrict its attempts.
    pub(super) targets: Vec<TargetState>,
    /// The configured rate of its host.
    pub(super) limit: Option<RateLimit>,
}

/// What holds a webhook back.
#[derive(Debug)]
pub(super) struct Restraint {
    /// No attempt starts before this time. `None`: no such time is known.
    pub(super) until: Option<Timestamp>,
    /// In sentences for people.
    pub(super) reasons: Vec<String>,
}

impl Traffic {
    /// Reads the targets of an unfinished webhook by their keys.
    pub(super) async fn of(
        store: &dyn Store,
        config: &Config,
        webhook: &Webhook,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        if matches!(webhook.status, Status::Delivered | Status::Failed) {
            return Ok(Self::default());
        }
        if let (Some(application), Some(endpoint)) = (&webhook.application, webhook.id.endpoint) {
            let state = store.target(&TargetKey::endpoint(application, endpoint)).await?;
            let restricts = |target: &Target| restricts(target, webhook, now);
            let targets = state.target.as_ref().is_some_and(restricts).then_some(state);
            return Ok(Self { targets: targets.into_iter().collect(), limit: None });
        }
        let origin = TargetKey::origin(&webhook.destination);
        let url = webhook.path_hash.as_ref().map(|hash| TargetKey::url(&webhook.destination, hash));
        let url = async {
            match &url {
                Some(key) => store.target(key).await,
                None => Ok(TargetState::default()),
            }
        };
        let (origin, url) = future::try_join(store.target(&origin), url).await?;
        let restricts = |state: &TargetState| {
            state.target.as_ref().is_some_and(|target| restricts(target, webhook, now))
        };
        Ok(Self {
            targets: [origin, url].into_iter().filter(restricts).collect(),
            limit: config.rate_limits.of_destination(&webhook.destination),
        })
    }

    pub(super) fn view(&self, webhook: &Webhook, now: Timestamp) -> TrafficView<'_> {
        let views = self.targets.iter().filter_map(|state| TargetView::of(state, self.limit, now));
        TrafficView {
            targets: views.collect(),
            rate_limit: self.limit.map(|limit| limit.to_string()),
            slot_opens_at: self.slot_opens_at(webhook.slot.as_ref(), now),
        }
    }

    fn slot_opens_at(&self, slot: Option<&Slot>, now: Timestamp) -> Option<Timestamp> {
        let slot = slot?;
        let targets = self.targets.iter().filter_map(|state| state.target.as_ref());
        let learned = targets
            .filter_map(|target| target.pace(now))
            .map(|pace| Rate::Learned(*pace, self.limit));
        let rate = learned
            .chain(self.limit.map(Rate::Configured))
            .find(|rate| rate.generation() == slot.generation)?;
        Some(rate.opens_at(slot.number))
    }

    /// What holds the webhook back, and until when at least.
    pub(super) fn restraint(&self, webhook: &Webhook, now: Timestamp) -> Restraint {
        let slot_opens_at =
            self.slot_opens_at(webhook.slot.as_ref(), now).filter(|opens_at| *opens_at > now);
        let mut restraint = Restraint { until: slot_opens_at, reasons: Vec::new() };
        for state in &self.targets {
            let Some(view) = TargetView::of(state, self.limit, now) else { continue };
            let open_until = view.open_until.filter(|at| *at > now);
            restraint.until = restraint.until.max(open_until).max(view.paused_until);
            restraint.reasons.extend(circuit_reason(&view));
            restraint.reasons.extend(pace_reason(&view));
        }
        if let Some(limit) = self.limit {
            restraint.reasons.push(format!("The configured rate of its host is {limit}."));
        }
        if let Some(opens_at) = slot_opens_at {
            restraint.reasons.push(format!("Its slot opens at {opens_at}."));
        }
        restraint
    }
}

/// Whether the target holds back this webhook. A circuit that opened for retries lets all others
/// pass.
fn restricts(target: &Target, webhook: &Webhook, now: Timestamp) -> bool {
    let is_exempt = target.circuit.retries_only && !got_5xx(webhook);
    let has_pace = target.pace(now).is_some();
    has_pace || (!is_exempt && target.restricts_until().is_some_and(|until| until > now))
}

/// Whether the latest attempt was answered with 5xx, if there was one since the webhook was
/// accepted or sent again.
fn got_5xx(webhook: &Webhook) -> bool {
    let is_5xx = webhook.last_error.as_ref().is_some_and(|error| {
        error.kind == ErrorKind::HttpStatus && error.status_code.is_some_and(|code| code >= 500)
    });
    is_5xx && webhook.was_attempted()
}

fn noun(view: &TargetView<'_>) -> &'static str {
    match view.target {
        key if key.is_endpoint() => "endpoint",
        key if key.is_url() => "URL",
        _ => "destination",
    }
}

fn circuit_reason(view: &TargetView<'_>) -> Option<String> {
    let noun = noun(view);
    match (view.circuit, view.open_until) {
        (CircuitState::Open, Some(until)) if view.retries_only => Some(format!(
            "The circuit of its {noun} is open until {until}, for webhooks whose latest attempt \
             got a 5xx."
        )),
        (CircuitState::Open, Some(until)) => {
            Some(format!("The circuit of its {noun} is open until {until}."))
        }
        (CircuitState::HalfOpen, _) => Some(format!(
            "The circuit of its {noun} is half-open: one webhook probes it, and the others wait."
        )),
        _ => None,
    }
}

fn pace_reason(view: &TargetView<'_>) -> Option<String> {
    let code = view.paused_by?;
    let noun = noun(view);
    if let Some(until) = view.paused_until {
        return Some(format!(
            "Its {noun} is paused until {until} because the destination answered {code}."
        ));
    }
    // Without the rate, which changes all the time. `traffic` shows it.
    Some(format!(
        "The destination answered {code} lately, so its {noun} gets requests at a learned rate."
    ))
}
