//! A configured rate: enough webhooks for the whole duration, and one or several processes that
//! send them. The receiver must never get more than the bound of the design, and most of the rate
//! must be used.
//!
//! The receiver notes arrivals. The design bounds starts, which are a few milliseconds earlier.

use std::time::{Duration, Instant};

use harness::{progress::Ticker, receiver::Receiver};
use serde::Serialize;

use super::{
    TrafficError,
    figure::{Figure, at_least, at_most, exactly},
    plan::Plan,
    stacks::{Stacks, wait_until},
};

/// Webhooks beyond those that the rate permits in the duration, in seconds of the rate.
const SPARE_S: u64 = 5;

/// The share of the rate that must be used.
const MIN_SHARE: f64 = 0.9;

/// How late a webhook may come for its slot.
const TOLERANCE_S: f64 = 10.0;

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// The configured rate, per second.
    pub rate: u32,
    /// Processes.
    pub processes: usize,
    /// Webhooks.
    pub webhooks: usize,
    /// Duration of the measurement, from the first arrival.
    pub seconds: u64,
    /// From the first arrival to the last one.
    pub drained_after_seconds: f64,
    /// The figures, with their targets.
    pub figures: Vec<Figure>,
}

/// Measures the rate.
pub(super) async fn measure(plan: &Plan) -> Result<Limit, TrafficError> {
    let receiver = Receiver::start().await?;
    let limits = format!("127.0.0.1={}/1s", plan.limit);
    let stacks = Stacks::start(plan, plan.processes, &[("RATE_LIMITS", &limits)])?;
    let webhooks = (u64::from(plan.limit) * (plan.seconds + SPARE_S)) as usize;
    let processes = stacks.processes();
    plan.say(format_args!(
        "limit, {}: {webhooks} webhooks at {} a second, processes: {processes}",
        plan.backend(),
        plan.limit
    ));
    let _ticker = Ticker::start("traffic", "seconds", plan.seconds + SPARE_S, {
        let started = Instant::now();
        move || started.elapsed().as_secs()
    });
    let ids = stacks.submit(&receiver.url("/limited"), webhooks).await?;
    let bound = plan.bound() + Duration::from_secs(plan.seconds + SPARE_S);
    wait_until(bound, || receiver.counts().distinct_webhook_ids >= ids.len() as u64).await;
    let outcomes = stacks.outcomes(&ids).await?;
    stacks.end()?;
    let mut arrivals: Vec<Instant> = receiver.received().iter().map(|request| request.at).collect();
    arrivals.sort_unstable();
    let first = arrivals.first().copied().unwrap_or_else(Instant::now);
    let offsets: Vec<f64> = arrivals.iter().map(|at| (*at - first).as_secs_f64()).collect();
    let mut figures = figures(&offsets, plan.limit, plan.seconds);
    figures.push(exactly("delivered", outcomes.delivered, webhooks));
    Ok(Limit {
        rate: plan.limit,
        processes,
        webhooks,
        seconds: plan.seconds,
        drained_after_seconds: offsets.last().copied().unwrap_or_default(),
        figures,
    })
}

/// The figures of these arrivals, in seconds since the first one.
fn figures(arrivals: &[f64], rate: u32, seconds: u64) -> Vec<Figure> {
    let rate_per_s = f64::from(rate);
    let burst = rate_per_s;
    let within = arrivals.iter().filter(|at| **at < seconds as f64).count();
    let share = within as f64 / (rate_per_s * seconds as f64);
    vec![
        at_most(
            "most requests in one second",
            most_within(arrivals, 1.0),
            2.0 * rate_per_s + burst,
        ),
        at_most(
            "most over R(w+10)+burst+1 in any w seconds",
            most_over(arrivals, |window| rate_per_s * (window + TOLERANCE_S) + burst + 1.0),
            0.0,
        ),
        at_least("share of the limit that was used", share, MIN_SHARE),
    ]
}

/// The most arrivals in any window of this length.
fn most_within(arrivals: &[f64], window: f64) -> f64 {
    let starts = arrivals.iter().enumerate();
    let count =
        |(start, at): (usize, &f64)| arrivals[start..].partition_point(|later| later - at < window);
    starts.map(count).max().unwrap_or(0) as f64
}

/// By how much any window exceeds its bound. Negative: by how much none does.
fn most_over(arrivals: &[f64], bound: impl Fn(f64) -> f64) -> f64 {
    let mut most = f64::NEG_INFINITY;
    for (start, first) in arrivals.iter().enumerate() {
        for (count, last) in arrivals[start..].iter().enumerate() {
            most = most.max((count + 1) as f64 - bound(last - first));
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_met(arrivals: &[f64], rate: u32, seconds: u64) -> Vec<bool> {
        figures(arrivals, rate, seconds).iter().map(|figure| figure.is_met).collect()
    }

    #[test]
    fn a_steady_rate_meets_all_targets_and_a_burst_does_not() {
        let steady: Vec<f64> = (0..160).map(|number| f64::from(number) / 8.0).collect();
        assert_eq!(is_met(&steady, 8, 20), [true; 3]);
        let over = most_over(&steady, |window| 8.0 * window + 2.0);
        assert_eq!((most_within(&steady, 1.0), over.round()), (8.0, -1.0));
        assert_eq!(is_met(&[0.0; 111], 10, 11), [false, true, true]);
        assert_eq!(is_met(&[0.0; 112], 10, 20), [false, false, false]);
        let slow: Vec<f64> = (0..170).map(|number| f64::from(number) / 8.5).collect();
        assert_eq!(is_met(&slow, 10, 20), [true, true, false]);
    }

    #[test]
    fn without_an_arrival_no_bound_is_exceeded_and_nothing_is_used() {
        assert_eq!(is_met(&[], 10, 20), [true, true, false]);
    }
}
