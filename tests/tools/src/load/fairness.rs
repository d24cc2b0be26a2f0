//! Fairness: how much a hanging destination with half of the traffic delays a healthy one.
//!
//! Two cases alternate, each on a new stack. In the first, both halves of the traffic go to healthy
//! destinations. In the second, one half goes to a destination that accepts requests and never
//! responds. The traffic is the same in both. The result is the time from when each POST was due to
//! its arrival, for the half that goes to the healthy destination in both cases. It is measured
//! with the circuit breaker off, where only the destination's concurrency limit acts, and with it
//! on.

use std::{path::Path, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    LoadError,
    arrival::{Arrivals, LoadReceiver},
    figures::{Faults, Quantiles},
    open::{Pace, Sent, in_the_background, nothing_accepted},
    plan::Plan,
    wire::{Server, Template, run_name},
};
use harness::{
    hostile::{HostileReceiver, Step, Transport},
    stack::Launch,
};

/// Default number of requests per second.
const RATE: f64 = 100.0;

/// The result with one setting of the circuit breaker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fairness {
    /// Whether the circuit breaker was on.
    pub breaker: bool,
    /// Webhooks per second. Half of them go to the other destination.
    pub rate: f64,
    /// From due to arrival while the other destination is healthy.
    pub beside_well: Quantiles,
    /// The same while it hangs.
    pub beside_hanging: Quantiles,
    /// Change of the p99 from the former to the latter, in percent.
    pub p99_moved_percent: f64,
    /// Difference of the p99 of the two settings while both destinations are healthy, in percent of
    /// the smaller one. No circuit opens then, so this is the noise of the measurement: a smaller
    /// change is not significant.
    pub noise_percent: f64,
    /// Attempts at the hanging destination.
    pub hanging_attempts: usize,
    /// Unexpected results in the measured half.
    pub faults: Faults,
}

impl Fairness {
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let breaker = if self.breaker { "on" } else { "off" };
        [
            (
                "load",
                format!(
                    "{} webhooks per second, half of them to one destination; circuit \
                     breaker {breaker}",
                    self.rate
                ),
            ),
            ("the others, while it is healthy", self.beside_well.to_string()),
            ("the others, while it hangs", self.beside_hanging.to_string()),
            (
                "change of their p99",
                format!(
                    "{:+.1} % (noise with both healthy: {:.1} %)",
                    self.p99_moved_percent, self.noise_percent
                ),
            ),
            ("attempts at the hanging destination", self.hanging_attempts.to_string()),
            ("faults", self.faults.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Measures both settings.
pub(super) async fn measure(
    plan: &Plan,
    binary: &Path,
    folder: &Path,
) -> Result<Vec<Fairness>, LoadError> {
    let mut measured = Vec::new();
    for breaker in [false, true] {
        let rate = plan.rate.unwrap_or(RATE);
        let mut result = Fairness { breaker, rate, ..Fairness::default() };
        let (mut well, mut hanging) = (Vec::new(), Vec::new());
        for round in 1..=plan.rounds {
            for hangs in [false, true] {
                let (case, breaker) = (
                    if hangs { "one hangs" } else { "both healthy" },
                    if breaker { "on" } else { "off" },
                );
                plan.say(format_args!(
                    "breaker {breaker}, round {round} of {}, {case}: {} s",
                    plan.rounds, plan.seconds
                ));
                let times = if hangs { &mut hanging } else { &mut well };
                times.extend(phase(plan, binary, folder, hangs, &mut result).await?);
            }
        }
        (result.beside_well, result.beside_hanging) = (Quantiles::of(well), Quantiles::of(hanging));
        result.p99_moved_percent =
            (result.beside_hanging.p99_ms / result.beside_well.p99_ms - 1.0) * 100.0;
        measured.push(result);
    }
    let well = measured.iter().map(|setting| setting.beside_well.p99_ms);
    let (least, most) = well
        .fold((f64::MAX, 0.0_f64), |(least, most), p99_ms| (least.min(p99_ms), most.max(p99_ms)));
    for setting in &mut measured {
        setting.noise_percent = (most / least - 1.0) * 100.0;
    }
    Ok(measured)
}

/// One case on a new stack. Returns the times of the measured half.
async fn phase(
    plan: &Plan,
    binary: &Path,
    folder: &Path,
    hangs: bool,
    result: &mut Fairness,
) -> Result<Vec<Duration>, LoadError> {
    let launch =
        Launch::of(binary, folder)?.set("CIRCUIT_FAILURES", if result.breaker { "5" } else { "0" });
    let stack = launch.start()?;
    let api = Server::of(&stack.url())?;
    let each = Pace {
        total: (result.rate / 2.0 * plan.seconds as f64).ceil() as u32,
        rate: result.rate / 2.0,
        connections: plan.connections.div_ceil(2),
        limit: Duration::MAX,
    };
    let hanging = HostileReceiver::start(&Transport::Plain, &[Step::Read, Step::Stall]).await;
    let hanging = hanging
        .map_err(|error| LoadError::Plan(format!("cannot start the hanging receiver: {error}")))?;
    let [counted, other] = [(); 2].map(|()| Arrivals::new(run_name(), each.total));
    let receivers =
        [LoadReceiver::start(Arc::clone(&counted))?, LoadReceiver::start(Arc::clone(&other))?];
    let other_url = if hangs { hanging.url() } else { receivers[1].url().to_owned() };
    let key = plan.api_key.as_deref();
    let template = |url: &str, arrivals: &Arrivals| {
        Template::submission(&api, key, url, arrivals.run(), plan.payload_bytes)
    };
    let (ours, theirs) = (template(receivers[0].url(), &counted), template(&other_url, &other));
    let (sent, beside) = tokio::try_join!(
        in_the_background(&api, ours, &counted, each),
        in_the_background(&api, theirs, &other, each)
    )?;
    if sent.accepted.is_empty() || beside.accepted.is_empty() {
        return Err(nothing_accepted(sent.first_refusal.or(beside.first_refusal)));
    }
    counted.wait_for(sent.accepted.len() as u64, plan.arrival_bound()).await?;
    result.hanging_attempts += hanging.connections();
    note(&mut result.faults, &sent, counted.duplicates());
    // A clean stop would wait for the attempts at the hanging destination. The scenarios test that.
    stack.crash()?;
    for receiver in receivers {
        receiver.stop()?;
    }
    Ok(sent
        .accepted
        .iter()
        .filter_map(|(number, due, _)| Some(counted.at(*number)?.saturating_sub(*due)))
        .collect())
}

fn note(faults: &mut Faults, sent: &Sent, duplicates: u64) {
    for (status, count) in sent.answers.iter().filter(|(status, _)| **status != 202) {
        *faults.other_answers.entry(*status).or_default() += count;
    }
    faults.unanswered += sent.broken;
    faults.duplicates += duplicates;
    if faults.first.is_none() {
        faults.first.clone_from(&sent.first_refusal);
    }
}
