//! Overload: sends ten times the measured capacity. The stack must shed the excess with a 429 or
//! 503 that has `retry-after`, use little memory, and deliver everything that it accepts.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    LoadError,
    arrival::{Arrivals, LoadReceiver},
    closed::post_all,
    machine::usage,
    open::{Pace, in_the_background, nothing_accepted},
    plan::Plan,
    wire::{Server, Template, run_name},
};
use harness::stack::Stack;

/// The offered load, as a multiple of the capacity.
const FACTOR: f64 = 10.0;

/// Default number of webhooks to measure the capacity with.
const CAPACITY_WEBHOOKS: u32 = 5_000;

/// Connections under overload: more than the default of `API_CONCURRENCY` (256), which makes the
/// API reach its limit.
const CONNECTIONS: u16 = 400;

/// Maximum number of requests of a run, to bound the tool's memory.
const MAX_REQUESTS: f64 = 20_000_000.0;

/// The result of an overload.
#[derive(Clone, Debug, Serialize)]
pub struct Overload {
    /// The capacity: webhooks per second that the stack accepts and delivers.
    pub carries_per_second: f64,
    /// Requests per second under overload.
    pub offered_per_second: f64,
    /// Duration of the overload.
    pub seconds: f64,
    /// Responses by status code.
    pub answers: BTreeMap<u16, u64>,
    /// Responses 429 and 503 without `retry-after`.
    pub without_retry_after: u64,
    /// Requests without a response.
    pub unanswered: u64,
    /// Accepted webhooks that arrived.
    pub delivered: u64,
    /// Time from the last request to the last arrival.
    pub delivered_after_seconds: f64,
    /// Webhooks that arrived more than once.
    pub duplicates: u64,
    /// Peak memory of the stack, before and after the overload.
    pub peak_mib: [f64; 2],
}

impl Overload {
    /// Whether every request was accepted or shed, and every accepted webhook arrived once.
    pub fn is_clean(&self) -> bool {
        self.answers.keys().all(|status| matches!(status, 202 | 429 | 503))
            && self.without_retry_after == 0
            && self.unanswered == 0
            && self.duplicates == 0
            && self.delivered == self.answered(202)
    }

    /// Number of responses with this status code.
    pub fn answered(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }

    /// Requests that were shed.
    pub fn shed(&self) -> u64 {
        self.answered(429) + self.answered(503)
    }

    /// Growth of the stack's peak memory.
    pub fn growth_mib(&self) -> f64 {
        self.peak_mib[1] - self.peak_mib[0]
    }

    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let factor = self.offered_per_second / self.carries_per_second;
        let answers: Vec<String> =
            self.answers.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        [
            (
                "capacity",
                format!(
                    "{:.0} webhooks per second, accepted and delivered",
                    self.carries_per_second
                ),
            ),
            (
                "offered load",
                format!(
                    "{:.0} per second ({factor:.1} times the capacity) for {:.1} s",
                    self.offered_per_second, self.seconds
                ),
            ),
            ("responses", answers.join("   ")),
            ("shed without retry-after", self.without_retry_after.to_string()),
            ("requests without a response", self.unanswered.to_string()),
            (
                "accepted and delivered",
                format!(
                    "{} of {}, the last {:.1} s after the load",
                    self.delivered,
                    self.answered(202),
                    self.delivered_after_seconds
                ),
            ),
            ("arrived twice", self.duplicates.to_string()),
            (
                "peak memory, before and after",
                format!("{:.1} and {:.1} MiB", self.peak_mib[0], self.peak_mib[1]),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Measures the capacity of the stack, then sends ten times that.
pub(super) async fn measure(plan: &Plan, stack: &Stack) -> Result<Overload, LoadError> {
    let api = Server::of(&stack.url())?;
    let peak_mib = || Ok::<_, LoadError>(usage(&[stack.pid()])?.peak_kib as f64 / 1024.0);
    let carries_per_second = measure_capacity(plan, &api).await?;
    let before_mib = peak_mib()?;
    let rate = carries_per_second * FACTOR;
    plan.say(format_args!(
        "capacity: {carries_per_second:.0} per second; sending {rate:.0} per second for {} s",
        plan.seconds
    ));
    let limit = Duration::from_secs(plan.seconds);
    let total = (rate * limit.as_secs_f64()).min(MAX_REQUESTS) as u32;
    let arrivals = Arrivals::new(run_name(), total);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let template = Template::submission(
        &api,
        plan.api_key.as_deref(),
        receiver.url(),
        arrivals.run(),
        plan.payload_bytes,
    );
    let started = Instant::now();
    let sent = in_the_background(
        &api,
        template,
        &arrivals,
        Pace { total, rate, connections: CONNECTIONS, limit },
    )
    .await?;
    let took = started.elapsed();
    if sent.accepted.is_empty() {
        return Err(nothing_accepted(sent.first_refusal));
    }
    plan.say(format_args!("waiting for the {} accepted webhooks", sent.accepted.len()));
    arrivals.wait_for(sent.accepted.len() as u64, plan.arrival_bound()).await?;
    let delivered =
        sent.accepted.iter().filter(|(number, ..)| arrivals.at(*number).is_some()).count() as u64;
    let last = arrivals.epoch() + arrivals.latest();
    receiver.stop()?;
    Ok(Overload {
        carries_per_second,
        offered_per_second: (sent.answers.values().sum::<u64>() + sent.broken) as f64
            / took.as_secs_f64(),
        seconds: took.as_secs_f64(),
        answers: sent.answers,
        without_retry_after: sent.without_retry_after,
        unanswered: sent.broken,
        delivered,
        delivered_after_seconds: last.saturating_duration_since(started + took).as_secs_f64(),
        duplicates: arrivals.duplicates(),
        peak_mib: [before_mib, peak_mib()?],
    })
}

/// Measures the capacity in a closed loop.
async fn measure_capacity(plan: &Plan, api: &Server) -> Result<f64, LoadError> {
    let webhooks = plan.webhooks.unwrap_or(CAPACITY_WEBHOOKS);
    let arrivals = Arrivals::new(run_name(), webhooks);
    let receiver = LoadReceiver::start(Arc::clone(&arrivals))?;
    let template = Template::submission(
        api,
        plan.api_key.as_deref(),
        receiver.url(),
        arrivals.run(),
        plan.payload_bytes,
    );
    let started = Instant::now();
    let posted = post_all(api, &template, webhooks, plan.connections, 202).await?;
    if posted.answered(202) == 0 {
        return Err(nothing_accepted(posted.first_refusal));
    }
    arrivals.wait_for(posted.answered(202), plan.arrival_bound()).await?;
    receiver.stop()?;
    Ok(posted.answered(202) as f64 / started.elapsed().as_secs_f64())
}
