//! Finds a clock that was ahead, by seconds or by days, and takes back the times that it wrote.
//!
//! A run with such a clock finds everything due, queues it, and moves each entry of the due index
//! far into the future, where no run reads. The next run with a correct clock finds a trace from
//! the future: a report, an announcement, the audit's position or a new webhook. It then reads,
//! once, the later part of the due index and the webhooks that were created in the future, and
//! takes their times back ([`Rules::take_back`]).
//!
//! A run whose clock is far from the previous run's announces itself before it changes anything.
//! It thereby leaves a trace even if it crashes.
//!
//! [`Rules::take_back`]: shared::transition::Rules::take_back

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use shared::{
    applications::{
        message::PublishedMessage,
        standing::{Found, Standing},
    },
    apply::{Applied, AppliedToMessage, apply, apply_to_message, apply_to_standing},
    clock::{MAX_CLOCK_SKEW, Timestamp},
    context::Context,
    logging::{message_span, webhook_span},
    model::Webhook,
    store::{ClockFault, DueCursor, DueEntry, DueId, Filter, StoreError, SweepReport, Unindexed},
    transition::MAX_AHEAD,
};
use tracing::Instrument;

use crate::{
    due::{CONCURRENCY, LOOK_AHEAD, PAGE},
    isolation::isolated,
    summary::{Summary, SweepError},
};

/// A run announces itself if the previous one is further back than this. A clock that is ahead by
/// less delays webhooks by less.
const MAX_UNANNOUNCED: Duration = Duration::from_secs(600);

/// How long a fault is reported.
const REPORTED_FOR: Duration = Duration::from_secs(24 * 3600);

/// How far into the future the run looks for webhooks that were created there. A backend may have
/// to read it day by day.
const MAX_LOOK_AHEAD: Duration = Duration::from_secs(400 * 24 * 3600);

/// The number of newest webhooks that are checked for one from the future.
const NEWEST: usize = 10;

/// Later than every entry of the due index: the year 9999.
const FAR: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// Announces a run whose clock may be wrong, before the run does anything else.
pub(crate) async fn announce(
    context: &Context,
    last: Option<&SweepReport>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let last = last.cloned().unwrap_or_default();
    if now.since(latest(&last)) <= MAX_UNANNOUNCED {
        return Ok(());
    }
    context.store.report_sweep(&SweepReport { began_at: Some(now), ..last }).await
}

/// The time of the last run's latest trace, by its own clock.
fn latest(last: &SweepReport) -> Timestamp {
    last.ran_at.max(last.began_at.unwrap_or_default())
}

/// The times that may lie in the future.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    last: Option<SweepReport>,
    audited_until: Option<Timestamp>,
    /// When the newest unfinished webhook outside the due index was created.
    created_at: Option<Timestamp>,
}

impl Traces {
    pub(crate) async fn read(
        context: &Context,
        last: Option<&SweepReport>,
    ) -> Result<Self, StoreError> {
        let audited_until = context.store.audited_until().await?;
        let newest = context.store.list(&Filter::default(), None, NEWEST).await?.items;
        let unindexed = newest
            .iter()
            .map(|listed| &listed.webhook)
            .filter(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none());
        Ok(Self {
            last: last.cloned(),
            audited_until,
            created_at: unindexed.map(|webhook| webhook.created_at).max(),
        })
    }
}

/// Finds a clock that was ahead of this one, or returns one that was found lately.
pub(crate) fn find(traces: &Traces, audit_age: Duration, now: Timestamp) -> Option<ClockFault> {
    let last = traces.last.as_ref();
    let by_audit = traces.audited_until.filter(|position| is_ahead(*position, audit_age, now));
    let times =
        [last.map(latest), by_audit.map(|position| position.plus(audit_age)), traces.created_at];
    let ahead = times.into_iter().flatten().map(|at| at.since(now)).max().unwrap_or_default();
    if ahead > MAX_AHEAD || by_audit.is_some() {
        let ahead_ms = ahead.as_millis() as u64;
        tracing::error!(
            ahead_ms,
            "A clock was ahead of this one. The times that it wrote are taken back. Check the \
             clocks of all machines"
        );
        return Some(ClockFault {
            found_at: now,
            ahead_ms,
            left: Some(DueCursor::before(now.plus(LOOK_AHEAD))),
        });
    }
    let reported = last?.clock_fault.as_ref()?;
    let is_over =
        now.since(reported.found_at) >= REPORTED_FOR || reported.found_at > now.plus(MAX_AHEAD);
    (reported.left.is_some() || !is_over).then(|| reported.clone())
}

/// Whether the audit's position is later than a correct clock can have moved it. The API creates no
/// webhook whose ID is older than half the audit's age, so up to there the audit missed nothing.
pub(crate) fn is_ahead(position: Timestamp, audit_age: Duration, now: Timestamp) -> bool {
    position > now.minus(audit_age).plus((audit_age / 2).max(MAX_CLOCK_SKEW))
}

