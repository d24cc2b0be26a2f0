//! Queues what the due index holds: each entry's message is sent first, and the entry moves on only
//! if the queue took the message.
//!
//! A webhook is sent again one grace period after its last message, in case that message was lost.
//! In a backlog, messages wait and are not lost, and more messages do not help. So if at least as
//! many messages wait as webhooks are due, an entry that repeats a message moves on by the maximum
//! grace period at once. A backlog of hours then holds at most two messages of each webhook.
//!
//! A due message is a published message of which a delivery is not accounted for, or that is being
//! deleted. It is sent and moved on like a webhook.
//!
//! An entry that the run cannot read (a newer version wrote it) stays in place, and the run passes
//! over it. If such entries use up the run's share, the next run reads the beginning again and then
//! continues where this one stopped.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use shared::{
    applications::message::PublishedMessage,
    apply::{Applied, AppliedToMessage, apply, apply_to_message},
    clock::Timestamp,
    context::Context,
    logging::{message_span, webhook_span},
    message::{Look, Message},
    model::Webhook,
    planted::{self, Bug},
    queue::{Lane, MAX_BATCH, MAX_DELAY, Outgoing, SendError},
    status::Status,
    store::{DueCursor, DueEntry, DueId, StoreError},
    transition::{Rules, next_look},
};
use tracing::{Instrument, Span};

use crate::{
    isolation::isolated,
    summary::{Summary, SweepError},
};

/// Webhooks that fall due within this time are queued now, with a delay, because the schedule has
/// whole minutes only.
pub(crate) const LOOK_AHEAD: Duration = Duration::from_secs(60);

/// The number of entries that are read at a time from each part of the index.
pub(crate) const PAGE: usize = 100;

/// The maximum number of webhooks and messages that one run queues.
const MAX_PER_RUN: usize = 20_000;

/// The maximum number of entries that one run passes over. Half of them are at the beginning,
/// before the run continues where the previous one stopped.
const MAX_PASSED_PER_RUN: usize = 20_000;

/// The maximum number of unreadable entries that one run logs.
const MAX_LOGGED: usize = 10;

/// Concurrent reads, sends and writes.
pub(crate) const CONCURRENCY: usize = 16;

/// Queues due webhooks until none is left or the run has done its share. `resume` is where the
/// previous run stopped.
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
        // If the clock was ahead and is set back during the run, the entries that the run has moved
        // must not be due again.
        due_until = due_until.min(now.plus(LOOK_AHEAD));
        let is_half_done = run.passed >= MAX_PASSED_PER_RUN / 2 || now >= halfway;
        if let Some(resume) = resume.take_if(|_| is_half_done) {
            // Even a short run gets one page further than the previous one.
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
        cursor = Some(next);
        if planted::is(Bug::DueWithoutPosition) {
            cursor = None;
        }
    }
}

/// The state of one run through the due index.
struct Run<'a> {
    context: &'a Context,
    backlog: Backlog,
    /// Entries that stay in place.
    passed: usize,
    /// Unreadable entries that were logged.
    logged: usize,
}

/// What an entry names.
enum Found {
    Due(DueEntry, Due),
    /// It is no longer due as the index said.
    Moved,
    Unreadable(DueEntry, StoreError),
}

/// A due webhook or message.
#[derive(Clone, Debug)]
enum Due {
    Webhook(Box<Webhook>),
    Message(Box<PublishedMessage>),
}

impl Due {
    fn due_at(&self) -> Option<Timestamp> {
        match self {
            Self::Webhook(webhook) => webhook.due_at,
            Self::Message(message) => message.due_at,
        }
    }

    fn lane(&self) -> Lane {
        match self {
            Self::Webhook(webhook) if webhook.status == Status::Failed => Lane::DeadLetters,
            Self::Webhook(_) | Self::Message(_) => Lane::Webhooks,
        }
    }

    /// Whether its look would repeat one that was sent a grace ago or earlier.
    fn is_repeat(&self, rules: &Rules, seen: Timestamp) -> bool {
        match self {
            Self::Webhook(webhook) => rules.is_repeat(webhook, seen),
            Self::Message(message) => rules.is_message_repeat(message, seen),
        }
    }

    fn span(&self) -> Span {
        match self {
            Self::Webhook(webhook) => webhook_span(webhook, None),
            Self::Message(message) => message_span(message, None),
        }
    }
}

/// The messages that wait in the webhook queue. They are counted at most once in a run, and only if
/// a message would be repeated.
#[derive(Debug, Default)]
struct Backlog {
    ready: Option<u64>,
}

impl Backlog {
    /// Whether the looks at these probably still wait. A queue that fails to report
    /// its depth counts as empty.
    async fn covers(&mut self, context: &Context, due: &[(DueEntry, Due)]) -> bool {
        if !due.iter().any(|(entry, due)| due.is_repeat(&context.rules, entry.due_at)) {
            return false;
        }
        let ready = match self.ready {
            Some(ready) => ready,
            None => match context.queue.depth(Lane::Webhooks).await {
                Ok(depth) => depth.ready,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "Could not read the queue's depth");
                    0
                }
            },
        };
        self.ready = Some(ready);
        ready >= due.len() as u64
    }
}

