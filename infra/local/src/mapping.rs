//! An event source mapping: polls one lane of the queue and invokes the function with batches. It
//! acknowledges the messages that the function processed and releases those that it handed back.

use std::{future::Future, sync::Arc, time::Duration};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use shared::queue::{Lane, Queue, QueueError, Received};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    events::{self, MalformedResponse},
    functions::CallError,
};

/// The time that one poll waits for a message.
const POLL_WAIT: Duration = Duration::from_secs(20);

/// The time that a message stays hidden after it was handed back, for each receive so far.
const HAND_BACK_WAIT: Duration = Duration::from_secs(10);

/// The wait after a failed poll.
const ERROR_BACKOFF: Duration = Duration::from_secs(1);

/// Why a whole batch is handed back.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The function returned no response.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The response is malformed.
    #[error(transparent)]
    Response(#[from] MalformedResponse),
}

/// The settings of a mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The lane to poll.
    pub lane: Lane,
    /// The maximum number of messages in a batch.
    pub batch_size: usize,
    /// The maximum number of concurrent invocations.
    pub max_concurrency: usize,
    /// The visibility timeout of a received message.
    pub visibility: Duration,
}

impl Mapping {
    /// Polls until `stop` is true, then waits for the batches in flight. `free` waits until the
    /// function has capacity and returns for how many messages. No more are received, because they
    /// would only wait.
    pub async fn run<Call, Response>(
        self,
        call: Call,
        free: impl AsyncFn() -> usize,
        mut stop: watch::Receiver<bool>,
    ) where
        Call: Fn(SqsEvent) -> Response + Clone + Send + 'static,
        Response: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        let invocations = Arc::new(Semaphore::new(self.max_concurrency));
        let stopped = async move {
            // An error means that the sender is gone, which also stops the mapping.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        tokio::select! {
            () = stopped => {}
            () = self.poll(&invocations, call, free) => {}
        }
        // All permits are free once the last batch is done. The semaphore is never closed.
        let _ = invocations.acquire_many(self.max_concurrency as u32).await;
    }

    async fn poll<Call, Response>(
        &self,
        invocations: &Arc<Semaphore>,
        call: Call,
        free: impl AsyncFn() -> usize,
    ) where
        Call: Fn(SqsEvent) -> Response + Clone + Send + 'static,
        Response: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        // The semaphore is never closed, so the loop ends only when it is dropped.
        while let Ok(permit) = Arc::clone(invocations).acquire_owned().await {
            let max = self.batch_size.min(free().await);
            match self.queue.receive(self.lane, max, self.visibility, POLL_WAIT).await {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    tokio::spawn(self.clone().invoke(messages, call.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, lane = ?self.lane,
                        "Could not poll the queue");
                    tokio::time::sleep(ERROR_BACKOFF).await;
                }
            }
        }
    }

    async fn invoke<Call, Response>(
        self,
        messages: Vec<Received>,
        call: Call,
        _permit: OwnedSemaphorePermit,
    ) where
        Call: Fn(SqsEvent) -> Response + Send,
        Response: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        let (back, done, is_untouched) = match call(events::sqs(self.lane, &messages)).await {
            Ok(response) => {
                let (back, done) = events::partition(messages, &response);
                (back, done, false)
            }
            Err(error) => {
                tracing::warn!(%error, lane = ?self.lane, messages = messages.len(),
                    "Handing back a batch");
                (messages, Vec::new(), matches!(error, BatchError::Call(CallError::NotAccepted(_))))
            }
        };
        let receipts: Vec<String> = done.into_iter().map(|message| message.receipt).collect();
        if let Err(error) = self.settle(&receipts, back, is_untouched).await {
            // The queue delivers the messages again after their visibility timeout. Each then costs
            // one look.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Could not acknowledge or release messages");
        }
    }

    /// Acknowledges and releases messages. Those that no function received become visible at once.
    async fn settle(
        &self,
        done: &[String],
        back: Vec<Received>,
        is_untouched: bool,
    ) -> Result<(), QueueError> {
        if !done.is_empty() {
            self.queue.acknowledge(self.lane, done).await?;
        }
        for message in back {
            let usual = HAND_BACK_WAIT.saturating_mul(message.receives).min(self.visibility);
            let wait = if is_untouched { Duration::ZERO } else { usual };
            self.queue.release(self.lane, &[message.receipt], wait).await?;
        }
        Ok(())
    }
}