/// Takes back times that were written in the future, until none is left or `until` is reached.
pub(crate) async fn take_back(
    context: &Context,
    until: Timestamp,
    fault: &mut ClockFault,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    if fault.left.is_none() {
        return Ok(());
    }
    let start = DueCursor::before(context.clock.now().plus(LOOK_AHEAD));
    let mut is_any_left = false;
    while let Some(left) = fault.left.take() {
        if context.clock.now() >= until {
            summary.more = true;
            fault.left = Some(left);
            return Ok(());
        }
        let page = context.store.due(FAR, Some(&left), PAGE).await?;
        let results: Vec<EntryResult> = stream::iter(page.entries)
            .map(|entry| take_back_entry(context, entry))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        summary.taken_back +=
            results.iter().filter(|result| **result == EntryResult::TakenBack).count();
        is_any_left |= results.contains(&EntryResult::Left);
        fault.left = page.next;
    }
    let is_done =
        take_back_created(context, until, Duration::from_millis(fault.ahead_ms), summary).await?;
    if !is_done {
        summary.more = true;
        fault.left = Some(DueCursor::before(FAR));
    }
    if is_any_left {
        // Every run looks again, until all webhooks can be read and written.
        fault.left = Some(start);
    }
    Ok(())
}

/// The result of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryResult {
    TakenBack,
    Unchanged,
    /// The webhook or message cannot be read, or its read or write panicked. The next run tries
    /// again.
    Left,
}

/// Takes back webhooks and messages that were created in the future and are not in the due index.
/// Returns whether none of them is left to the next run.
async fn take_back_created(
    context: &Context,
    until: Timestamp,
    ahead: Duration,
    summary: &mut Summary,
) -> Result<bool, SweepError> {
    let now = context.clock.now();
    let end = now.plus((ahead + REPORTED_FOR).min(MAX_LOOK_AHEAD));
    let (mut after, mut is_any_left) = (None, false);
    loop {
        let page = context.store.list_unindexed(now.plus(MAX_AHEAD), end, after).await?;
        for unindexed in page.items {
            let results = match unindexed {
                Unindexed::Webhook(webhook) => vec![take_back_webhook(context, *webhook).await?],
                Unindexed::Message(standing) => take_back_unheld(context, *standing).await?,
            };
            let taken_back = results.iter().filter(|result| **result == EntryResult::TakenBack);
            summary.taken_back += taken_back.count();
            is_any_left |= results.contains(&EntryResult::Left);
        }
        after = page.next;
        if after.is_none() {
            return Ok(!is_any_left);
        }
        if context.clock.now() >= until {
            return Ok(false);
        }
    }
}

async fn take_back_entry(context: &Context, entry: DueEntry) -> Result<EntryResult, SweepError> {
    let failed = match &entry.id {
        DueId::Webhook(id) => match isolated(&entry.id, context.store.get(id)).await {
            Some(Ok(Some(webhook))) => return take_back_webhook(context, webhook).await,
            Some(Ok(None)) => return Ok(EntryResult::Unchanged),
            Some(Err(error)) => Some(error),
            None => None,
        },
        DueId::Message(id) => match isolated(&entry.id, context.store.message(id)).await {
            Some(Ok(Some(message))) => return take_back_message(context, message).await,
            Some(Ok(None)) => return Ok(EntryResult::Unchanged),
            Some(Err(error)) => Some(error),
            None => None,
        },
    };
    match failed {
        None | Some(StoreError::Unreadable { .. }) => Ok(EntryResult::Left),
        Some(error) => Err(error.into()),
    }
}

/// Takes back the times of a due message, if a clock that was ahead has written them.
async fn take_back_message(
    context: &Context,
    message: PublishedMessage,
) -> Result<EntryResult, SweepError> {
    let now = context.clock.now();
    let (id, span) = (DueId::Message(message.id.clone()), message_span(&message, None));
    let rule = |message: &PublishedMessage| context.rules.take_back_message(message, now);
    let work = apply_to_message(&*context.store, message, rule);
    Ok(message_result(isolated(&id, work).instrument(span).await.transpose()?.as_ref()))
}

