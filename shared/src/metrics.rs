//! What the functions count: gathered in the process, added to the store's totals once per
//! invocation (or once a second where one process runs many), and shown as Prometheus text from
//! those totals, so that counters survive every function instance.
//!
//! On Lambda the same goes out as a line of CloudWatch's Embedded Metric Format at the end of an
//! invocation that changed something.
//!
//! Counters cost no write when nothing changed. They may lose their last second in a crash; nothing
//! but figures hangs on them.

mod emf;
mod render;

use std::{
    collections::HashMap,
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use render::{Gauges, render};

use emf::Emf;

use crate::{
    clock::Timestamp,
    model::LastError,
    planted::{self, Bug},
    status::Status,
    store::{Activity, DestinationActivity, Store, StoreError},
};

/// Upper bounds of the histograms' buckets, in milliseconds. The last one exceeds the longest
/// attempt.
pub const BUCKETS_MS: [u64; 14] =
    [2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];

/// What a function was at when it did something; the label `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A message of the webhook queue.
    Deliver = 0,
    /// A run of the sweep.
    Sweep = 1,
    /// A message of the dead-letter queue.
    Dlq = 2,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Deliver, Self::Sweep, Self::Dlq];

    /// The label's value, which is the function's name too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Sweep => "sweep",
            Self::Dlq => "dlq",
        }
    }
}

/// The statuses that an attempt can lead to; the label `status` of `webhook_delivery_total`.
pub const DELIVERY_STATUSES: [Status; 3] = [Status::Delivered, Status::Retrying, Status::Failed];

/// The values of the label `status` of `task_processing_total`.
pub const TASK_STATUSES: [&str; 2] = ["success", "failure"];

/// What this process did and has not yet added to the store's totals.
#[derive(Debug, Default)]
pub struct Metrics {
    deliveries: [AtomicU64; DELIVERY_STATUSES.len()],
    delivery_seconds: Histogram,
    tasks: [[AtomicU64; TASK_STATUSES.len()]; Mode::ALL.len()],
    task_seconds: [Histogram; Mode::ALL.len()],
    // A std mutex: it is held for a few instructions, never across an await.
    destinations: Mutex<HashMap<String, DestinationActivity>>,
    last_flush_ms: AtomicI64,
    /// Not more often than this; zero on Lambda, where the process may be frozen right after the
    /// invocation.
    flush_interval: Duration,
    /// On Lambda only.
    emf: Option<Emf>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let millis = duration.as_millis();
        let bucket = BUCKETS_MS
            .iter()
            .position(|bound| millis <= u128::from(*bound))
            .unwrap_or(BUCKETS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    fn drain(&self, name: &str, activity: &mut Activity) {
        for (bucket, count) in self.buckets.iter().enumerate() {
            add(activity, || bucket_key(name, bucket), count);
        }
        add(activity, || sum_key(name), &self.sum_us);
    }
}

impl Metrics {
    /// Nothing counted yet. Flushes at most once per `flush_interval`.
    pub fn new(flush_interval: Duration) -> Self {
        Self { flush_interval, ..Self::default() }
    }

    /// The same for the Lambda function of this name: each flush also prints to standard output
    /// what was counted, for CloudWatch.
    pub fn for_lambda(function: String) -> Self {
        Self { emf: Some(Emf::new(function)), ..Self::default() }
    }

    /// An attempt ended and led to this status.
    pub fn delivery(&self, status: Status, duration: Duration) {
        if let Some(index) = DELIVERY_STATUSES.iter().position(|known| *known == status) {
            self.deliveries[index].fetch_add(1, Ordering::Relaxed);
        }
        self.delivery_seconds.observe(duration);
        if let Some(emf) = &self.emf {
            emf.observe("WebhookDeliverySeconds", duration);
        }
    }

    /// A message or a run was worked on.
    pub fn task(&self, mode: Mode, success: bool, duration: Duration) {
        self.tasks[mode as usize][usize::from(!success)].fetch_add(1, Ordering::Relaxed);
        self.task_seconds[mode as usize].observe(duration);
        if let Some(emf) = &self.emf {
            emf.observe("TaskProcessingSeconds", duration);
        }
    }

