//! The platform: it polls the queue, runs the schedule, invokes the functions, and enforces their
//! timeout.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use deliver::Deliver;
use local::events;
use shared::{
    clock::Timestamp,
    id::TaskId,
    message::Look,
    model::{Function, Webhook},
    queue::{Lane, Received},
    status::Status,
    store::ListPosition,
};

use crate::{
    state::{State, records::is_at_large},
    world::{Process, World},
};

/// The time limit of an invocation.
pub(super) const FUNCTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The visibility timeout.
const VISIBILITY: Duration = Duration::from_secs(360);

type Batch = Vec<(u64, Received)>;

/// Runs `work` in the process, until the process dies or the time limit is reached.
pub(super) async fn invoke<T>(process: &Process, work: impl Future<Output = T>) -> Option<T> {
    process.invoked();
    tokio::select! {
        biased;
        () = process.died.notified() => None,
        value = work => Some(value),
        () = tokio::time::sleep(FUNCTION_TIMEOUT) => {
            process.note(|| "reaches the time limit".to_owned());
            process.die();
            None
        }
    }
}

/// A worker, which is warm after its first invocation. `deliver` keeps state between invocations.
#[derive(Debug)]
struct Worker {
    process: Arc<Process>,
    deliver: Option<Deliver>,
}

/// Polls a lane, without end.
pub(super) async fn poll(world: Arc<World>, lane: Lane) {
    let idle: Arc<Mutex<Vec<Worker>>> = Arc::default();
    let slots = Arc::new(tokio::sync::Semaphore::new(world.plan.workers as usize));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stopped = lane == Lane::Webhooks && world.is_within(world.plan.stopped);
        let batch = if stopped {
            Batch::new()
        } else {
            world.change(|state| state.receive(&world.plan, lane, VISIBILITY))
        };
        if batch.is_empty() {
            drop(slot);
            wait(&world, lane, stopped).await;
            continue;
        }
        let warm = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let worker = warm.unwrap_or_else(|| Worker::start(&world, lane));
        let (world, idle) = (Arc::clone(&world), Arc::clone(&idle));
        world.busy.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            if let Some(worker) = worker.run(lane, batch).await {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
            }
            world.busy.fetch_sub(1, Relaxed);
            drop(slot);
        });
    }
}

/// Waits until a message may be visible.
async fn wait(world: &World, lane: Lane, stopped: bool) {
    let next = world.state().messages.next_visible(lane);
    let until = match (stopped, next) {
        (true, _) => Duration::from_secs(if world.plan.days() > 0 { 3600 } else { 60 }),
        (false, Some(at)) => at.since(world.now()).max(Duration::from_millis(1)),
        (false, None) => Duration::from_secs(24 * 3600),
    };
    tokio::select! {
        biased;
        () = world.sent.notified(), if !stopped => {}
        () = tokio::time::sleep(until) => {}
    }
}

impl Worker {
    fn start(world: &Arc<World>, lane: Lane) -> Self {
        let function = if lane == Lane::Webhooks { Function::Deliver } else { Function::Dlq };
        let process = Process::start(world, function);
        let deliver =
            (lane == Lane::Webhooks).then(|| Deliver::new(process.context(), process.services()));
        Self { process, deliver }
    }

    /// Invokes the function. Returns the worker if it can be invoked again.
    async fn run(self, lane: Lane, batch: Batch) -> Option<Self> {
        let process = &self.process;
        let world = &process.world;
        process.note(|| {
            format!(
                "is invoked with messages {:?}",
                batch.iter().map(|(number, _)| *number).collect::<Vec<_>>()
            )
        });
        if lane == Lane::Webhooks && world.is_within(world.plan.crashing) {
            if world.below(8) > 0 {
                process.die();
                return None;
            }
            process.doomed.store(true, Relaxed);
        }
        let until = process.local_now().plus(FUNCTION_TIMEOUT);
        let received: Vec<Received> = batch.iter().map(|(_, received)| received.clone()).collect();
        let event = events::sqs(lane, &received);
        let were_finished: Vec<bool> =
            batch.iter().map(|(_, received)| world.state().is_finished(received)).collect();
        let response = match &self.deliver {
            Some(deliver) => invoke(process, deliver.handle(event, until)).await,
            None => invoke(process, dlq::handle(&process.context(), event)).await,
        }?;
        let has_failed = |received: &Received| {
            response
                .batch_item_failures
                .iter()
                .any(|failure| failure.item_identifier == received.id)
        };
        // Without time for a claim, a worker hands a message back before it reads the record.
        let is_in_time = process.local_now() <= until.minus(world.config.rules.limits.lease);
        let failures = process.failed_calls.load(Relaxed) + process.failed_sends.load(Relaxed);
        let without_faults = failures == 0 && is_in_time;
        for ((number, received), was_finished) in batch.iter().zip(were_finished) {
            if has_failed(received) {
                // Some platforms make the message visible soon, others after the visibility
                // timeout.
                let delay = Duration::from_secs(if world.plan.days() > 0 && !world.is_faulty() {
                    6 * 3600
                } else if world.below(2) == 0 {
                    1 + world.below(60)
                } else {
                    VISIBILITY.as_secs()
                });
                world.change(|state| {
                    // An operator may have resent the webhook meanwhile.
                    let is_needless = without_faults && was_finished && state.is_finished(received);
                    state.checks.require(!is_needless, || {
                        format!("{process} handed back message {number} of a finished webhook")
                    });
                    state.hand_back(process, *number, received, delay);
                });
            } else {
                world.change(|state| state.acknowledge(process, *number, received));
            }
        }
        world.sent.notify_waiters();
        Some(self)
    }
}

