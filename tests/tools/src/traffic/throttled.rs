//! Webhooks to a receiver that takes so many a second, and answers the others with `429` and
//! `Retry-After: 1`. All must be delivered, soon and with few requests.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use harness::{
    progress::Ticker,
    receiver::{Receiver, ReceiverError, rate_limited::fixed_windows},
};
use serde::Serialize;

use super::{
    TrafficError,
    figure::{Figure, at_most, exactly},
    plan::{Plan, ThrottledCase},
    stacks::{Outcomes, Stacks, wait_until},
};

/// From this number of webhooks on, the targets of [`MANY`] apply.
const MANY_WEBHOOKS: u32 = 500;

/// The targets for 1,000 webhooks to a receiver of 50 a second.
const MANY: Targets = Targets { requests_per_webhook: 1.5, seconds: 60.0 };

/// The targets for 40 webhooks to a receiver of 2 a second.
const FEW: Targets = Targets { requests_per_webhook: 2.3, seconds: 45.0 };

struct Targets {
    requests_per_webhook: f64,
    seconds: f64,
}

/// The result of one size.
#[derive(Clone, Debug, Serialize)]
pub struct Throttled {
    /// Webhooks.
    pub webhooks: u32,
    /// How many the receiver takes a second.
    pub per_second: u32,
    /// Requests that the receiver got.
    pub requests: usize,
    /// The figures, with their targets.
    pub figures: Vec<Figure>,
}

/// What the receiver has taken.
#[derive(Debug, Default)]
struct Taken {
    count: usize,
    latest: Option<Instant>,
}

/// Measures one size.
pub(super) async fn measure(plan: &Plan, case: ThrottledCase) -> Result<Throttled, TrafficError> {
    let ThrottledCase { webhooks, per_second } = case;
    plan.say(format_args!(
        "throttled, {}: {webhooks} webhooks to a receiver of {per_second} a second",
        plan.backend()
    ));
    let taken = Arc::new(Mutex::new(Taken::default()));
    let count = {
        let taken = Arc::clone(&taken);
        move || taken.lock().unwrap_or_else(PoisonError::into_inner).count
    };
    let receiver = start_receiver(per_second, &taken).await?;
    let stacks = Stacks::start(plan, 1, &[])?;
    let counted = count.clone();
    let ticker =
        Ticker::start("traffic", "webhooks delivered", webhooks.into(), move || counted() as u64);
    let started = Instant::now();
    let ids = stacks.submit(&receiver.url("/throttled"), webhooks as usize).await?;
    let bound = plan.bound() + Duration::from_secs((webhooks / per_second).into());
    wait_until(bound, || count() >= ids.len()).await;
    drop(ticker);
    let outcomes = stacks.outcomes(&ids).await?;
    stacks.end()?;
    let latest = taken.lock().unwrap_or_else(PoisonError::into_inner).latest;
    let seconds = latest.unwrap_or(started).saturating_duration_since(started).as_secs_f64();
    let requests = receiver.received().len();
    let figures = figures(webhooks, outcomes, requests, seconds);
    Ok(Throttled { webhooks, per_second, requests, figures })
}

async fn start_receiver(
    per_second: u32,
    taken: &Arc<Mutex<Taken>>,
) -> Result<Receiver, ReceiverError> {
    let (answer, taken) = (fixed_windows(per_second, "1"), Arc::clone(taken));
    let script = move |request: &harness::receiver::Received| {
        let reply = answer(request);
        if reply.status_code().is_success() {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.count += 1;
            taken.latest = taken.latest.max(Some(request.at));
        }
        reply
    };
    Receiver::builder().script(script).start().await
}

fn figures(webhooks: u32, outcomes: Outcomes, requests: usize, seconds: f64) -> Vec<Figure> {
    let targets = if webhooks >= MANY_WEBHOOKS { MANY } else { FEW };
    let per_webhook = requests as f64 / f64::from(webhooks);
    vec![
        exactly("delivered", outcomes.delivered, webhooks as usize),
        exactly("dead letters", outcomes.failed, 0),
        at_most("requests per webhook", per_webhook, targets.requests_per_webhook),
        at_most("seconds until the last delivery", seconds, targets.seconds),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_its_targets_and_a_dead_letter_misses_one() {
        let met = |webhooks, delivered, requests, seconds| {
            let failed = webhooks as usize - delivered;
            let outcomes = Outcomes { delivered, failed, unfinished: 0 };
            let figures = figures(webhooks, outcomes, requests, seconds);
            figures.iter().map(|figure| figure.is_met).collect::<Vec<_>>()
        };
        assert_eq!(met(40, 40, 92, 45.0), [true; 4]);
        assert_eq!(met(40, 13, 114, 15.0), [false, false, false, true]);
        assert_eq!(met(1000, 1000, 1500, 60.0), [true; 4]);
        assert_eq!(met(1000, 1000, 1501, 60.1), [true, true, false, false]);
    }
}
