//! A model of workers and a receiver that refuses what exceeds its limit: how long a backlog takes,
//! and how many requests it costs.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::*;
use crate::traffic::pace::{Pace, Refusal};

/// A worker looks at a webhook, which may hold a slot, or reads the refusal of its request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    at_ms: i64,
    webhook: usize,
    slot: Option<(String, i64)>,
    refused_request_ms: Option<i64>,
}

fn new_look(at_ms: i64, webhook: usize) -> Look {
    Look { at_ms, webhook, slot: None, refused_request_ms: None }
}

/// What a backlog of webhooks to one receiver came to.
#[derive(Debug)]
struct Finished {
    seconds: f64,
    requests_per_webhook: f64,
}

struct World {
    limit_per_s: usize,
    retry_after: Duration,
    pace: Option<Pace>,
    counters: Option<Counters>,
    /// The requests that the receiver accepted in the latest second.
    window: (i64, usize),
    requests: usize,
    /// A generator of numbers in `0.0..1.0`.
    random: u64,
}

impl World {
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn take(&mut self, rate: &Rate, is_late: bool, now: Timestamp) -> i64 {
        let take = rate.take(1, is_late, now);
        let (after, last) = match take.advance(self.counters.as_ref()) {
            Some(after) => {
                let last = if is_late { after.last_late } else { after.last };
                (after, last)
            }
            None => Counters::after(self.counters.as_ref(), &take),
        };
        self.counters = Some(after);
        last
    }

    /// The next look, or `None` if the attempt may start now.
    fn turn(&mut self, look: &Look, now: Timestamp) -> Option<Look> {
        let rate = Rate::of(self.pace.as_ref(), None, now)?;
        let held = look.slot.as_ref().filter(|(generation, _)| *generation == rate.generation());
        let is_late = held.is_some_and(|(_, slot)| rate.is_late(*slot, now));
        let slot = match held {
            Some((_, slot)) if !is_late => *slot,
            _ => self.take(&rate, is_late, now),
        };
        let opens_at = rate.opens_at(slot);
        let at = match opens_at.since(now) {
            Duration::ZERO => return None,
            wait if wait <= MAX_WAIT => opens_at,
            _ => {
                let unit = self.unit();
                rate.look_at(slot, now, unit)
            }
        };
        let slot = Some((rate.generation(), slot));
        Some(Look { at_ms: at.as_millis(), slot, ..look.clone() })
    }

    fn accepts(&mut self, now: Timestamp) -> bool {
        self.requests += 1;
        let second = now.as_seconds();
        if self.window.0 != second {
            self.window = (second, 0);
        }
        self.window.1 += 1;
        self.window.1 <= self.limit_per_s
    }

    /// The request was refused: the target pauses, and the webhook waits for its next turn.
    fn refuse(&mut self, webhook: usize, started_at: Timestamp, now: Timestamp) -> Look {
        let refusal = Refusal {
            attempt_started_at: started_at,
            status_code: 429,
            retry_after: Some(self.retry_after),
        };
        let hour = Duration::from_secs(3600);
        let pace = Pace::after_refusal(self.pace.as_ref(), &refusal, hour, None, now);
        self.pace = pace.or(self.pace);
        let look = new_look(now.as_millis(), webhook);
        self.turn(&look, now).unwrap_or(look)
    }
}

/// Runs a backlog: `webhooks` are sent at once, `in_flight` at a time, and each request takes 10
/// ms.
fn run(webhooks: usize, limit_per_s: usize, seed: u64) -> Finished {
    const REQUEST_MS: i64 = 10;
    const IN_FLIGHT: i64 = 32;
    let start_ms = 1_800_000_000_000 + (seed as i64 * 137) % 1000;
    let mut world = World {
        limit_per_s,
        retry_after: Duration::from_secs(1),
        pace: None,
        counters: None,
        window: (0, 0),
        requests: 0,
        random: seed,
    };
    let mut looks: BinaryHeap<Reverse<Look>> = (0..webhooks)
        .map(|webhook| {
            let at_ms = start_ms + webhook as i64 / IN_FLIGHT * REQUEST_MS;
            Reverse(new_look(at_ms, webhook))
        })
        .collect();
    let mut end_ms = start_ms;
    while let Some(Reverse(look)) = looks.pop() {
        let now = Timestamp::from_millis(look.at_ms);
        if let Some(started_ms) = look.refused_request_ms {
            let started_at = Timestamp::from_millis(started_ms);
            looks.push(Reverse(world.refuse(look.webhook, started_at, now)));
            continue;
        }
        if let Some(later) = world.turn(&look, now) {
            looks.push(Reverse(later));
            continue;
        }
        let ends_at = now.plus(Duration::from_millis(REQUEST_MS as u64));
        if world.accepts(now) {
            end_ms = end_ms.max(ends_at.as_millis());
        } else {
            let refused_request_ms = Some(look.at_ms);
            let at_ms = ends_at.as_millis();
            looks.push(Reverse(Look { at_ms, refused_request_ms, ..look }));
        }
        assert!(world.requests < 100 * webhooks, "the backlog is never delivered");
    }
    Finished {
        seconds: (end_ms - start_ms) as f64 / 1000.0,
        requests_per_webhook: world.requests as f64 / webhooks as f64,
    }
}

fn worst(webhooks: usize, limit_per_s: usize) -> (f64, f64) {
    let runs = (1..=50).map(|seed| run(webhooks, limit_per_s, seed));
    runs.fold((0.0, 0.0), |(seconds, requests), run| {
        (f64::max(seconds, run.seconds), f64::max(requests, run.requests_per_webhook))
    })
}

/// The ideal times are 20, 20 and 100 s.
#[test]
fn a_backlog_is_delivered_near_the_receivers_limit_with_few_requests() {
    for (webhooks, limit_per_s, max_seconds, max_requests) in
        [(40, 2, 45.0, 2.3), (1000, 50, 60.0, 1.5), (200, 2, 160.0, 1.5)]
    {
        let (seconds, requests) = worst(webhooks, limit_per_s);
        println!("{webhooks} at {limit_per_s}/s: {seconds} s, {requests} requests");
        assert!(seconds <= max_seconds, "{webhooks} at {limit_per_s}/s: {seconds} s");
        assert!(requests <= max_requests, "{webhooks} at {limit_per_s}/s: {requests} requests");
    }
}