/// Takes back the times of a message that was created in the future and is not due, and of its
/// deliveries that nothing holds. The message enters the due index, because its looks may have gone
/// back to the queue again and again.
async fn take_back_unheld(
    context: &Context,
    standing: Standing,
) -> Result<Vec<EntryResult>, SweepError> {
    let now = context.clock.now();
    let span = message_span(&standing.message, None);
    let (id, due_id) = (standing.message.id.clone(), DueId::Message(standing.message.id.clone()));
    let mut results = Vec::new();
    for found in standing.found.values() {
        if let Found::Record(webhook) = found {
            results.push(take_back_webhook(context, Webhook::clone(webhook)).await?);
        }
    }
    let rule = |standing: &Standing| {
        let message = &standing.message;
        if message.is_due() {
            return context.rules.take_back_message(message, now);
        }
        let adopted = context.rules.adopt_message(standing, now, now)?;
        // As the clock that was ahead has written it, so that its times count as wrong.
        let PublishedMessage { revision, updated_at, .. } = *message;
        let wrong = PublishedMessage { revision, updated_at, ..adopted };
        context.rules.take_back_message(&wrong, now)
    };
    let work = apply_to_standing(&*context.store, Some(standing), &id, rule);
    let applied = isolated(&due_id, work).instrument(span).await.transpose()?;
    results.push(message_result(applied.as_ref()));
    Ok(results)
}

/// `None`: the work on it panicked.
fn message_result(applied: Option<&AppliedToMessage>) -> EntryResult {
    match applied {
        Some(AppliedToMessage::Done(_)) => EntryResult::TakenBack,
        Some(AppliedToMessage::Refused(..) | AppliedToMessage::Missing) => EntryResult::Unchanged,
        None => EntryResult::Left,
    }
}

/// Takes back the webhook's times, if a clock that was ahead has written them.
async fn take_back_webhook(context: &Context, webhook: Webhook) -> Result<EntryResult, SweepError> {
    let now = context.clock.now();
    let (id, span) = (DueId::Webhook(webhook.id.clone()), webhook_span(&webhook, None));
    let rule = |webhook: &Webhook| context.rules.take_back(webhook, now);
    let applied =
        isolated(&id, apply(&*context.store, webhook, rule)).instrument(span).await.transpose()?;
    Ok(match applied {
        Some(Applied::Done(..)) => EntryResult::TakenBack,
        Some(Applied::Refused(..) | Applied::Missing) => EntryResult::Unchanged,
        None => EntryResult::Left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(900);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn ran(seconds: i64) -> SweepReport {
        SweepReport { ran_at: at(seconds), ..SweepReport::default() }
    }

    fn ahead_ms(last: Option<&SweepReport>, audited_s: i64, now_s: i64) -> Option<u64> {
        let traces = Traces {
            last: last.cloned(),
            audited_until: Some(at(audited_s)),
            created_at: Some(at(now_s + 3)),
        };
        find(&traces, AGE, at(now_s)).map(|fault| fault.ahead_ms)
    }

    #[test]
    fn a_trace_from_the_future_is_a_fault_and_the_skew_of_correct_clocks_is_not() {
        let now = 100_000;
        assert_eq!(ahead_ms(Some(&ran(now - 60)), now - 900, now), None);
        assert_eq!(ahead_ms(Some(&ran(now + 5)), now - 895, now), None, "clocks of two machines");
        assert_eq!(ahead_ms(Some(&ran(now + 7200)), now - 900, now), Some(7_200_000), "its report");
        let began = SweepReport { began_at: Some(at(now + 7200)), ..ran(now - 60) };
        assert_eq!(ahead_ms(Some(&began), now - 900, now), Some(7_200_000), "its announcement");
        assert_eq!(
            ahead_ms(Some(&ran(now - 60)), now + 6300, now),
            Some(7_200_000),
            "the audit's position"
        );
        assert_eq!(ahead_ms(None, now - 450, now), None);
        assert_eq!(ahead_ms(None, now - 449, now), Some(451_000));
        let created = Traces { created_at: Some(at(now + 7200)), ..Traces::default() };
        assert_eq!(
            find(&created, AGE, at(now)).map(|fault| fault.ahead_ms),
            Some(7_200_000),
            "a webhook"
        );
    }

    #[test]
    fn a_short_audit_age_allows_for_skew() {
        let position = at(1000 - 2 + 5);
        assert!(!is_ahead(position, Duration::from_secs(2), at(1000)));
        assert!(is_ahead(
            position.plus(Duration::from_millis(1)),
            Duration::from_secs(2),
            at(1000)
        ));
    }

    #[test]
    fn a_fault_is_reported_for_a_day_and_while_work_is_left() {
        let fault = |left| Some(ClockFault { found_at: at(1000), ahead_ms: 7, left });
        let reported = |left, now_s| {
            let last = SweepReport { clock_fault: fault(left), ..ran(now_s - 60) };
            find(&Traces { last: Some(last), ..Traces::default() }, AGE, at(now_s))
        };
        assert_eq!(reported(None, 1000 + 86_399), fault(None));
        assert_eq!(reported(None, 1000 + 86_400), None);
        let left = Some(DueCursor::before(at(5)));
        assert_eq!(reported(left.clone(), 1000 + 86_400), fault(left));
    }
}
