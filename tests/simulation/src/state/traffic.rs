//! What the checks of pauses, rates and slots know. The checks are in `traffic_checks`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shared::{
    clock::Timestamp,
    id::WebhookId,
    traffic::{rate_limit::RateLimit, target::TargetKey},
};

use crate::plan::{Plan, Traffic};

/// What the checks of pauses, rates and slots know.
#[derive(Debug)]
pub(crate) struct TrafficChecks {
    pub(crate) limit: Option<RateLimit>,
    pub(crate) max_defer: Duration,
    /// The maximum difference between two clocks.
    pub(crate) max_skew: Duration,
    /// Whether each call of the store succeeds.
    pub(crate) is_sound: bool,
    /// The requests to the host with the configured rate.
    pub(crate) requests: Vec<Timestamp>,
    /// When the end of the pause of a target last changed, and the process that wrote it.
    pub(crate) paused: BTreeMap<TargetKey, (Timestamp, u32)>,
    /// The targets with slots for late webhooks.
    pub(crate) late: BTreeSet<TargetKey>,
    /// The webhooks that hold a slot.
    pub(crate) holders: BTreeMap<(TargetKey, String, i64), BTreeSet<WebhookId>>,
    /// The milliseconds for which the messages of a webhook waited since `deliver` last wrote the
    /// end of an attempt or a deferral.
    pub(crate) relayed_ms: BTreeMap<WebhookId, u64>,
}

impl TrafficChecks {
    pub(crate) fn new(plan: &Plan) -> Self {
        let limit = match plan.traffic {
            Some(Traffic::Limited(limit)) => Some(limit),
            _ => None,
        };
        Self {
            limit,
            max_defer: plan.max_defer,
            max_skew: Duration::from_millis(2 * plan.skew_ms.unsigned_abs()),
            is_sound: plan.has_sound_store(),
            requests: Vec::new(),
            paused: BTreeMap::new(),
            late: BTreeSet::new(),
            holders: BTreeMap::new(),
            relayed_ms: BTreeMap::new(),
        }
    }
}