impl State {
    /// Whether the webhook of this message needs no more work.
    fn is_finished(&self, received: &Received) -> bool {
        let Ok(look) = Look::from_json(&received.body) else { return false };
        let message = match look {
            Look::Webhook(message) => message,
            Look::Message(id) => {
                let found = self.records.published.get(&id.task);
                return found.is_none_or(|(message, _)| {
                    let missed = self.checks.published.unaccounted(id.task, &self.records);
                    !message.deleting && missed.is_none()
                });
            }
        };
        let id = &message.webhook_id;
        let position = ListPosition::of(id);
        if self.records.newer.contains(&id.task)
            || self.records.newer_deliveries.contains(&position)
        {
            return false;
        }
        match self.records.stored(id) {
            Some((webhook, _)) => webhook.status == Status::Delivered || webhook.is_dead_letter(),
            None => self.checks.published.delivery(id).is_none_or(|known| {
                known.begun || known.marked || !self.records.published.contains_key(&id.task)
            }),
        }
    }
}

/// Invokes `sweep` each minute, without end. Skips the minutes in which nothing can be due or
/// audited, so that simulated hours pass faster. A schedule may miss a tick anyway.
pub(super) async fn tick(world: Arc<World>) {
    let (mut first, mut minutes) = (true, 0_u64);
    loop {
        let missed = world.happens(world.plan.tick_missed) || world.plan.is_unswept(world.age_s());
        let is_day_start = world.plan.days() > 0 && minutes.is_multiple_of(12 * 60);
        if !missed && (first || is_day_start || has_work(&world)) {
            world.change(skip_empty_minutes);
            let doubled = world.happens(world.plan.tick_doubled);
            for _ in 0..=u32::from(doubled) {
                world.busy.fetch_add(1, Relaxed);
                tokio::spawn(sweep(Arc::clone(&world)));
            }
        }
        first = false;
        let step = if is_quiet(&world) { 60 } else { 1 };
        minutes += step - minutes % step;
        let next = Duration::from_secs(60 * minutes);
        tokio::time::sleep_until(world.started + next).await;
    }
}

/// Whether nothing happens within an hour, in a world of days.
fn is_quiet(world: &World) -> bool {
    if world.plan.days() == 0 || world.is_faulty() || world.busy.load(Relaxed) > 0 {
        return false;
    }
    let state = world.state();
    let soon = state.now().plus(Duration::from_secs(3700));
    let is_soon = |at: Option<Timestamp>| at.is_some_and(|at| at <= soon);
    let lanes = [Lane::Webhooks, Lane::DeadLetters];
    let is_queued = lanes.into_iter().any(|lane| is_soon(state.messages.next_visible(lane)));
    let is_due = is_soon(first_due(&state));
    !is_queued && !is_due && !is_any_unread(&state) && !is_clock_fault_left(&state)
}

/// Moves the audit's position over minutes in which nothing was created. The audit does so in runs
/// that have nothing else to do, and which a world of days leaves out.
fn skip_empty_minutes(state: &mut State) {
    let now = state.now();
    let Some(position) = state.records.audited_until.filter(|_| state.records.has_applications())
    else {
        return;
    };
    let of_age = now.minus(Duration::from_secs(16 * 60));
    let direct = state.records.webhooks.values().map(|(webhook, _)| webhook.id.task);
    let tasks = direct.chain(state.records.published.keys().copied());
    let unread = tasks.map(TaskId::created_at).filter(|at| *at >= position).min();
    let to = unread.map_or(of_age, |at| at.min(of_age)).as_millis().div_euclid(60_000) * 60_000;
    let to = Timestamp::from_millis(to);
    if to > position {
        state.records.audited_until = Some(to);
    }
}

/// Whether the message of a delivery is in the due index, or the delivery cannot be read.
fn is_held_by_message(state: &State, webhook: &Webhook) -> bool {
    let of_delivery =
        webhook.id.endpoint.and_then(|_| state.records.published.get(&webhook.id.task));
    of_delivery.is_some_and(|(message, _)| message.is_due())
        || state.records.newer_deliveries.contains(&ListPosition::of(&webhook.id))
}

