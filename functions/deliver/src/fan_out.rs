//! One look at a published message: sends a look at each delivery that nothing else will look at.
//!
//! | message | action |
//! |---|---|
//! | missing | acknowledge |
//! | being deleted | go on with the deletion |
//! | allowed in more than 2 s | acknowledge if it is due, otherwise hand back |
//! | due, and every delivery is accounted for | it leaves the due index |
//! | otherwise | send the looks, acknowledge |
//! | otherwise, and the queue refuses a look | it is due now |
//! | unreadable, or of a newer schema version | hand back |
//!
//! A message that is due has been moved on in the due index by the sweep. So after the looks were
//! sent nothing is written, and the sweep comes again to see what became of them.

use std::{collections::BTreeMap, time::Duration};

use shared::{
    applications::{
        id::EndpointId,
        message::MAX_EARLY,
        standing::{FanOut, Found, Standing},
    },
    apply::{AppliedToMessage, apply_to_standing},
    clock::Timestamp,
    id::MessageId,
    logging::message_span,
    message::Message,
    message_deletion::finish_deletion,
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, Outgoing, SendError},
    store::{StoreError, WriteMessageError},
    transition::Rules,
};
use tracing::Instrument;

use crate::worker::{Deliver, Disposition};

/// How often one look starts again because another writer changed the message.
const MAX_LOOKS: u32 = 8;

impl Deliver {
    /// Looks at the message until nothing is left to do.
    pub(crate) async fn look_at_message(
        &self,
        id: &MessageId,
        xray_trace_id: Option<&str>,
    ) -> Disposition {
        for _ in 0..MAX_LOOKS {
            let standing = match self.context.store.standing(id).await {
                Ok(Some(standing)) => standing,
                Ok(None) => return Disposition::Acknowledge,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(message_id = %id, error,
                        "Could not read the message; handing its look back");
                    return Disposition::HandBack;
                }
            };
            let span = message_span(&standing.message, xray_trace_id);
            // Boxed, since this future is large.
            match Box::pin(self.fan_out(standing)).instrument(span).await {
                Ok(Some(disposition)) => return disposition,
                Ok(None) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(message_id = %id, error,
                        "Could not write the message; handing its look back");
                    return Disposition::HandBack;
                }
            }
        }
        tracing::warn!(message_id = %id, "The message keeps changing; handing its look back");
        Disposition::HandBack
    }

    /// Takes the next step on this message. Returns `None` if another writer changed it: the caller
    /// then looks again.
    async fn fan_out(&self, standing: Standing) -> Result<Option<Disposition>, StoreError> {
        let now = self.context.clock.now();
        match standing.fan_out(now) {
            FanOut::Delete => {
                let message = standing.message;
                finish_deletion(&*self.context.store, message, now).await?;
                tracing::info!("Completed the deletion of a message");
                Ok(Some(Disposition::Acknowledge))
            }
            FanOut::Early { hand_back: true, .. } => Ok(Some(Disposition::HandBack)),
            FanOut::Early { hand_back: false, .. } => Ok(Some(Disposition::Acknowledge)),
            FanOut::Settle => self.settle(&standing, now).await,
            FanOut::Send(endpoints) => {
                let is_complete = self.send_looks(&standing, &endpoints, now).await;
                if planted::is(Bug::FanoutLeavesEarly) {
                    return self.settle(&standing, now).await;
                }
                if !is_complete {
                    self.adopt(standing, now).await?;
                }
                Ok(Some(Disposition::Acknowledge))
            }
        }
    }

    /// Takes the message out of the due index. The write is conditional on the message that the
    /// standing was read with.
    async fn settle(
        &self,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<Option<Disposition>, StoreError> {
        let message = &standing.message;
        let Ok(settled) = self.context.rules.settle(standing, now) else {
            return Ok(Some(Disposition::Acknowledge));
        };
        match self.context.store.write_message(message, &settled).await {
            Ok(()) | Err(WriteMessageError::Missing) => Ok(Some(Disposition::Acknowledge)),
            Err(WriteMessageError::Conflict(_)) => Ok(None),
            Err(WriteMessageError::Store(error)) => Err(error),
        }
    }

    /// Sends a look at each of these deliveries. Returns whether the queue took all of them.
    async fn send_looks(
        &self,
        standing: &Standing,
        endpoints: &[EndpointId],
        now: Timestamp,
    ) -> bool {
        let mut is_complete = true;
        for batch in endpoints.chunks(MAX_BATCH) {
            let looks: Vec<Outgoing> =
                batch.iter().map(|endpoint| outgoing(standing, *endpoint, now)).collect();
            if let Err(SendError { failed, source }) =
                self.context.queue.send(Lane::Webhooks, &looks).await
            {
                let error = &source as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    looks = failed.len(),
                    "The queue refused looks at deliveries"
                );
                is_complete = false;
                if failed.len() == looks.len() {
                    break;
                }
            }
        }
        is_complete
    }

    /// Enters the message in the due index, due now, because a delivery has no look.
    async fn adopt(&self, standing: Standing, now: Timestamp) -> Result<(), StoreError> {
        let rules = &self.context.rules;
        let id = standing.message.id.clone();
        let adopt = |standing: &Standing| rules.adopt_message(standing, now, now);
        match apply_to_standing(&*self.context.store, Some(standing), &id, adopt).await? {
            AppliedToMessage::Done(_) => tracing::info!("The sweep will send the looks again"),
            AppliedToMessage::Refused(..) | AppliedToMessage::Missing => {}
        }
        Ok(())
    }
}

/// The look at a delivery: with its record if that follows from the message.
fn outgoing(standing: &Standing, endpoint: EndpointId, now: Timestamp) -> Outgoing {
    let Standing { message, found, .. } = standing;
    let unstarted = |found: &BTreeMap<EndpointId, Found>| {
        (!found.contains_key(&endpoint)).then(|| Rules::delivery(message, endpoint)).flatten()
    };
    let (look, delay) = match unstarted(found) {
        Some(webhook) => {
            let delay =
                webhook.allowed_at.map_or(Duration::ZERO, |at| at.since(now).min(MAX_EARLY));
            (Message::with_seen(&webhook), delay)
        }
        None => (Message::look_at(message.id.delivery(endpoint)), Duration::ZERO),
    };
    Outgoing { body: look.to_json(), delay, group: message.fairness_group().to_owned() }
}
