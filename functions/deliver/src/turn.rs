//! What a webhook keeps while its messages make it wait, without a write.

use std::{borrow::Cow, time::Duration};

use shared::{
    model::{Budget, Slot, Webhook},
    transition::{Limits, SlotWait},
};

/// The place that a webhook keeps between two looks. Its message carries it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldTurn {
    /// The slot for which it waits.
    pub(crate) slot: Option<Slot>,
    /// How often in a row its message was sent again to wait.
    pub(crate) relays: u32,
    /// For how many milliseconds in all those messages waited for a learned rate.
    pub(crate) paused_ms: u64,
    /// The same for a configured rate.
    pub(crate) rate_limited_ms: u64,
}

impl HeldTurn {
    /// What the webhook has used up, including the waits of its messages.
    pub(crate) fn budget(&self, stored: Budget, limits: &Limits) -> Budget {
        Budget {
            relays: self.relays(stored, limits),
            paused_ms: stored.paused_ms.saturating_add(self.paused_ms),
            rate_limited_ms: stored.rate_limited_ms.saturating_add(self.rate_limited_ms),
            ..stored
        }
    }

    /// Adds the messages that made the webhook wait to those that its record counts: the platform
    /// counts all of them as one loop.
    pub(crate) fn counted<'a>(&self, webhook: &'a Webhook, limits: &Limits) -> Cow<'a, Webhook> {
        if self.relays == 0 {
            return Cow::Borrowed(webhook);
        }
        let budget = Budget { relays: self.relays(webhook.budget, limits), ..webhook.budget };
        Cow::Owned(Webhook { budget, ..webhook.clone() })
    }

    /// The record may already count messages of another copy of this one.
    fn relays(&self, stored: Budget, limits: &Limits) -> u32 {
        let all = stored.relays.saturating_add(self.relays);
        all.min(limits.max_relays.max(stored.relays))
    }

    /// The turn that a message carries which makes the webhook wait for `delay`.
    pub(crate) fn after(&self, wait: SlotWait, delay: Duration) -> Self {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let (paused_ms, rate_limited_ms) =
            if wait.is_learned { (delay_ms, 0) } else { (0, delay_ms) };
        Self {
            slot: wait.slot,
            relays: self.relays.saturating_add(1),
            paused_ms: self.paused_ms.saturating_add(paused_ms),
            rate_limited_ms: self.rate_limited_ms.saturating_add(rate_limited_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::{
        clock::Timestamp,
        id::{TaskId, WebhookId},
        transition::{NewWebhook, Rules},
    };

    use super::*;

    /// The platform stops a loop after 16 messages, whatever makes the webhook wait.
    #[test]
    fn the_messages_of_a_turn_count_with_those_of_the_record() {
        let now = Timestamp::from_millis(1_000);
        let new = NewWebhook {
            id: WebhookId::direct("order-7".parse().unwrap(), TaskId::mint(now, [7; 10])),
            referenced: true,
            correlation_id: "cor-7".to_owned(),
            event_type: None,
            destination: "https://example.com:443".to_owned(),
            path_hash: None,
            retry: None,
            deliver_at: None,
            trace: None,
        };
        let mut webhook = Rules::default().create(new, now);
        webhook.budget.relays = 2;
        let turn = HeldTurn { relays: 5, paused_ms: 3, rate_limited_ms: 4, ..HeldTurn::default() };
        let limits = Limits::default();
        let budget = turn.budget(webhook.budget, &limits);
        assert_eq!((budget.relays, budget.paused_ms, budget.rate_limited_ms), (7, 3, 4));
        assert_eq!(turn.counted(&webhook, &limits).budget, Budget { relays: 7, ..webhook.budget });
        let more = HeldTurn { relays: 9, ..turn };
        assert_eq!(more.budget(webhook.budget, &limits).relays, limits.max_relays);
        assert_eq!(HeldTurn::default().counted(&webhook, &limits).budget, webhook.budget);
    }
}
