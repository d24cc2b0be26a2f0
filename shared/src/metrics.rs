//! Counters and gauges of the functions. A process collects them and adds them to the store's
//! totals once per invocation, or once a second where one process runs many invocations. `GET
//! /metrics` renders the totals as Prometheus text, so counters survive every function instance.
//!
//! On Lambda, an invocation that changed something also prints a line in CloudWatch's Embedded
//! Metric Format at its end.
//!
//! A flush without changes costs no write. A crash may lose the counts of the last second. No
//! delivery depends on them.

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

/// What a function was processing. The label `mode`.
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
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Deliver, Self::Sweep, Self::Dlq];

    /// The value of the label, which is also the function's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Sweep => "sweep",
            Self::Dlq => "dlq",
        }
    }
}

/// The statuses that an attempt can lead to. The label `status` of `webhook_delivery_total`.
pub const DELIVERY_STATUSES: [Status; 3] = [Status::Delivered, Status::Retrying, Status::Failed];

/// The values of the label `status` of `task_processing_total`.
pub const TASK_STATUSES: [&str; 2] = ["success", "failure"];

/// What this process counted and has not yet added to the store's totals.
#[derive(Debug, Default)]
pub struct Metrics {
    deliveries: [AtomicU64; DELIVERY_STATUSES.len()],
    delivery_seconds: Histogram,
    tasks: [[AtomicU64; TASK_STATUSES.len()]; Mode::ALL.len()],
    task_seconds: [Histogram; Mode::ALL.len()],
    // A std mutex: it is held for a few instructions, never across an await.
    destinations: Mutex<HashMap<String, DestinationActivity>>,
    last_flush_ms: AtomicI64,
    /// The shortest time between two flushes. Zero on Lambda, where the platform may freeze the
    /// process right after the invocation.
    flush_interval: Duration,
    /// Only on Lambda.
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
    /// Creates empty metrics that flush at most once per `flush_interval`.
    pub fn new(flush_interval: Duration) -> Self {
        Self { flush_interval, ..Self::default() }
    }

    /// Creates the metrics of the Lambda function with this name. Each flush also prints the counts
    /// to standard output, for CloudWatch.
    pub fn for_lambda(function: String) -> Self {
        Self { emf: Some(Emf::new(function)), ..Self::default() }
    }

    /// Counts an attempt that led to this status.
    pub fn delivery(&self, status: Status, duration: Duration) {
        if let Some(index) = DELIVERY_STATUSES.iter().position(|known| *known == status) {
            self.deliveries[index].fetch_add(1, Ordering::Relaxed);
        }
        self.delivery_seconds.observe(duration);
        if let Some(emf) = &self.emf {
            emf.observe("WebhookDeliverySeconds", duration);
        }
    }

    /// Counts a processed message or a run of the sweep.
    pub fn task(&self, mode: Mode, success: bool, duration: Duration) {
        self.tasks[mode as usize][usize::from(!success)].fetch_add(1, Ordering::Relaxed);
        self.task_seconds[mode as usize].observe(duration);
        if let Some(emf) = &self.emf {
            emf.observe("TaskProcessingSeconds", duration);
        }
    }

    /// Records a run of the sweep: how long the most overdue entry had been due, and the number of
    /// webhooks per status.
    pub fn swept(&self, lag: Duration, counts: [u64; Status::ALL.len()]) {
        if let Some(emf) = &self.emf {
            emf.observe("SweepLagSeconds", lag);
            emf.keys(counts);
        }
    }

    /// Counts an attempt at this destination. `waiting` is the change in the number of webhooks
    /// that wait for it. The sum over all processes is an estimate: two processes that give up one
    /// webhook in the same millisecond both count it, and a process that dies loses its last
    /// counts.
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

    /// Adds the counts to the store's totals if the interval is over. Call it at the end of each
    /// invocation.
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

    /// Adds the counts to the store's totals.
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

    /// Takes the counts since the last call.
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

/// The name of the attempts' histogram in the totals.
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
