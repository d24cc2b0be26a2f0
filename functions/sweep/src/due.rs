//! The due index, read from its beginning: each entry is sent to the queue first, and moves on only if that succeeded.
//!
//! A webhook is sent again a grace after its last message, in case that was lost. While nobody works on the queue it is not lost but waits,
//! and more messages help nobody; so where at least as many messages wait as webhooks are due, an entry that repeats a message moves on by
//! the longest grace at once. Hours of backlog so hold at most two messages of a webhook.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use shared::{
    apply::{Applied, apply},
    clock::Timestamp,
    context::Context,
    message::Message,
    model::Webhook,
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, MAX_DELAY, Outgoing, SendError},
    status::Status,
    store::{DueEntry, MAX_READ, StoreError},
    transition::next_look,
};

use crate::{Summary, SweepError, isolated};

/// What falls due within this time is queued now, with a delay: the schedule has whole minutes only.
const LOOK_AHEAD: Duration = Duration::from_secs(60);

/// Entries read at a time from each part of the index.
const PAGE: usize = 100;

/// Webhooks that one run queues at most.
const MAX_PER_RUN: usize = 20_000;

/// Records read, messages sent and records written at a time.
const CONCURRENCY: usize = 16;

/// Queues what is due until there is no more, or the run has done its share.
pub(crate) async fn requeue_due(context: &Context, until: Timestamp, summary: &mut Summary) -> Result<(), SweepError> {
    // What this run has handled; so an entry that trails its record in the index, or that cannot be read, is met once.
    let mut met = HashSet::new();
    // Entries that stay where they are must not hide those behind them.
    let mut stuck = 0;
    let mut backlog = Backlog::default();
    loop {
        let now = context.clock.now();
        let limit = (PAGE + stuck).min(MAX_READ);
        let mut entries = context.store.due(now.plus(LOOK_AHEAD), limit).await?;
        let found = entries.len();
        if let Some(oldest) = entries.iter().map(|entry| entry.due_at).min() {
            summary.lag = summary.lag.max(now.since(oldest));
        }
        entries.retain(|entry| met.insert((entry.id.task, entry.due_at)));
        stuck = found - entries.len();
        if entries.is_empty() {
            if found < limit || limit == MAX_READ {
                summary.more = found >= limit;
                return Ok(());
            }
            continue;
        }
        summary.requeued += requeue(context, entries, &mut backlog).await?;
        if summary.requeued >= MAX_PER_RUN || context.clock.now() >= until {
            summary.more = true;
            return Ok(());
        }
    }
}

/// The messages that wait in the queue of webhooks, counted at most once in a run, and only where a message is to be repeated.
#[derive(Debug, Default)]
struct Backlog {
    ready: Option<u64>,
}

impl Backlog {
    /// Whether the messages of these due webhooks probably wait still. A queue that does not say counts as empty.
    async fn covers(&mut self, context: &Context, due: &[(DueEntry, Webhook)]) -> bool {
        if !due.iter().any(|(entry, webhook)| context.rules.is_repeat(webhook, entry.due_at)) {
            return false;
        }
        let ready = match self.ready {
            Some(ready) => ready,
            None => match context.queue.depth(Lane::Webhooks).await {
                Ok(depth) => depth.ready,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "The queue does not say how many messages wait");
                    0
                }
            },
        };
        self.ready = Some(ready);
        ready >= due.len() as u64
    }
}