impl Run<'_> {
    /// Queues these entries, and moves those whose messages the queue took.
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
                Found::Due(entry, found) => {
                    summary.lag = summary.lag.max(now.since(entry.due_at));
                    due.push((entry, found));
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
            due.into_iter().partition(|(_, due)| due.lane() == Lane::DeadLetters);
        let is_backlog = self.backlog.covers(context, &waiting).await;
        for (lane, due) in [(Lane::Webhooks, waiting), (Lane::DeadLetters, failed)] {
            let results: Vec<Result<usize, SweepError>> = stream::iter(due)
                .chunks(MAX_BATCH)
                .map(|batch| send_and_move(context, lane, batch, is_backlog))
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
            match &entry.id {
                DueId::Webhook(id) => tracing::error!(webhook_id = %id, error,
                    "Could not read a due webhook; it stays due"),
                DueId::Message(id) => tracing::error!(message_id = %id, error,
                    "Could not read a due message; it stays due"),
            }
        }
        self.logged += 1;
    }
}

/// What the entry names, if it is due as the index said. An unreadable record does not hold up the
/// others.
async fn read(context: &Context, entry: DueEntry) -> Result<Found, StoreError> {
    let read = match &entry.id {
        DueId::Webhook(id) => {
            let found = context.store.get(id).await;
            found.map(|found| found.map(|webhook| Due::Webhook(Box::new(webhook))))
        }
        DueId::Message(id) => {
            let found = context.store.message(id).await;
            found.map(|found| found.map(|message| Due::Message(Box::new(message))))
        }
    };
    match read {
        Ok(Some(due)) if due.due_at() == Some(entry.due_at) => {
            if planted::is(Bug::SweepSkipsInProgress)
                && matches!(&due, Due::Webhook(webhook) if webhook.status == Status::InProgress)
            {
                return Ok(Found::Moved);
            }
            Ok(Found::Due(entry, due))
        }
        Ok(_) => Ok(Found::Moved),
        Err(error @ StoreError::Unreadable { .. }) => Ok(Found::Unreadable(entry, error)),
        Err(error) => Err(error),
    }
}

/// Sends one batch, then moves each entry whose message the queue took. Returns how many moved.
async fn send_and_move(
    context: &Context,
    lane: Lane,
    mut batch: Vec<(DueEntry, Due)>,
    is_backlog: bool,
) -> Result<usize, SweepError> {
    let now = context.clock.now();
    let messages: Vec<Outgoing> =
        batch.iter().map(|(entry, due)| outgoing(entry, due, now)).collect();
    if planted::is(Bug::RequeueBeforeSend) {
        move_on(context, batch.clone(), false, now).await?;
    }
    let (failed, source) = match context.queue.send(lane, &messages).await {
        Ok(()) => (Vec::new(), None),
        Err(SendError { failed, source }) => (failed, Some(source)),
    };
    let mut index = 0..;
    batch.retain(|_| !index.next().is_some_and(|index| failed.contains(&index)));
    let moved = move_on(context, batch, is_backlog, now).await?;
    source.map_or(Ok(moved), |source| Err(source.into()))
}

/// Moves these entries on, by the maximum grace period at once if there is a backlog.
async fn move_on(
    context: &Context,
    due: Vec<(DueEntry, Due)>,
    is_backlog: bool,
    now: Timestamp,
) -> Result<usize, SweepError> {
    let rules = &context.rules;
    let mut moved = 0;
    for (entry, due) in due {
        let seen = entry.due_at;
        let (store, span) = (&*context.store, due.span());
        let work = async {
            match due {
                Due::Webhook(webhook) => {
                    let requeue = |webhook: &Webhook| {
                        if is_backlog {
                            rules.requeue_in_backlog(webhook, seen, now)
                        } else {
                            rules.requeue(webhook, seen, now)
                        }
                    };
                    let applied = apply(store, *webhook, requeue).await?;
                    Ok::<_, StoreError>(matches!(applied, Applied::Done(..)))
                }
                Due::Message(message) => {
                    let requeue = |message: &PublishedMessage| {
                        rules.requeue_message(message, seen, is_backlog, now)
                    };
                    let applied = apply_to_message(store, *message, requeue).await?;
                    Ok(matches!(applied, AppliedToMessage::Done(_)))
                }
            }
        };
        let requeued = isolated(&entry.id, work).instrument(span).await;
        // A refusal means that another worker made progress. The message then costs one look.
        moved += usize::from(requeued.transpose()?.unwrap_or_default());
    }
    Ok(moved)
}

fn outgoing(entry: &DueEntry, due: &Due, now: Timestamp) -> Outgoing {
    // Nothing can be done before the attempt is allowed or the lease is over.
    let wait_until = |at: Timestamp| entry.due_at.max(at).since(now).min(MAX_DELAY);
    match due {
        Due::Webhook(webhook) => {
            let id = webhook.id.clone();
            let (message, delay) = match due.lane() {
                Lane::Webhooks => (Message::look_at(id), wait_until(next_look(webhook))),
                Lane::DeadLetters => (Message::archive(id), Duration::ZERO),
            };
            let group = webhook.fairness_group().to_owned();
            Outgoing { body: message.to_json(), delay, group }
        }
        Due::Message(message) => {
            // A deletion does not wait until the message is allowed.
            let next = if message.deleting { entry.due_at } else { message.allowed_at };
            let group = message.fairness_group().to_owned();
            let body = Look::Message(message.id.clone()).to_json();
            Outgoing { body, delay: wait_until(next), group }
        }
    }
}
