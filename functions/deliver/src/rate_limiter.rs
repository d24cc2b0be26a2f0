//! Slots: makes a webhook wait for its place within the rates of its targets.
//!
//! Two rates can apply: the learned one of its URL or endpoint, after the receiver refused
//! requests, and the configured one of its host. The webhook needs a slot of each. It takes the
//! second one only when the first has opened, so that few slots are held in vain.
//!
//! Webhooks of one process that ask for slots of one target at the same time share a call to the
//! store. While a call runs, the next webhooks gather for the next one. So a batch makes one call.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    clock::Timestamp,
    context::Context,
    model::{Slot, Webhook},
    planted::{self, Bug},
    store::{ReplaceCountersError, TakenSlots, TargetState},
    traffic::{
        rate_limit::RateLimit,
        slots::{Counters, MAX_WAIT, Rate},
        target::{Target, TargetKey},
    },
    transition::SlotWait,
};
use tokio::sync::oneshot;

use crate::{
    circuit_breaker::target_keys,
    known_targets::{KnownTargets, TargetLocks},
};

/// How often one call tries again because another worker changed the counters or the rate.
const MAX_ROUNDS: u32 = 4;

/// How often a webhook that waits looks at the rates again, because they changed while it waited.
const MAX_CHECKS: u32 = 8;

/// How long a webhook waits after all rounds or checks were lost.
const CONTENTION_WAIT: Duration = Duration::from_secs(1);

/// The slots that a webhook has taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldSlots {
    learned: Option<Slot>,
    configured: Option<Slot>,
}

impl HeldSlots {
    /// The slot from an earlier look. Its generation tells to which rate it belongs.
    pub(crate) fn of(slot: Option<Slot>) -> Self {
        Self { learned: slot.clone(), configured: slot }
    }
}

/// Takes slots for the webhooks of this process.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    // A std mutex: it is held for a look-up, never across an await.
    requests: Mutex<HashMap<Request, Vec<oneshot::Sender<Granted>>>>,
    /// Held during a call for a target.
    calling: TargetLocks,
}

/// A rate of one target, and which of its counters: what webhooks that share a call have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    key: TargetKey,
    limit: Option<RateLimit>,
    is_learned: bool,
    is_late: bool,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Granted {
    /// A slot of this rate.
    Slot(Rate, i64),
    /// No rate applies, or the store failed. Traffic control never fails a delivery.
    Unlimited,
    /// Other workers were always first.
    Contended,
}

impl Request {
    fn rate(&self, target: Option<&Target>, now: Timestamp) -> Option<Rate> {
        if !self.is_learned {
            return self.limit.map(Rate::Configured);
        }
        let pace = target.and_then(|target| target.pace(now))?;
        Some(Rate::Learned(*pace, self.limit))
    }
}

impl RateLimiter {
    /// Waits until the rates of the webhook's targets permit an attempt, or returns that it takes
    /// longer than [`MAX_WAIT`]. `held` are the slots that the webhook has. New ones are added.
    /// With `ignore_learned`, only the configured rate counts.
    pub(crate) async fn turn(
        &self,
        context: &Context,
        targets: &KnownTargets,
        webhook: &Webhook,
        held: &mut HeldSlots,
        ignore_learned: bool,
    ) -> Result<(), SlotWait> {
        let (origin, url) = target_keys(webhook);
        let limit = context.config.rate_limits.of_destination(&webhook.destination);
        let url = url.filter(|_| !ignore_learned);
        let learned = url.map(|key| Request { key, limit, is_learned: true, is_late: false });
        // A configured rate is that of a host. A delivery's endpoint is its target.
        let configured = origin.filter(|_| limit.is_some());
        let configured =
            configured.map(|key| Request { key, limit, is_learned: false, is_late: false });
        if planted::is(Bug::PauseForOneOnly) {
            return Ok(());
        }
        for _ in 0..MAX_CHECKS {
            if let Some(request) = &learned {
                self.wait_for_slot(context, targets, request, &mut held.learned).await?;
            }
            let Some(request) = &configured else { return Ok(()) };
            let has_waited =
                self.wait_for_slot(context, targets, request, &mut held.configured).await?;
            if !has_waited || learned.is_none() {
                return Ok(());
            }
        }
        Err(try_again(context, learned.is_some()))
    }

