//! What works beside what does not, with six webhooks to the broken part for each to the healthy
//! one: a healthy path beside a broken one on one host, or an application beside one whose 100
//! endpoints hang. All healthy ones must be delivered, about as soon as without the broken part.
//!
//! Runs with and without the broken part alternate, each on a new stack. Their result is the ratio
//! of the p99 of the two runs of a pair. The median of the pairs is compared with the target, so
//! that a pause of the machine in one run does not decide.

use std::{sync::Arc, time::Duration};

use harness::receiver::{Received, Receiver, Reply};
use serde::Serialize;

use super::{
    TrafficError,
    figure::{Figure, at_most, exactly},
    plan::Plan,
    stacks::{Stacks, wait_until},
};
use crate::load::{
    arrival::Arrivals,
    fan_out::set_up,
    figures::Quantiles,
    open::{Pace, Sent, in_the_background, nothing_accepted},
    wire::{Server, Template, run_name},
};

/// Webhooks to the broken part for each webhook to the healthy one.
const BROKEN_SHARE: u32 = 6;

/// The endpoints of the application that hangs.
const HANGING_ENDPOINTS: u16 = 100;

/// How long a hanging endpoint takes to answer: longer than any attempt.
const HANG: Duration = Duration::from_secs(3600);

/// The p99 beside the broken part, as a multiple of the one without it.
const MAX_RATIO: f64 = 1.2;

const CONNECTIONS: u16 = 8;
const PAYLOAD_BYTES: u32 = 256;

const HEALTHY: &str = "/healthy";
const BROKEN: &str = "/broken";

/// What is healthy, and what is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// Two paths of one host. The broken one answers 500.
    Paths,
    /// Two applications. All endpoints of the broken one hang.
    Applications,
}

impl Case {
    pub(super) fn broken_part(self) -> &'static str {
        match self {
            Self::Paths => "the broken path",
            Self::Applications => "the application that hangs",
        }
    }

    /// How many webhooks one request to the broken part makes.
    fn broken_per_request(self) -> u32 {
        match self {
            Self::Paths => 1,
            Self::Applications => u32::from(HANGING_ENDPOINTS),
        }
    }
}

/// The result of all pairs.
#[derive(Clone, Debug, Serialize)]
pub struct Isolation {
    /// What is healthy, and what is broken.
    pub case: Case,
    /// Webhooks a second to the healthy part.
    pub rate: f64,
    /// Duration of each run.
    pub seconds: u64,
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// The figures, with their targets.
    pub figures: Vec<Figure>,
}

/// Two runs, one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// From accepted to arrival, without the broken part.
    pub alone: Quantiles,
    /// The same beside it.
    pub beside_broken: Quantiles,
    /// The p99 of the latter, as a multiple of the p99 of the former.
    pub p99_ratio: f64,
    /// Requests to the broken part.
    pub broken_requests: usize,
}

/// One run.
struct Run {
    accepted: usize,
    arrived: usize,
    times: Quantiles,
    broken_requests: usize,
}

/// Measures all pairs.
pub(super) async fn measure(plan: &Plan, case: Case) -> Result<Isolation, TrafficError> {
    let (mut pairs, mut accepted, mut arrived) = (Vec::new(), 0, 0);
    for number in 1..=plan.pairs {
        // Half of the pairs start with the broken part, so that a trend of the machine cancels out.
        let order = if number % 2 == 0 { [true, false] } else { [false, true] };
        let mut runs = Vec::new();
        for is_broken in order {
            plan.say(format_args!(
                "isolation, {}: pair {number} of {}, {} {}: {} s",
                plan.backend(),
                plan.pairs,
                if is_broken { "beside" } else { "without" },
                case.broken_part(),
                plan.seconds
            ));
            let run = measure_run(plan, case, is_broken).await?;
            if is_broken {
                (accepted, arrived) = (accepted + run.accepted, arrived + run.arrived);
            }
            runs.push(run);
        }
        if order[0] {
            runs.reverse();
        }
        if let [alone, beside] = runs.as_slice() {
            pairs.push(Pair::of(alone, beside));
        }
    }
    let ratio = median(pairs.iter().map(|pair| pair.p99_ratio).collect());
    let figures = vec![
        exactly("healthy webhooks delivered", arrived, accepted),
        at_most("p99 beside the broken part, ratio", ratio, MAX_RATIO),
    ];
    Ok(Isolation { case, rate: plan.rate, seconds: plan.seconds, pairs, figures })
}

