//! The destinations: they answer, and remember every request.

use std::{io, net::IpAddr, time::Duration};

use async_trait::async_trait;
use shared::{
    model::ErrorKind,
    sender::{Answer, Lookup, NoLookup, Request, Sender},
};

use crate::{
    state::{State, records::short_id, requests::Seen},
    world::Own,
};

/// The hosts. The first always answers 200; the second goes down and comes back; the third answers
/// anything; the fourth never 2xx; the fifth is always down; what is sent to the sixth kills its
/// worker, in worlds where workers die.
pub(super) const HOSTS: [&str; 6] = [
    "well.example",
    "flaps.example",
    "mixed.example",
    "gone.example",
    "down.example",
    "kills.example",
];

/// What a destination is left of an attempt's 30 s at least, however long the claim took.
const MIN_DEADLINE: Duration = Duration::from_millis(7500);

/// What a destination does with one request.
#[derive(Clone, Copy, Debug)]
enum Reaction {
    Answers(u16, Option<u64>),
    Hangs,
    /// It answers, and the answer does not arrive.
    Breaks(u16),
    /// There is no connection.
    Refuses,
    /// The worker dies over it.
    Kills,
}

const MIXED: [Reaction; 14] = [
    Reaction::Answers(200, None),
    Reaction::Answers(204, None),
    Reaction::Answers(200, None),
    Reaction::Answers(500, None),
    Reaction::Answers(502, None),
    Reaction::Answers(503, Some(60)),
    Reaction::Answers(429, Some(200)),
    Reaction::Answers(429, Some(9000)),
    Reaction::Answers(404, None),
    Reaction::Answers(302, None),
    Reaction::Answers(410, None),
    Reaction::Breaks(200),
    Reaction::Hangs,
    Reaction::Refuses,
];

impl Own {
    fn react(&self, url: &str) -> Reaction {
        let world = &self.0.world;
        let host = HOSTS.iter().position(|host| url.contains(host)).unwrap_or(0);
        let bad = world.plan.flaps && world.is_faulty();
        match host {
            // Up and down for as many seconds as the webhook's host says.
            1 if bad && (world.age_s() / 150) % 2 == 1 => world.state().chance.pick(&[
                Reaction::Refuses,
                Reaction::Hangs,
                Reaction::Answers(503, None),
            ]),
            2 if bad => world.state().chance.pick(&MIXED),
            3 => world.state().chance.pick(&[
                Reaction::Answers(404, None),
                Reaction::Answers(500, None),
                Reaction::Answers(302, None),
            ]),
            4 => world.state().chance.pick(&[Reaction::Answers(500, None), Reaction::Refuses]),
            5 if world.plan.death > 0.0 => Reaction::Kills,
            _ => Reaction::Answers(200, None),
        }
    }
}

fn failed(kind: ErrorKind, duration: Duration) -> Answer {
    Answer {
        error: Some(kind),
        message: Some("no answer".to_owned()),
        duration,
        ..Answer::default()
    }
}

fn answered(status: u16, retry_after_s: Option<u64>, duration: Duration) -> Answer {
    let error = (!(200..300).contains(&status)).then_some(ErrorKind::HttpStatus);
    Answer {
        error,
        status_code: Some(status),
        retry_after: retry_after_s.map(Duration::from_secs),
        duration,
        ..Answer::default()
    }
}

#[async_trait]
impl Lookup for Own {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for Own {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let process = &self.0;
        let world = &process.world;
        let reaction = self.react(request.url);
        world.change(|state| {
            let fair = deadline >= MIN_DEADLINE;
            state.watch.must(fair, || {
                format!(
                    "attempt {} of {} was left {deadline:?}: the destination would be blamed",
                    request.attempt,
                    short_id(request.webhook_id)
                )
            });
        });
        if matches!(reaction, Reaction::Kills) {
            process.die();
        }
        let connecting = process.latency();
        process.wait(connecting.min(deadline)).await;
        if connecting >= deadline {
            return failed(ErrorKind::Timeout, deadline);
        }
        if matches!(reaction, Reaction::Refuses) {
            process.note(|| format!("cannot connect for {}", short_id(request.webhook_id)));
            return failed(ErrorKind::Network, connecting);
        }
        let status = match reaction {
            Reaction::Answers(status, _) | Reaction::Breaks(status) => Some(status),
            _ => None,
        };
        let key = (request.webhook_id.clone(), request.attempt);
        world.change(|state: &mut State| {
            let now = state.now();
            state.note(process, || {
                format!(
                    "POST of {}, attempt {}: {status:?}",
                    short_id(request.webhook_id),
                    request.attempt
                )
            });
            state.watch.requested(
                &key,
                &request.payload,
                now,
                state.destinations.requests.contains_key(&key),
            );
            state
                .destinations
                .requests
                .insert(key.clone(), Seen { status, told: None, told_at: now });
        });
        let slow = if world.below(if world.plan.stall > 0.0 { 2 } else { 8 }) == 0 {
            world.below(28_000)
        } else {
            world.below(400)
        };
        let left = deadline.saturating_sub(connecting);
        let answering = match reaction {
            Reaction::Hangs => left,
            _ => process.latency() + Duration::from_millis(slow),
        };
        process.wait(answering.min(left)).await;
        let answer = match reaction {
            _ if answering >= left => failed(ErrorKind::Timeout, deadline),
            Reaction::Answers(status, retry_after_s) => {
                answered(status, retry_after_s, connecting + answering)
            }
            _ => failed(ErrorKind::Network, connecting + answering),
        };
        world.change(|state| {
            let now = state.now();
            if let Some(seen) = state.destinations.requests.get_mut(&key) {
                seen.told = Some(answer.clone());
                seen.told_at = now;
            }
        });
        // Here a worker dies that was answered and has not written it.
        process.alive().await;
        answer
    }
}