    /// The place of a webhook whose request was refused, and that waits for its next attempt.
    pub(crate) async fn next_turn(
        &self,
        context: &Context,
        targets: &KnownTargets,
        webhook: &Webhook,
    ) -> Option<SlotWait> {
        let (_, url) = target_keys(webhook);
        let limit = context.config.rate_limits.of_destination(&webhook.destination);
        let request = Request { key: url?, limit, is_learned: true, is_late: false };
        match self.take(context, targets, &request).await {
            Granted::Slot(rate, slot) => Some(wait(context, &request, &rate, slot)),
            Granted::Unlimited => None,
            Granted::Contended => Some(try_again(context, request.is_learned)),
        }
    }

    /// Waits until a slot is open. Returns whether it had to wait.
    async fn wait_for_slot(
        &self,
        context: &Context,
        targets: &KnownTargets,
        request: &Request,
        held: &mut Option<Slot>,
    ) -> Result<bool, SlotWait> {
        let mut has_waited = false;
        for _ in 0..MAX_CHECKS {
            let target =
                if request.is_learned { targets.get(context, &request.key).await } else { None };
            let now = context.clock.now();
            let Some(mut rate) = request.rate(target.as_ref(), now) else { return Ok(has_waited) };
            let mine = held.as_ref().filter(|slot| slot.generation == rate.generation());
            let is_late = mine.is_some_and(|slot| rate.is_late(slot.number, now));
            if is_late && planted::is(Bug::LateWithoutSlot) {
                return Ok(has_waited);
            }
            let slot = match mine {
                Some(slot) if !is_late => slot.number,
                _ => {
                    let request = Request { is_late, ..request.clone() };
                    match self.take(context, targets, &request).await {
                        Granted::Slot(newest, slot) => {
                            rate = newest;
                            slot
                        }
                        Granted::Unlimited => return Ok(has_waited),
                        Granted::Contended => return Err(try_again(context, request.is_learned)),
                    }
                }
            };
            *held = Some(Slot { generation: rate.generation(), number: slot });
            let left = rate.opens_at(slot).since(context.clock.now());
            if left.is_zero() {
                return Ok(has_waited);
            }
            if left > MAX_WAIT {
                return Err(wait(context, request, &rate, slot));
            }
            context.clock.sleep(left).await;
            has_waited = true;
        }
        // The rate keeps changing. The webhook keeps its slot.
        Err(SlotWait { slot: held.clone(), ..try_again(context, request.is_learned) })
    }

    /// Takes a slot, together with all webhooks of this process that ask for one now.
    async fn take(&self, context: &Context, targets: &KnownTargets, request: &Request) -> Granted {
        loop {
            let (sender, receiver) = oneshot::channel();
            let is_first = {
                let mut requests = self.requests();
                let senders = requests.entry(request.clone()).or_default();
                senders.push(sender);
                senders.len() == 1
            };
            if is_first {
                let mut together = Together { limiter: self, request, is_open: true };
                // The other webhooks of the batch ask now, and more while another call runs.
                tokio::task::yield_now().await;
                let _calling = self.calling.lock(&request.key).await;
                let senders = together.close();
                let count = u32::try_from(senders.len()).unwrap_or(u32::MAX);
                let granted = take_from_store(context, targets, request, count).await;
                for (place, sender) in senders.into_iter().enumerate() {
                    let granted = match granted {
                        Granted::Slot(rate, last) => {
                            Granted::Slot(rate, last.saturating_sub(behind(place, count)))
                        }
                        other => other,
                    };
                    let _ = sender.send(granted);
                }
            }
            // An error means that the first one was cancelled.
            if let Ok(granted) = receiver.await {
                return granted;
            }
        }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Request, Vec<oneshot::Sender<Granted>>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open list of webhooks that ask together. Dropping it closes the list, so that a cancelled
/// first one leaves none unserved.
struct Together<'a> {
    limiter: &'a RateLimiter,
    request: &'a Request,
    is_open: bool,
}

impl Together<'_> {
    fn close(&mut self) -> Vec<oneshot::Sender<Granted>> {
        self.is_open = false;
        self.limiter.requests().remove(self.request).unwrap_or_default()
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.close();
        }
    }
}

