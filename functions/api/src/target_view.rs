//! A target of traffic control, as responses show it.

use serde::Serialize;
use shared::{
    circuit::State as CircuitState,
    clock::{Timestamp, rfc3339},
    store::TargetState,
    traffic::{rate_limit::RateLimit, target::TargetKey},
};
use utoipa::ToSchema;

use crate::openapi::schemas;

/// A unit of traffic control: a destination as a whole, or a URL without its query.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Target)]
pub(crate) struct TargetView<'a> {
    /// The destination. A URL has `#` and a hash of its path behind it.
    #[schema(value_type = String)]
    pub(crate) target: &'a TargetKey,
    /// The state of its circuit.
    #[schema(value_type = schemas::CircuitState)]
    pub(crate) circuit: CircuitState,
    /// When the next probe is allowed. In the past if the circuit is half-open. Null if it is
    /// closed.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    pub(crate) open_until: Option<Timestamp>,
    /// Whether the circuit defers only webhooks whose latest attempt got a 5xx. Only a destination
    /// whose answers were all 5xx, on several paths, opens this way.
    pub(crate) retries_only: bool,
    /// When the pause ends that the receiver asked for. Null if the target is not paused.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<schemas::Time>)]
    pub(crate) paused_until: Option<Timestamp>,
    /// The status code by which the receiver asked for fewer requests: 429 or 503. Null if it did
    /// not lately.
    #[schema(minimum = 400, maximum = 599)]
    pub(crate) paused_by: Option<u16>,
    /// The learned rate, in attempts per second. During a pause, the rate at its end. Null if the
    /// receiver did not refuse requests lately.
    #[schema(minimum = 0)]
    pub(crate) learned_rate: Option<f64>,
    /// The number of slots of the learned rate that webhooks hold and that have not opened yet.
    pub(crate) waiting: u64,
}

impl<'a> TargetView<'a> {
    /// The view of a stored target. `limit` is the configured rate of its host.
    pub(crate) fn of(
        state: &'a TargetState,
        limit: Option<RateLimit>,
        now: Timestamp,
    ) -> Option<Self> {
        let target = state.target.as_ref()?;
        let limit = limit.map(RateLimit::per_second);
        let pace = target.pace(now);
        Some(Self {
            target: &target.key,
            circuit: target.circuit.state(now),
            open_until: target.circuit.open_until,
            retries_only: target.circuit.retries_only,
            paused_until: pace.filter(|pace| pace.is_paused(now)).map(|pace| pace.resume_at),
            paused_by: pace.map(|pace| pace.status_code),
            learned_rate: pace.map(|pace| pace.rate(now, limit)),
            waiting: state.waiting(limit, now),
        })
    }
}
