//! A clock that was ahead, for seconds or days, found by those that come after: what it wrote lies
//! in the future, and is taken back.
//!
//! A run with such a clock finds everything due, queues it, and moves each entry of the due index
//! to a time far ahead, where nobody looks. The next run with a clock that is right sees a report,
//! an announcement, a position of the audit or a new webhook from the future. It then reads the
//! part of the due index that is not due yet, and what was created in the future, once, and takes
//! back what was written then ([`Rules::take_back`]).
//!
//! A run announces itself before it changes anything if its clock is far from that of the run
//! before, so that it leaves a trace even if it dies.
//!
//! [`Rules::take_back`]: shared::transition::Rules::take_back

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use shared::{
    apply::{Applied, apply},
    clock::{MAX_CLOCK_SKEW, Timestamp},
    context::Context,
    model::Webhook,
    store::{ClockFault, DueCursor, DueEntry, Filter, StoreError, SweepReport},
    transition::MAX_AHEAD,
};

use crate::{
    Summary, SweepError,
    due::{CONCURRENCY, LOOK_AHEAD, PAGE},
};

/// A run announces itself if the one before is further back than this: what a clock ahead by less
/// does is late by less.
const MAX_UNANNOUNCED: Duration = Duration::from_secs(600);

/// How long a fault is told.
const TOLD_FOR: Duration = Duration::from_secs(24 * 3600);

/// How far into the future webhooks are looked for that were created there. A backend may have to
/// read it day by day.
const MAX_LOOK_AHEAD: Duration = Duration::from_secs(400 * 24 * 3600);

/// The newest webhooks, one of which may be from the future.
const NEWEST: usize = 10;

/// Later than every entry of the due index: the year 9999.
const FAR: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// Says that a run begins whose clock may be wrong, before it does anything else.
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

/// When a run was at work last, by its own clock.
fn latest(last: &SweepReport) -> Timestamp {
    last.ran_at.max(last.began_at.unwrap_or_default())
}

/// What may come from the future.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    last: Option<SweepReport>,
    audited_until: Option<Timestamp>,
    /// When the newest of the webhooks that nobody holds was created.
    created_at: Option<Timestamp>,
}

impl Traces {
    pub(crate) async fn read(
        context: &Context,
        last: Option<&SweepReport>,
    ) -> Result<Self, StoreError> {
        let audited_until = context.store.audited_until().await?;
        let newest = context.store.list(&Filter::default(), None, NEWEST).await?.items;
        let list_unindexed = newest.iter().map(|listed| &listed.webhook);
        let list_unindexed = list_unindexed
            .filter(|webhook| !webhook.status.is_finished() && webhook.due_at.is_none());
        Ok(Self {
            last: last.cloned(),
            audited_until,
            created_at: list_unindexed.map(|webhook| webhook.created_at).max(),
        })
    }
}

/// A clock that was ahead of this one: found now, or lately.
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
            "A clock was ahead of this one: what it wrote is taken back. Check the clocks of all \
             machines"
        );
        return Some(ClockFault {
            found_at: now,
            ahead_ms,
            left: Some(DueCursor::before(now.plus(LOOK_AHEAD))),
        });
    }
    let told = last?.clock_fault.as_ref()?;
    let is_over = now.since(told.found_at) >= TOLD_FOR || told.found_at > now.plus(MAX_AHEAD);
    (told.left.is_some() || !is_over).then(|| told.clone())
}

/// Whether the audit's position is later than any clock that was right can have put it. The API
/// creates nothing with an id that is half the audit's age old, so up to there nothing was missed.
pub(crate) fn is_ahead(position: Timestamp, audit_age: Duration, now: Timestamp) -> bool {
    position > now.minus(audit_age).plus((audit_age / 2).max(MAX_CLOCK_SKEW))
}

/// Takes back what was written into the due index in the future, until there is no more or the time
/// is over.
pub(crate) async fn take_back(
    context: &Context,
    until: Timestamp,
    fault: &mut ClockFault,
    summary: &mut Summary,
) -> Result<(), SweepError> {
    if fault.left.is_none() {
        return Ok(());
    }
    let begin = DueCursor::before(context.clock.now().plus(LOOK_AHEAD));
    let mut unreadable = false;
    while let Some(left) = fault.left.take() {
        if context.clock.now() >= until {
            summary.more = true;
            fault.left = Some(left);
            return Ok(());
        }
        let page = context.store.due(FAR, Some(&left), PAGE).await?;
        let looked: Vec<Looked> = stream::iter(page.entries)
            .map(|entry| take_one_back(context, entry))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        summary.taken_back += looked.iter().filter(|looked| **looked == Looked::TakenBack).count();
        unreadable |= looked.contains(&Looked::Unreadable);
        fault.left = page.next;
    }
    let is_done =
        take_back_created(context, until, Duration::from_millis(fault.ahead_ms), summary).await?;
    if !is_done {
        summary.more = true;
        fault.left = Some(DueCursor::before(FAR));
    }
    if unreadable {
        // Once they can be read, their times are taken back too. Until then each run looks.
        fault.left = Some(begin);
    }
    Ok(())
}

/// What came of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    TakenBack,
    Right,
    Unreadable,
}

/// The same of what was created in the future and nobody holds. Whether that is all.
async fn take_back_created(
    context: &Context,
    until: Timestamp,
    ahead: Duration,
    summary: &mut Summary,
) -> Result<bool, SweepError> {
    let now = context.clock.now();
    let end = now.plus((ahead + TOLD_FOR).min(MAX_LOOK_AHEAD));
    let mut after = None;
    loop {
        let page = context.store.list_unindexed(now.plus(MAX_AHEAD), end, after).await?;
        for webhook in page.items {
            let rule = |webhook: &Webhook| context.rules.take_back(webhook, now);
            summary.taken_back += usize::from(matches!(
                apply(&*context.store, webhook, rule).await?,
                Applied::Done(..)
            ));
        }
        after = page.next;
        if after.is_none() {
            return Ok(true);
        }
        if context.clock.now() >= until {
            return Ok(false);
        }
    }
}

async fn take_one_back(context: &Context, entry: DueEntry) -> Result<Looked, SweepError> {
    let webhook = match context.store.get(&entry.id).await {
        Ok(Some(webhook)) => webhook,
        Ok(None) => return Ok(Looked::Right),
        Err(StoreError::Unreadable { .. }) => return Ok(Looked::Unreadable),
        Err(error) => return Err(error.into()),
    };
    let now = context.clock.now();
    let rule = |webhook: &Webhook| context.rules.take_back(webhook, now);
    let applied = apply(&*context.store, webhook, rule).await?;
    Ok(if matches!(applied, Applied::Done(..)) { Looked::TakenBack } else { Looked::Right })
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
    fn a_trace_from_the_future_is_a_fault_and_the_skew_of_good_clocks_is_none() {
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
    fn a_fault_is_told_for_a_day_and_for_as_long_as_something_is_left() {
        let fault = |left| Some(ClockFault { found_at: at(1000), ahead_ms: 7, left });
        let told = |left, now_s| {
            let last = SweepReport { clock_fault: fault(left), ..ran(now_s - 60) };
            find(&Traces { last: Some(last), ..Traces::default() }, AGE, at(now_s))
        };
        assert_eq!(told(None, 1000 + 86_399), fault(None));
        assert_eq!(told(None, 1000 + 86_400), None);
        let left = Some(DueCursor::before(at(5)));
        assert_eq!(told(left.clone(), 1000 + 86_400), fault(left));
    }
}