impl Pair {
    fn of(alone: &Run, beside: &Run) -> Self {
        Self {
            alone: alone.times,
            beside_broken: beside.times,
            p99_ratio: beside.times.p99_ms / alone.times.p99_ms,
            broken_requests: beside.broken_requests,
        }
    }
}

/// One run on a new stack.
async fn measure_run(plan: &Plan, case: Case, is_broken: bool) -> Result<Run, TrafficError> {
    let total = |rate: f64| ((rate * plan.seconds as f64).ceil() as u32).max(1);
    let pace = |rate: f64| Pace {
        total: total(rate),
        rate,
        // The stack closes a connection on which no request comes for a while.
        connections: CONNECTIONS.min(rate.ceil() as u16),
        limit: Duration::MAX,
    };
    let healthy_pace = pace(plan.rate);
    let broken_pace =
        pace(plan.rate * f64::from(BROKEN_SHARE) / f64::from(case.broken_per_request()));
    let healthy = Arrivals::new(run_name(), healthy_pace.total);
    let broken = Arrivals::new(run_name(), broken_pace.total);
    let noted = Arc::clone(&healthy);
    let script = move |request: &Received| {
        if request.path().starts_with(HEALTHY) {
            noted.note(HEALTHY, &request.body, request.at);
            return Reply::status(200);
        }
        match case {
            Case::Paths => Reply::status(500),
            Case::Applications => Reply::status(200).after(HANG),
        }
    };
    let receiver = Receiver::builder().script(script).start().await?;
    let stacks = Stacks::start(plan, 1, &[])?;
    let api = Server::of(&stacks.url())?;
    let submit = async |path: &str, arrivals: &Arc<Arrivals>, pace: Pace| {
        let (url, run) = (receiver.url(path), arrivals.run());
        let template = match case {
            Case::Paths => Template::submission(&api, None, &url, run, PAYLOAD_BYTES),
            Case::Applications => {
                let application = path.trim_start_matches('/');
                Template::message(&api, None, application, run, PAYLOAD_BYTES)
            }
        };
        let sent = in_the_background(&api, template, arrivals, pace).await?;
        if sent.accepted.len() < pace.total as usize {
            return Err(nothing_accepted(sent.first_refusal));
        }
        Ok::<Sent, crate::load::LoadError>(sent)
    };
    if case == Case::Applications {
        for (path, endpoints) in [(HEALTHY, 1), (BROKEN, HANGING_ENDPOINTS)] {
            let application = path.trim_start_matches('/');
            set_up(&api, None, application, &receiver.url(path), endpoints)?;
        }
    }
    let sent = if is_broken {
        let both = tokio::try_join!(
            submit(HEALTHY, &healthy, healthy_pace),
            submit(BROKEN, &broken, broken_pace)
        );
        both?.0
    } else {
        submit(HEALTHY, &healthy, healthy_pace).await?
    };
    let accepted = sent.accepted.len();
    wait_until(plan.bound(), || healthy.distinct() >= accepted as u64).await;
    stacks.end()?;
    let times: Vec<Duration> = sent
        .accepted
        .iter()
        .filter_map(|(number, _, answered)| Some(healthy.at(*number)?.saturating_sub(*answered)))
        .collect();
    let requests = receiver.received();
    let broken_requests =
        requests.iter().filter(|request| request.path().starts_with(BROKEN)).count();
    Ok(Run { accepted, arrived: times.len(), times: Quantiles::of(times), broken_requests })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        let medians = (median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 2.0, 3.0]));
        assert_eq!(medians, (2.0, 2.5));
        assert!(median(Vec::new()).is_nan());
    }
}
