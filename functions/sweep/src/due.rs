//! The due index, read from its beginning: each entry is sent to the queue first, and moves on only
//! if that succeeded.
//!
//! A webhook is sent again a grace after its last message, in case that was lost. While nobody
//! works on the queue it is not lost but waits, and more messages help nobody; so where at least as
//! many messages wait as webhooks are due, an entry that repeats a message moves on by the longest
//! grace at once. Hours of backlog so hold at most two messages of a webhook.
//!
//! What a run cannot read (a newer version wrote it) stays where it is, and the run passes over it.
//! If there is so much of it that the run's share is used up, the next one goes on where this one
//! stopped, after it has looked at the beginning again.

use std::time::Duration;

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
    store::{DueCursor, DueEntry, StoreError},
    transition::next_look,
};

use crate::{Summary, SweepError, isolated};

/// What falls due within this time is queued now, with a delay: the schedule has whole minutes
/// only.
pub(crate) const LOOK_AHEAD: Duration = Duration::from_secs(60);

/// Entries read at a time from each part of the index.
pub(crate) const PAGE: usize = 100;

/// Webhooks that one run queues at most.
const MAX_PER_RUN: usize = 20_000;

/// Entries that one run passes over at most; half of them before it goes on where the run before
/// stopped.
const MAX_PASSED_PER_RUN: usize = 20_000;

/// Unreadable webhooks that one run logs one by one.
const MAX_LOGGED: usize = 10;

/// Records read, messages sent and records written at a time.
pub(crate) const CONCURRENCY: usize = 16;

/// Queues what is due until there is no more, or the run has done its share. `resume` is where the
/// run before stopped.
pub(crate) async fn requeue_due(
    context: &Context,
    until: Timestamp,
    mut resume: Option<DueCursor>,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    let began_at = context.clock.now();
    let (mut due_until, halfway) =
        (began_at.plus(LOOK_AHEAD), began_at.plus(until.since(began_at) / 2));
    let mut run = Run { context, backlog: Backlog::default(), passed: 0, logged: 0 };
    let mut cursor: Option<DueCursor> = None;
    loop {
        let page = context.store.due(due_until, cursor.as_ref(), PAGE).await?;
        summary.unreadable += page.nameless;
        run.passed += page.nameless;
        run.requeue(page.entries, summary).await?;
        let Some(mut next) = page.next else { return Ok(()) };
        let now = context.clock.now();
        // A clock that was ahead and has been set right: what this run has moved must not be due to
        // it again.
        due_until = due_until.min(now.plus(LOOK_AHEAD));
        let is_half_done = run.passed >= MAX_PASSED_PER_RUN / 2 || now >= halfway;
        if let Some(resume) = resume.take_if(|_| is_half_done) {
            // However short a run is, it gets a page further than the one before.
            next = next.furthest(&resume);
            summary.unreadable_may_be_more = true;
        } else if summary.requeued >= MAX_PER_RUN
            || run.passed >= MAX_PASSED_PER_RUN
            || now >= until
        {
            summary.more = true;
            summary.unreadable_may_be_more = true;
            summary.resume =
                Some(resume.map_or(next.clone(), |resume| next.furthest(&resume)).for_later());
            return Ok(());
        }
        cursor = Some(next).filter(|_| !planted::is(Bug::DueWithoutPosition));
    }
}

/// What one run keeps in mind while it goes through the due index.
struct Run<'a> {
    context: &'a Context,
    backlog: Backlog,
    /// Entries that stay where they are.
    passed: usize,
    /// Unreadable ones that were logged.
    logged: usize,
}

/// What stands behind an entry.
enum Found {
    Due(DueEntry, Box<Webhook>),
    /// It has moved on since.
    Moved,
    Unreadable(DueEntry, StoreError),
}

/// The messages that wait in the queue of webhooks, counted at most once in a run, and only where a
/// message is to be repeated.
#[derive(Debug, Default)]
struct Backlog {
    ready: Option<u64>,
}

