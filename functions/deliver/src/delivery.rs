//! A delivery's record, which follows from its message as long as nothing has started.
//!
//! | key of the delivery, message | action |
//! |---|---|
//! | record | the record decides, unless the message is being deleted |
//! | expired record, marker; no message | acknowledge |
//! | vacant; the delivery may start | the record that the rules define, of revision 0 |
//! | vacant; it did not start within 14 days | store it as failed |
//! | vacant; allowed in more than 2 s | acknowledge if the message is due, otherwise hand back |
//! | vacant; finished long ago, not in the plan, or being deleted | acknowledge |
//!
//! The first write of a delivery takes effect only if its key is vacant.

use shared::{
    applications::{message::START_WITHIN, standing::Found},
    apply::{Applied, apply_unchanged},
    id::WebhookId,
    logging::webhook_span,
    model::Webhook,
    store::{StoreError, StoredDelivery},
    transition::{Rules, Unstarted},
};

use crate::worker::{Deliver, Disposition, hand_back};

/// A record, or the store's error. `None`: there is nothing to do.
pub(crate) type Read = Result<Option<Box<Webhook>>, StoreError>;

impl Deliver {
    /// Reads the record of a delivery. An error is what happens to the message, because no step on
    /// a record follows.
    pub(crate) async fn read_delivery(&self, id: &WebhookId) -> Result<Read, Disposition> {
        let stored = match self.context.store.delivery(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        let StoredDelivery { message, found } = stored;
        match found {
            // The deletion goes on with its markers.
            Some(Found::Record(_)) if message.deleting => Ok(Ok(None)),
            Some(Found::Record(webhook)) => Ok(Ok(Some(webhook))),
            Some(Found::Expired | Found::Marker) => Ok(Ok(None)),
            Some(Found::Unreadable) => {
                tracing::warn!(webhook_id = %id,
                    "Cannot read the record of the delivery; handing its message back");
                Err(Disposition::HandBack)
            }
            None => {
                let Some(endpoint) = id.endpoint else { return Ok(Ok(None)) };
                match Rules::unstarted(&message, endpoint, self.context.clock.now()) {
                    Unstarted::MayStart(webhook) => Ok(Ok(Some(webhook))),
                    Unstarted::TooOld(webhook) => Err(self.abandon(*webhook).await),
                    Unstarted::Early { hand_back: true } => Err(Disposition::HandBack),
                    Unstarted::Early { hand_back: false }
                    | Unstarted::Finished
                    | Unstarted::Deleting
                    | Unstarted::NotPlanned => Ok(Ok(None)),
                }
            }
        }
    }

    /// Whether a record in a message can be the current one. The record of a delivery that has not
    /// started can be, as long as nothing that finished has left its key.
    pub(crate) fn may_be_current(&self, seen: &Webhook) -> bool {
        let allowed_at = seen.allowed_at.unwrap_or(seen.created_at);
        seen.revision > 0 || self.context.clock.now() < allowed_at.plus(START_WITHIN)
    }

    /// Stores a delivery as failed that has not started in time.
    async fn abandon(&self, delivery: Webhook) -> Disposition {
        let now = self.context.clock.now();
        let rules = &self.context.rules;
        let abandon = |webhook: &Webhook| rules.abandon(webhook, now);
        match apply_unchanged(&*self.context.store, delivery, abandon).await {
            Ok(Applied::Done(webhook, ())) => {
                webhook_span(&webhook, None).in_scope(|| {
                    tracing::warn!("Giving up a delivery that has not started in time");
                });
                self.send_to_dead_letters(&webhook).await
            }
            // Another worker has just started it. The next receive looks again.
            Ok(Applied::Refused(..)) => Disposition::HandBack,
            Ok(Applied::Missing) => Disposition::Acknowledge,
            Err(error) => hand_back(&error, "fail"),
        }
    }
}