/// Queues these entries and moves those that the queue took. How many.
async fn requeue(context: &Context, entries: Vec<DueEntry>, backlog: &mut Backlog) -> Result<usize, SweepError> {
    let due: Vec<(DueEntry, Webhook)> = stream::iter(entries)
        .map(|entry| async move {
            let id = entry.id.clone();
            isolated(&id, read(context, entry)).await.unwrap_or(Ok(None))
        })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(async |found| Ok(found))
        .try_collect()
        .await?;
    let (failed, waiting): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, webhook)| webhook.status == Status::Failed);
    let behind = backlog.covers(context, &waiting).await;
    let mut requeued = 0;
    for (lane, webhooks) in [(Lane::Webhooks, waiting), (Lane::DeadLetters, failed)] {
        let results: Vec<Result<usize, SweepError>> = stream::iter(batches(webhooks))
            .map(|batch| send_and_move(context, lane, batch, behind))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for result in results {
            requeued += result?;
        }
    }
    Ok(requeued)
}

/// The entry's webhook, if it is still due as the index said. One that cannot be read holds up nobody else.
async fn read(context: &Context, entry: DueEntry) -> Result<Option<(DueEntry, Webhook)>, StoreError> {
    match context.store.get(&entry.id).await {
        Ok(Some(webhook)) if planted::is(Bug::SweepSkipsInProgress) && webhook.status == Status::InProgress => Ok(None),
        Ok(Some(webhook)) if webhook.due_at == Some(entry.due_at) => Ok(Some((entry, webhook))),
        Ok(_) => Ok(None),
        Err(error @ StoreError::Unreadable { .. }) => {
            tracing::error!(webhook_id = %entry.id, error = &error as &dyn std::error::Error, "A due webhook cannot be read; it stays due");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sends one batch, then moves each entry whose message the queue took.
async fn send_and_move(
    context: &Context,
    lane: Lane,
    batch: Vec<(DueEntry, Webhook)>,
    behind: bool,
) -> Result<usize, SweepError> {
    let now = context.clock.now();
    let messages: Vec<Outgoing> = batch.iter().map(|(entry, webhook)| outgoing(lane, entry, webhook, now)).collect();
    if planted::is(Bug::RequeueBeforeSend) {
        for (entry, webhook) in &batch {
            apply(&*context.store, webhook.clone(), |webhook| context.rules.requeue(webhook, entry.due_at, now)).await?;
        }
    }
    let (failed, trouble) = match context.queue.send(lane, &messages).await {
        Ok(()) => (Vec::new(), None),
        Err(SendError { failed, source }) => (failed, Some(source)),
    };
    let mut moved = 0;
    for (index, (entry, webhook)) in batch.into_iter().enumerate() {
        if failed.contains(&index) {
            continue;
        }
        let requeue = |webhook: &Webhook| {
            let rules = &context.rules;
            if behind { rules.requeue_in_backlog(webhook, entry.due_at, now) } else { rules.requeue(webhook, entry.due_at, now) }
        };
        // Refused: somebody else got on with it, and the message costs one look.
        if let Some(applied) = isolated(&entry.id, apply(&*context.store, webhook, requeue)).await {
            moved += usize::from(matches!(applied?, Applied::Done(..)));
        }
    }
    match trouble {
        Some(source) => Err(source.into()),
        None => Ok(moved),
    }
}

/// Batches of as many as one call of the queue takes.
fn batches<T>(mut items: Vec<T>) -> Vec<Vec<T>> {
    let mut batches = Vec::with_capacity(items.len().div_ceil(MAX_BATCH));
    while items.len() > MAX_BATCH {
        let rest = items.split_off(MAX_BATCH);
        batches.push(std::mem::replace(&mut items, rest));
    }
    if !items.is_empty() {
        batches.push(items);
    }
    batches
}

fn outgoing(lane: Lane, entry: &DueEntry, webhook: &Webhook, now: Timestamp) -> Outgoing {
    let id = webhook.id.clone();
    let (message, delay) = match lane {
        // Nothing can be done before its attempt is allowed or its lease over.
        Lane::Webhooks => (Message::look_at(id), entry.due_at.max(next_look(webhook)).since(now).min(MAX_DELAY)),
        Lane::DeadLetters => (Message::archive(id), Duration::ZERO),
    };
    Outgoing { body: message.to_json(), delay, group: webhook.destination.clone() }
}