/// Whether something is unfinished that the audit has not read and nothing holds.
fn is_any_unread(state: &State) -> bool {
    let at_large = state
        .records
        .webhooks
        .values()
        .any(|(webhook, _)| is_at_large(webhook) && !is_held_by_message(state, webhook));
    at_large || state.checks.published.at_large(&state.records).next().is_some()
}

fn has_work(world: &World) -> bool {
    let state = world.state();
    let soon = state.now().plus(Duration::from_secs(70));
    let due = first_due(&state).is_some_and(|at| at <= soon);
    let aged = state.now().minus(Duration::from_secs(15 * 60));
    let unread = state.records.webhooks.values().any(|(webhook, _)| {
        is_at_large(webhook) && webhook.created_at <= aged && !is_held_by_message(&state, webhook)
    });
    let mut at_large = state.checks.published.at_large(&state.records);
    let unread_message = at_large.any(|(message, _)| message.created_at <= aged);
    drop(at_large);
    due || unread || unread_message || is_clock_fault_left(&state)
}

/// When the first entry of the due index is due that this version can read.
fn first_due(state: &State) -> Option<Timestamp> {
    let newer = &state.records.newer_deliveries;
    let mut due = state.records.due.iter();
    due.find(|(_, position)| !newer.contains(position)).map(|(at, _)| *at)
}

/// Whether the sweep's clock was ahead, and what it wrote has not been reverted yet.
fn is_clock_fault_left(state: &State) -> bool {
    let now = state.now();
    let by_report = state.records.report.as_ref().is_some_and(|report| {
        let latest = report.ran_at.max(report.began_at.unwrap_or_default());
        latest > now.plus(Duration::from_secs(10))
            || report.clock_fault.as_ref().is_some_and(|fault| fault.left.is_some())
    });
    let of_age = now.minus(Duration::from_secs(10 * 60));
    by_report || state.records.audited_until.is_some_and(|until| until > of_age)
}

/// Readable due entries that have been due for at least 10 s. A sweep that reaches the end of the
/// due index must process all of them.
fn overdue(state: &State) -> Vec<(Timestamp, ListPosition)> {
    let last = state.now().minus(Duration::from_secs(10));
    let due = state.records.due.iter().take_while(|(at, _)| *at <= last);
    due.filter(|(_, position)| !state.records.is_unreadable(*position)).copied().collect()
}

async fn sweep(world: Arc<World>) {
    let process = Process::start(&world, Function::Sweep);
    let context = process.context();
    let until = process.local_now().plus(Duration::from_secs(55));
    let began_at = world.now();
    let overdue = world.change(|state| {
        state.checks.overlapped |= state.checks.sweeping > 0;
        state.checks.sweeping += 1;
        overdue(state)
    });
    let result = Box::pin(invoke(&process, ::sweep::handle(&context, until))).await;
    process.note(|| format!("ends: {result:?}"));
    world.change(|state| {
        state.checks.sweeping -= 1;
        if let Some(Ok(summary)) = &result {
            let newer = state.records.newer_deliveries.len() as u64;
            let (found, written) = (summary.unreadable as u64, world.plan.newer + newer);
            state.checks.require(found <= written, || {
                format!("{process} found {found} unreadable webhooks, of {written}")
            });
        }
        if let Some(Ok(summary)) = &result
            && !summary.more
        {
            let left = overdue.iter().find(|place| {
                state.records.due.contains(place) && !state.records.is_unreadable(place.1)
            });
            state.checks.require(left.is_none(), || {
                format!("{process} swept the whole due index, and left {left:?} due")
            });
        }
        // Two sweeps that overlap may each read the position of the other.
        let was_alone = !state.checks.overlapped;
        state.checks.overlapped &= state.checks.sweeping > 0;
        if let Some(Ok(summary)) = result
            && was_alone
            && !summary.more
        {
            let of_age = began_at.minus(Duration::from_secs(16 * 60));
            let reached =
                state.records.audited_until.is_some_and(|until: Timestamp| until >= of_age);
            state
                .checks
                .require(reached, || format!("{process} ended, and did not audit up to {of_age}"));
            let is_clock_right = world
                .plan
                .wrong_clock
                .is_none_or(|wrong| !world.is_within(Some((0, wrong.span.1 + 120))));
            let last = state.now().minus(Duration::from_secs(7 * 60));
            let too_far =
                state.records.audited_until.filter(|until| is_clock_right && *until > last);
            state.checks.require(too_far.is_none(), || {
                format!("{process} ended, and the audit's position is still {too_far:?}")
            });
        }
    });
    process.die();
    world.busy.fetch_sub(1, Relaxed);
}
