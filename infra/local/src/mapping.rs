//! An event source mapping: polls one lane of the queue, calls the function with batches,
//! acknowledges what it did, and lets go of what it handed back.

use std::{future::Future, sync::Arc, time::Duration};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use shared::queue::{Lane, Queue, QueueError, Received};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    events::{self, MalformedAnswer},
    functions::CallError,
};

/// How long one poll waits for a message.
const POLL_WAIT: Duration = Duration::from_secs(20);

/// The wait after a message was handed back, times its receives.
const HAND_BACK_WAIT: Duration = Duration::from_secs(10);

/// The wait after the queue failed a poll.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// Why a whole batch goes back.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The function brought no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What it answered is not to be understood.
    #[error(transparent)]
    Answer(#[from] MalformedAnswer),
}

/// What to poll, and how.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Which lane of it.
    pub lane: Lane,
    /// Messages in a batch, at most.
    pub batch_size: usize,
    /// Batches at a time.
    pub max_concurrency: usize,
    /// How long a received message is hidden.
    pub visibility: Duration,
}

impl Mapping {
    /// Polls until `stop` says so, then waits for the batches in flight. `free` waits until the
    /// function could work on another message, and tells on how many; none are received that would
    /// only wait.
    pub async fn run<Call, Answer>(
        self,
        call: Call,
        free: impl AsyncFn() -> usize,
        mut stop: watch::Receiver<bool>,
    ) where
        Call: Fn(SqsEvent) -> Answer + Clone + Send + 'static,
        Answer: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        let invocations = Arc::new(Semaphore::new(self.max_concurrency));
        let stopped = async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        tokio::select! {
            () = stopped => {}
            () = self.poll(&invocations, call, free) => {}
        }
        // Every permit is back once the last batch is done. The semaphore is never closed.
        let _ = invocations.acquire_many(self.max_concurrency as u32).await;
    }

    async fn poll<Call, Answer>(
        &self,
        invocations: &Arc<Semaphore>,
        call: Call,
        free: impl AsyncFn() -> usize,
    ) where
        Call: Fn(SqsEvent) -> Answer + Clone + Send + 'static,
        Answer: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        // Ends only if the semaphore is closed, which it never is.
        while let Ok(permit) = Arc::clone(invocations).acquire_owned().await {
            let max = self.batch_size.min(free().await);
            match self.queue.receive(self.lane, max, self.visibility, POLL_WAIT).await {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    tokio::spawn(self.clone().invoke(messages, call.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, lane = ?self.lane,
                        "The queue cannot be polled now");
                    tokio::time::sleep(TROUBLE_WAIT).await;
                }
            }
        }
    }

    async fn invoke<Call, Answer>(
        self,
        messages: Vec<Received>,
        call: Call,
        _permit: OwnedSemaphorePermit,
    ) where
        Call: Fn(SqsEvent) -> Answer + Send,
        Answer: Future<Output = Result<SqsBatchResponse, BatchError>> + Send + 'static,
    {
        let (back, done, is_untouched) = match call(events::sqs(self.lane, &messages)).await {
            Ok(response) => {
                let (back, done) = events::split(messages, &response);
                (back, done, false)
            }
            Err(error) => {
                tracing::warn!(%error, lane = ?self.lane, messages = messages.len(),
                    "A batch is handed back");
                (messages, Vec::new(), matches!(error, BatchError::Call(CallError::NotTaken(_))))
            }
        };
        let receipts: Vec<String> = done.into_iter().map(|message| message.receipt).collect();
        if let Err(error) = self.settle(&receipts, back, is_untouched).await {
            // The messages come again when their visibility timeout ends, and cost one look each.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Messages could not be acknowledged"
            );
        }
    }

    /// What no function has seen waits for nothing.
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
