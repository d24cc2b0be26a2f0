//! The queue on Amazon SQS: two standard queues. The redrive policy of the first moves a message to
//! the second after [`MAX_RECEIVES`](super::MAX_RECEIVES) receives. `infra/template.yaml` sets it.
//!
//! - A call has at most 10 messages and 1 MiB. A call with fewer messages costs the same. Messages
//!   that SQS did not take through no fault of theirs are sent again.
//! - Delays and visibility timeouts are whole seconds. Delays are rounded down, visibility timeouts
//!   up.
//! - The group of a message is its `MessageGroupId`. On a standard queue, that keeps no order. It
//!   makes the queue *fair*: a group with a backlog does not delay the others.
//!   <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues.html>
//! - A receipt is outdated once its message is received again. SQS may accept an outdated one for a
//!   while. The claims make that harmless.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    error::SdkError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
        DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName,
        SendMessageBatchRequestEntry,
    },
};
use sha2::{Digest, Sha256};

use super::{Depth, Lane, MAX_BATCH, MAX_DELAY, Outgoing, Queue, QueueError, Received, SendError};
use crate::{
    aws::{CALL_LIMIT, MAX_TRIES, TRY_LIMIT, boxed, timeouts},
    clock::Timestamp,
    config::AwsSettings,
};

/// The most bytes of all bodies in a call: 1 MiB minus the space for attributes.
const MAX_BATCH_BYTES: usize = 1024 * 1024 - 16 * 1024;

/// The longest wait of a receive.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The longest `MessageGroupId`.
const MAX_GROUP_CHARS: usize = 128;

/// The queue on two SQS queues.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    webhooks: String,
    dead_letters: String,
}

impl SqsQueue {
    /// Opens the queues of these settings.
    pub fn new(client: Client, settings: &AwsSettings) -> Self {
        Self {
            client,
            webhooks: settings.queue_url.clone(),
            dead_letters: settings.dead_letter_queue_url.clone(),
        }
    }

    fn url(&self, lane: Lane) -> &str {
        match lane {
            Lane::Webhooks => &self.webhooks,
            Lane::DeadLetters => &self.dead_letters,
        }
    }

    /// Sends messages that fit into one call. Returns those that SQS did not take, and the error.
    async fn send_batch(
        &self,
        lane: Lane,
        batch: &[(usize, &Outgoing)],
    ) -> (Vec<usize>, Option<QueueError>) {
        let mut left: Vec<(usize, &Outgoing)> = batch.to_vec();
        let mut trouble = None;
        for _ in 0..MAX_TRIES {
            let entries = match left
                .iter()
                .map(|(index, message)| entry(*index, message))
                .collect::<Result<Vec<_>, _>>()
            {
                Ok(entries) => entries,
                Err(error) => return (indices(&left), Some(error)),
            };
            let sent = self
                .client
                .send_message_batch()
                .queue_url(self.url(lane))
                .set_entries(Some(entries))
                .send()
                .await;
            let failed = match sent {
                Ok(answer) => answer.failed,
                // The client has already retried.
                Err(error) => return (indices(&left), Some(unavailable(error))),
            };
            let names: BTreeSet<&str> = failed.iter().map(|entry| entry.id.as_str()).collect();
            left.retain(|(index, _)| names.contains(index.to_string().as_str()));
            let Some(first) = failed.first() else { return (Vec::new(), None) };
            trouble = Some(refused(first));
            if failed.iter().any(|entry| entry.sender_fault) {
                break;
            }
        }
        (indices(&left), trouble)
    }
}

fn indices(batch: &[(usize, &Outgoing)]) -> Vec<usize> {
    batch.iter().map(|(index, _)| *index).collect()
}

fn entry(index: usize, message: &Outgoing) -> Result<SendMessageBatchRequestEntry, QueueError> {
    SendMessageBatchRequestEntry::builder()
        .id(index.to_string())
        .message_body(&message.body)
        .delay_seconds(message.delay.as_secs() as i32)
        .set_message_group_id(group(&message.group))
        .build()
        .map_err(|error| QueueError(boxed(error)))
}

/// The group for SQS: up to 128 printable ASCII characters. Another name is hashed.
fn group(name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if name.len() <= MAX_GROUP_CHARS && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(name.to_owned());
    }
    Some(format!("sha256:{}", hex::encode(Sha256::digest(name.as_bytes()))))
}