async fn take_from_store(
    context: &Context,
    targets: &KnownTargets,
    request: &Request,
    count: u32,
) -> Granted {
    let mut target = targets.look_up(&request.key);
    for _ in 0..MAX_ROUNDS {
        let now = context.clock.now();
        let Some(rate) = request.rate(target.as_ref(), now) else { return Granted::Unlimited };
        let take = rate.take(count, request.is_late, now);
        if planted::is(Bug::SlotTakenTwice) {
            return Granted::Slot(rate, take.floor + i64::from(count));
        }
        let call = context.store.take_slots(&request.key, &take);
        let stored = match targets.calls.make(context, "take slots", call, |_| false).await {
            Some(Ok(TakenSlots::Taken { last, target: newest })) => {
                targets.note(&request.key, newest.clone(), now);
                // Another worker may have changed the rate since this process read it.
                match request.rate(newest.as_ref(), now) {
                    Some(rate) if rate.generation() == take.generation => {
                        return Granted::Slot(rate, last);
                    }
                    _ => TargetState { target: newest, counters: None },
                }
            }
            Some(Ok(TakenSlots::Refused(stored))) => {
                targets.note(&request.key, stored.target.clone(), now);
                match restart(context, targets, request, count, stored).await {
                    Ok(granted) => return granted,
                    Err(stored) => stored,
                }
            }
            _ => return Granted::Unlimited,
        };
        target = stored.target;
    }
    Granted::Contended
}

/// Replaces counters that belong to another rate or are behind the floor.
async fn restart(
    context: &Context,
    targets: &KnownTargets,
    request: &Request,
    count: u32,
    stored: TargetState,
) -> Result<Granted, TargetState> {
    let now = context.clock.now();
    let Some(rate) = request.rate(stored.target.as_ref(), now) else {
        return Ok(Granted::Unlimited);
    };
    let take = rate.take(count, request.is_late, now);
    let before = stored.counters.as_ref();
    let (after, last) = Counters::after(before, &take);
    let call = context.store.replace_counters(&request.key, before, &after);
    let is_answer =
        |error: &ReplaceCountersError| matches!(error, ReplaceCountersError::Changed(_));
    match targets.calls.make(context, "replace slot counters", call, is_answer).await {
        Some(Ok(())) => Ok(Granted::Slot(rate, last)),
        Some(Err(ReplaceCountersError::Changed(newer))) => Err(*newer),
        _ => Ok(Granted::Unlimited),
    }
}

/// By how many slots this place is behind the last of `count`.
fn behind(place: usize, count: u32) -> i64 {
    let places = usize::try_from(count).unwrap_or(usize::MAX);
    i64::try_from(places.saturating_sub(place + 1)).unwrap_or(i64::MAX)
}

fn wait(context: &Context, request: &Request, rate: &Rate, slot: i64) -> SlotWait {
    let unit = context.random.next_unit();
    SlotWait {
        until: rate.look_at(slot, context.clock.now(), unit),
        slot: Some(Slot { generation: rate.generation(), number: slot }),
        is_learned: request.is_learned,
    }
}

/// A short wait without a slot.
fn try_again(context: &Context, is_learned: bool) -> SlotWait {
    let until = context.clock.now().plus(CONTENTION_WAIT);
    SlotWait { until, slot: None, is_learned }
}