impl Backlog {
    /// Whether the messages of these due webhooks probably wait still. A queue that does not say
    /// counts as empty.
    async fn covers(&mut self, context: &Context, due: &[(DueEntry, Webhook)]) -> bool {
        if !due.iter().any(|(entry, webhook)| context.rules.is_repeat(webhook, entry.due_at)) {
            return false;
        }
        let ready = match self.ready {
            Some(ready) => ready,
            None => match context.queue.depth(Lane::Webhooks).await {
                Ok(depth) => depth.ready,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "The queue does not say how many messages wait"
                    );
                    0
                }
            },
        };
        self.ready = Some(ready);
        ready >= due.len() as u64
    }
}

impl Run<'_> {
    /// Queues these entries and moves those that the queue took.
    async fn requeue(
        &mut self,
        entries: Vec<DueEntry>,
        summary: &mut Summary,
    ) -> Result<(), SweepError> {
        let context = self.context;
        let found: Vec<Found> = stream::iter(entries)
            .map(|entry| async move {
                let id = entry.id.clone();
                isolated(&id, read(context, entry)).await.unwrap_or(Ok(Found::Moved))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        let now = self.context.clock.now();
        let mut due = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::Due(entry, webhook) => {
                    summary.lag = summary.lag.max(now.since(entry.due_at));
                    due.push((entry, *webhook));
                }
                Found::Moved => self.passed += 1,
                Found::Unreadable(entry, error) => {
                    self.passed += 1;
                    summary.unreadable += 1;
                    self.log(&entry, &error);
                }
            }
        }
        let (failed, waiting): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, webhook)| webhook.status == Status::Failed);
        let behind = self.backlog.covers(self.context, &waiting).await;
        for (lane, webhooks) in [(Lane::Webhooks, waiting), (Lane::DeadLetters, failed)] {
            let results: Vec<Result<usize, SweepError>> = stream::iter(batches(webhooks))
                .map(|batch| send_and_move(self.context, lane, batch, behind))
                .buffer_unordered(CONCURRENCY)
                .collect()
                .await;
            for result in results {
                summary.requeued += result?;
            }
        }
        Ok(())
    }

    fn log(&mut self, entry: &DueEntry, error: &StoreError) {
        if self.logged < MAX_LOGGED {
            let error = error as &dyn std::error::Error;
            tracing::error!(webhook_id = %entry.id, error,
                "A due webhook cannot be read; it stays due");
        }
        self.logged += 1;
    }
}

/// The entry's webhook, if it is still due as the index said. One that cannot be read holds up
/// nobody else.
async fn read(context: &Context, entry: DueEntry) -> Result<Found, StoreError> {
    match context.store.get(&entry.id).await {
        Ok(Some(webhook))
            if planted::is(Bug::SweepSkipsInProgress) && webhook.status == Status::InProgress =>
        {
            Ok(Found::Moved)
        }
        Ok(Some(webhook)) if webhook.due_at == Some(entry.due_at) => {
            Ok(Found::Due(entry, Box::new(webhook)))
        }
        Ok(_) => Ok(Found::Moved),
        Err(error @ StoreError::Unreadable { .. }) => Ok(Found::Unreadable(entry, error)),
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
    let messages: Vec<Outgoing> =
        batch.iter().map(|(entry, webhook)| outgoing(lane, entry, webhook, now)).collect();
    if planted::is(Bug::RequeueBeforeSend) {
        for (entry, webhook) in &batch {
            apply(&*context.store, webhook.clone(), |webhook| {
                context.rules.requeue(webhook, entry.due_at, now)
            })
            .await?;
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
            if behind {
                rules.requeue_in_backlog(webhook, entry.due_at, now)
            } else {
                rules.requeue(webhook, entry.due_at, now)
            }
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
        Lane::Webhooks => {
            (Message::look_at(id), entry.due_at.max(next_look(webhook)).since(now).min(MAX_DELAY))
        }
        Lane::DeadLetters => (Message::archive(id), Duration::ZERO),
    };
    Outgoing { body: message.to_json(), delay, group: webhook.destination.clone() }
}
