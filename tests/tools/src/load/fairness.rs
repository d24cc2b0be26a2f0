//! Fairness: how much later the webhooks of a destination that is well arrive because another one,
//! which has half of the traffic, hangs.
//!
//! Two cases in turn, each on a stack of its own: both halves go to destinations that are well, and
//! one half goes to one that takes requests and never answers. The traffic is the same, so what
//! differs between the two is the hanging alone. What counts is the time from when each POST was
//! due to its arrival, of the half that goes to the same destination in both. That is done with the
//! circuit breaker off, which leaves all of it to the limit on attempts at one destination, and
//! with it on.

use std::{path::Path, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    LoadError,
    arrival::{Arrivals, LoadReceiver},
    open::{Pace, Sent},
    plan::Plan,
    report::{Faults, Quantiles},
    run::{in_the_background, nothing_accepted},
    wire::{Server, Template, run_name},
};
use harness::{
    hostile::{HostileReceiver, Step, Transport},
    stack::Launch,
};

/// Requests a second, unless told otherwise.
const RATE: f64 = 100.0;

/// What was measured with one setting of the circuit breaker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fairness {
    /// Whether the circuit breaker was on.
    pub breaker: bool,
    /// Webhooks a second, of which half go to the other destination.
    pub rate: f64,
    /// From due to arrival while the other destination is well.
    pub beside_well: Quantiles,
    /// The same while it hangs.
    pub beside_hanging: Quantiles,
    /// How much larger the latter's p99 is than the former's, in percent; negative if it is
    /// smaller.
    pub p99_moved_percent: f64,
    /// By how much the p99 of the two settings differs while both are well, in percent of the
    /// smaller one. Nothing opens a circuit then, so that this is what the same measurement differs
    /// by: a move that is not larger says nothing.
    pub noise_percent: f64,
    /// Attempts that the hanging destination held at most, and how many came to it in all.
    pub hanging_attempts: usize,
    /// How it went, of the half that counts.
    pub faults: Faults,
}

impl Fairness {
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let breaker = if self.breaker { "on" } else { "off" };
        [
            (
                "load",
                format!(
                    "{} webhooks a second, half of them to one destination; circuit \
                breaker {breaker}",
                    self.rate
                ),
            ),
            ("the others, while that one is well", self.beside_well.to_string()),
            ("the others, while that one hangs", self.beside_hanging.to_string()),
            (
                "their p99 moved by",
                format!(
                    "{:+.1} % (two runs with both well differ by {:.1} %)",
                    self.p99_moved_percent, self.noise_percent
                ),
            ),
            ("attempts at the hanging one", self.hanging_attempts.to_string()),
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
                    if hangs { "one hangs" } else { "both well" },
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

/// One case on a stack of its own: the times of the half that counts.
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
    let hanging =
        hanging.map_err(|error| LoadError::Plan(format!("no hostile receiver: {error}")))?;
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
    // Attempts at the one that hangs would have to be waited for; what becomes of them is what the
    // scenarios test.
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