/// Splits the messages within the limits into calls of at most ten messages and
/// [`MAX_BATCH_BYTES`]. Each message keeps its index.
fn batches(messages: &[Outgoing]) -> Vec<Vec<(usize, &Outgoing)>> {
    let mut batches: Vec<Vec<(usize, &Outgoing)>> = Vec::new();
    let mut bytes = 0;
    let fitting = messages.iter().enumerate().filter(|(_, message)| message.fits());
    for (index, message) in fitting {
        let is_full = batches.last().is_none_or(|batch| batch.len() >= MAX_BATCH);
        if is_full || bytes + message.body.len() > MAX_BATCH_BYTES {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += message.body.len();
        if let Some(batch) = batches.last_mut() {
            batch.push((index, message));
        }
    }
    batches
}

fn unavailable<E>(error: SdkError<E>) -> QueueError
where
    SdkError<E>: std::error::Error + Send + Sync + 'static,
{
    QueueError(boxed(error))
}

fn refused(entry: &BatchResultErrorEntry) -> QueueError {
    QueueError(
        format!("{}: {}", entry.code, entry.message.as_deref().unwrap_or("no reason given")).into(),
    )
}

/// Ignores receipts that SQS no longer knows. Any other failed entry is an error.
fn check(failed: &[BatchResultErrorEntry]) -> Result<(), QueueError> {
    failed.iter().find(|entry| !entry.sender_fault).map_or(Ok(()), |entry| Err(refused(entry)))
}

#[async_trait]
impl Queue for SqsQueue {
    // SQS has no harmless write. The health check also reads the depth, which finds an unreachable
    // service, missing queues, and invalid credentials. A role that may read and not send is only
    // found by a send.
    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        Ok(Vec::new())
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        let refused = |(index, message): (usize, &Outgoing)| (!message.fits()).then_some(index);
        let mut failed: Vec<usize> = messages.iter().enumerate().filter_map(refused).collect();
        let mut trouble = (!failed.is_empty()).then(QueueError::beyond_limits);
        for batch in batches(messages) {
            let (more, why) = self.send_batch(lane, &batch).await;
            failed.extend(more);
            trouble = why.or(trouble);
        }
        match trouble {
            Some(source) if !failed.is_empty() => Err(SendError { failed, source }),
            _ => Ok(()),
        }
    }

    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        let wait = wait.min(MAX_WAIT);
        let limits = aws_sdk_sqs::config::Builder::new()
            .timeout_config(timeouts(wait + TRY_LIMIT, wait + CALL_LIMIT));
        let call = self
            .client
            .receive_message()
            .queue_url(self.url(lane))
            .max_number_of_messages(max.clamp(1, MAX_BATCH) as i32)
            .visibility_timeout(visibility.as_millis().div_ceil(1000) as i32)
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let answer = call.customize().config_override(limits).send().await.map_err(unavailable)?;
        let received = answer.messages.unwrap_or_default().into_iter().map(|message| {
            let attribute = |name| message.attributes.as_ref()?.get(&name)?.parse::<i64>().ok();
            Received {
                receives: attribute(MessageSystemAttributeName::ApproximateReceiveCount)
                    .unwrap_or(1)
                    .max(1) as u32,
                sent_at: Timestamp::from_millis(
                    attribute(MessageSystemAttributeName::SentTimestamp).unwrap_or_default(),
                ),
                id: message.message_id.unwrap_or_default(),
                receipt: message.receipt_handle.unwrap_or_default(),
                body: message.body.unwrap_or_default(),
            }
        });
        Ok(received.collect())
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        for chunk in receipts.chunks(MAX_BATCH) {
            let entries = chunk.iter().enumerate().map(|(index, receipt)| {
                let entry = DeleteMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt);
                entry.build().map_err(|error| QueueError(boxed(error)))
            });
            let entries = entries.collect::<Result<_, _>>()?;
            let call = self
                .client
                .delete_message_batch()
                .queue_url(self.url(lane))
                .set_entries(Some(entries));
            check(&call.send().await.map_err(unavailable)?.failed)?;
        }
        Ok(())
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        let seconds = delay.min(MAX_DELAY).as_secs() as i32;
        for chunk in receipts.chunks(MAX_BATCH) {
            let entries = chunk.iter().enumerate().map(|(index, receipt)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt);
                entry.visibility_timeout(seconds).build().map_err(|error| QueueError(boxed(error)))
            });
            let entries = entries.collect::<Result<_, _>>()?;
            let call = self
                .client
                .change_message_visibility_batch()
                .queue_url(self.url(lane))
                .set_entries(Some(entries));
            check(&call.send().await.map_err(unavailable)?.failed)?;
        }
        Ok(())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let wanted = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let call = self
            .client
            .get_queue_attributes()
            .queue_url(self.url(lane))
            .set_attribute_names(Some(wanted.to_vec()));
        let attributes = call.send().await.map_err(unavailable)?.attributes.unwrap_or_default();
        let [ready, in_flight, delayed] = wanted.map(|name| {
            attributes.get(&name).and_then(|value| value.parse().ok()).unwrap_or_default()
        });
        Ok(Depth { ready, in_flight, delayed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::MAX_BODY_BYTES;

    fn message(bytes: usize) -> Outgoing {
        Outgoing { body: "x".repeat(bytes), delay: Duration::ZERO, group: String::new() }
    }

    #[test]
    fn a_call_has_at_most_ten_messages_and_a_mebibyte() {
        let sizes =
            |messages: &[Outgoing]| batches(messages).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0_usize; 0]);
        assert_eq!(sizes(&vec![message(10); 25]), [10, 10, 5]);
        assert_eq!(sizes(&vec![message(MAX_BODY_BYTES); 7]), [3, 3, 1]);
        let mixed = [
            message(MAX_BODY_BYTES),
            message(1),
            message(MAX_BODY_BYTES),
            message(MAX_BODY_BYTES),
            message(MAX_BODY_BYTES),
        ];
        let places: Vec<usize> =
            batches(&mixed).into_iter().flatten().map(|(index, _)| index).collect();
        assert_eq!(places, [0, 1, 2, 3, 4]);
        let late = Outgoing { delay: MAX_DELAY + Duration::from_secs(1), ..message(1) };
        assert_eq!(sizes(&[late, message(MAX_BODY_BYTES + 1), message(1)]), [1]);
    }

    #[test]
    fn a_group_is_a_name_that_sqs_takes() {
        assert_eq!(group("https://example.com:443").as_deref(), Some("https://example.com:443"));
        assert_eq!(group(""), None);
        for odd in ["x".repeat(129), "https://exämple.com:443".to_owned(), "a b".to_owned()] {
            let name = group(&odd).unwrap();
            assert!(name.len() <= MAX_GROUP_CHARS && name.starts_with("sha256:"), "{name}");
        }
        assert_ne!(group(&"x".repeat(129)), group(&"x".repeat(130)));
    }
}
