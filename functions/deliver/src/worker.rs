//! The state of `deliver` in one process.

use std::{sync::Arc, time::Duration};

use shared::{
    clock::Timestamp,
    context::Context,
    model::Webhook,
    queue::{Lane, Outgoing},
    sender::{Lookup, Sender},
    store::StoreError,
    transition::GiveUp,
};
use tokio::sync::Semaphore;

use crate::{
    circuit_breaker::CircuitBreaker,
    host_limiter::{HostLimiter, max_concurrent_attempts},
    rate_limiter::RateLimiter,
};

/// The function. Created once per process.
#[derive(Clone, Debug)]
pub struct Deliver {
    pub(crate) context: Context,
    pub(crate) sender: Arc<dyn Sender>,
    /// Limits concurrent attempts across all invocations in this process. A hanging attempt
    /// returns its slot: see `host_limiter`.
    pub(crate) slots: Arc<Semaphore>,
    /// Limits concurrent attempts for each destination.
    pub(crate) hosts: Arc<HostLimiter>,
    pub(crate) breaker: Arc<CircuitBreaker>,
    pub(crate) rates: Arc<RateLimiter>,
}

/// What happens to a queue message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Delete it. The work is done, or the due index holds the webhook.
    Acknowledge,
    /// Return it to the queue, which delivers it again.
    HandBack,
}

/// The result of one step on a webhook. Records are boxed here and in the steps: a future holds the
/// values of each call in it, so it would hold a record many times.
pub(crate) enum StepResult {
    /// An outcome or a wait was recorded.
    Recorded(Box<Webhook>),
    /// Nothing is left to do with this message, or nothing can be done now.
    Ended(Disposition),
    /// The stored record is not the one that was seen.
    Changed,
    /// The webhook must be given up for this reason, according to this record.
    BudgetSpent(Box<Webhook>, GiveUp),
}

impl Deliver {
    /// Creates the function. It makes its attempts with this sender.
    pub fn new(context: Context, sender: Arc<dyn Sender>) -> Self {
        let (slots, per_host) =
            (context.config.deliver_concurrency, context.config.deliver_host_concurrency);
        let lookup: Arc<dyn Lookup> = Arc::<dyn Sender>::clone(&sender);
        let hosts = HostLimiter::new(per_host, slots, Arc::clone(&context.clock), lookup);
        Self {
            context,
            sender,
            slots: Arc::new(Semaphore::new(slots)),
            hosts: Arc::new(hosts),
            breaker: Arc::default(),
            rates: Arc::default(),
        }
    }

    /// Waits for a free slot and returns how many are free, which is at least 1. A caller that
    /// polls a queue receives no more messages than that.
    pub async fn free_slots(&self) -> usize {
        // The semaphore is never closed, and the permit is returned at once.
        let _ = self.slots.acquire().await;
        self.slots.available_permits().max(1)
    }

    /// The maximum number of concurrent attempts, including those that hang. A caller that allows
    /// fewer concurrent invocations would wait for hanging ones.
    pub fn max_concurrent_attempts(&self) -> usize {
        max_concurrent_attempts(self.context.config.deliver_concurrency)
    }

    /// When an invocation that starts now must end. `deadline_ms` is the platform's deadline, in
    /// milliseconds since the epoch.
    pub fn invocation_end(&self, deadline_ms: u64) -> Timestamp {
        self.context.config.invocation_end(deadline_ms, self.context.clock.now())
    }

    /// Sends one message to `lane`. If the queue refuses it, the message in work is handed back.
    pub(crate) async fn enqueue(
        &self,
        lane: Lane,
        body: String,
        delay: Duration,
        group: &str,
    ) -> Disposition {
        let outgoing = Outgoing { body, delay, group: group.to_owned() };
        match self.context.queue.send(lane, &[outgoing]).await {
            Ok(()) => Disposition::Acknowledge,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, ?lane, "Could not send a message to the queue");
                Disposition::HandBack
            }
        }
    }
}

/// Logs that the store failed and hands the message back. `action` completes "Could not … the
/// webhook".
pub(crate) fn hand_back(error: &StoreError, action: &str) -> Disposition {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "Could not {action} the webhook; handing its message back");
    Disposition::HandBack
}