    /// A run of the sweep found this: how long the most overdue entry had been due, and how many
    /// webhooks there are by status.
    pub fn swept(&self, lag: Duration, counts: [u64; Status::ALL.len()]) {
        if let Some(emf) = &self.emf {
            emf.observe("SweepLagSeconds", lag);
            emf.keys(counts);
        }
    }

    /// An attempt at this destination ended; `waiting` tells how the number of webhooks that wait
    /// for it changed. The sum over all processes is an estimate: two that give up one webhook in
    /// the same millisecond both count it, and one that dies takes its last counts along.
    pub fn destination(
        &self,
        destination: &str,
        waiting: i64,
        attempt: Option<(Timestamp, Option<LastError>)>,
    ) {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if !destinations.contains_key(destination) {
            destinations.insert(destination.to_owned(), DestinationActivity::default());
        }
        let Some(activity) = destinations.get_mut(destination) else { return };
        activity.waiting += waiting;
        match attempt {
            Some((_, None)) => activity.delivered += 1,
            Some((at, Some(error))) => {
                activity.failed += 1;
                activity.last_error = Some((at, error));
            }
            None => {}
        }
    }

    /// Adds what was counted to the store's totals, if the interval is over. Called at the end of
    /// each invocation.
    pub async fn flush_if_due(&self, store: &dyn Store, now: Timestamp) {
        let last_ms = self.last_flush_ms.load(Ordering::Relaxed);
        let due_ms = last_ms.saturating_add(self.flush_interval.as_millis() as i64);
        // A clock that was ahead and was set back does not silence this until it gets there again.
        if (last_ms..due_ms).contains(&now.as_millis()) {
            return;
        }
        // Of several invocations that end together, one flushes.
        let ours = self.last_flush_ms.compare_exchange(
            last_ms,
            now.as_millis(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if ours.is_ok()
            && let Err(error) = self.flush(store, now).await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Counters could not be added to the store; they are lost"
            );
        }
    }

    /// Adds what was counted to the store's totals.
    pub async fn flush(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let activity = self.drain();
        if let Some(line) = self.emf.as_ref().and_then(|emf| emf.line(&activity.counters, now)) {
            // One call, so that no log line comes in between. An error means that standard output
            // is closed, and is ignored.
            let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
        }
        if activity == Activity::default() {
            Ok(())
        } else {
            store.add_activity(&activity, now).await
        }
    }

    /// What was counted since the last call.
    fn drain(&self) -> Activity {
        let mut activity = Activity::default();
        for (status, count) in DELIVERY_STATUSES.iter().zip(&self.deliveries) {
            add(&mut activity, || delivery_key(*status), count);
        }
        self.delivery_seconds.drain(DELIVERY_SECONDS, &mut activity);
        for mode in Mode::ALL {
            for (status, count) in TASK_STATUSES.iter().zip(&self.tasks[mode as usize]) {
                add(&mut activity, || task_key(mode, status), count);
            }
            self.task_seconds[mode as usize].drain(&task_seconds_name(mode), &mut activity);
        }
        let destinations =
            std::mem::take(&mut *self.destinations.lock().unwrap_or_else(PoisonError::into_inner));
        activity.destinations = destinations.into_iter().collect();
        activity
    }
}

fn add(activity: &mut Activity, name: impl FnOnce() -> String, count: &AtomicU64) {
    let counted = count.swap(0, Ordering::Relaxed);
    if planted::is(Bug::CountedAgain) {
        count.store(counted, Ordering::Relaxed);
    }
    if counted > 0 {
        activity.counters.insert(name(), counted);
    }
}

/// The name of the attempts' histogram among the totals.
const DELIVERY_SECONDS: &str = "delivery_seconds";

fn task_seconds_name(mode: Mode) -> String {
    format!("task_seconds.{}", mode.as_str())
}

fn delivery_key(status: Status) -> String {
    format!("deliveries.{status}")
}

fn task_key(mode: Mode, status: &str) -> String {
    format!("tasks.{}.{status}", mode.as_str())
}

fn bucket_key(name: &str, bucket: usize) -> String {
    match BUCKETS_MS.get(bucket) {
        Some(bound) => format!("{name}.le_{bound}"),
        None => format!("{name}.le_inf"),
    }
}

fn sum_key(name: &str) -> String {
    format!("{name}.sum_us")
}
