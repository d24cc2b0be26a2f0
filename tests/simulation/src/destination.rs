//! The destinations: they respond, and record every request.

use std::{io, net::IpAddr, time::Duration};

use async_trait::async_trait;
use shared::{
    model::ErrorKind,
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    signing::{Secret, sign},
};

use crate::{
    checks::deliveries::Received,
    state::{State, records::short_id, requests::DestinationRequest},
    world::{Process, Services},
};

/// The hosts of the destinations:
///
/// 1. always responds 200
/// 2. is sometimes down
/// 3. responds in all ways of [`MIXED`]
/// 4. never responds 2xx
/// 5. is always down
/// 6. kills the worker, in worlds where processes die
pub(super) const HOSTS: [&str; 6] = [
    "well.example",
    "flaps.example",
    "mixed.example",
    "gone.example",
    "down.example",
    "kills.example",
];

/// The minimum part of the 30 s of an attempt that is left for the destination after the claim.
const MIN_DEADLINE: Duration = Duration::from_millis(7500);

/// The reaction of a destination to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reaction {
    /// It responds with this status code and this `retry-after`.
    Responds(u16, Option<u64>),
    /// It does not respond.
    Hangs,
    /// It responds with this status code, and the connection breaks.
    Breaks(u16),
    /// It refuses the connection.
    Refuses,
    /// The worker dies.
    Kills,
}

const MIXED: [Reaction; 14] = [
    Reaction::Responds(200, None),
    Reaction::Responds(204, None),
    Reaction::Responds(200, None),
    Reaction::Responds(500, None),
    Reaction::Responds(502, None),
    Reaction::Responds(503, Some(60)),
    Reaction::Responds(429, Some(200)),
    Reaction::Responds(429, Some(9000)),
    Reaction::Responds(404, None),
    Reaction::Responds(302, None),
    Reaction::Responds(410, None),
    Reaction::Breaks(200),
    Reaction::Hangs,
    Reaction::Refuses,
];

impl Services {
    fn react(&self, url: &str) -> Reaction {
        let world = &self.0.world;
        if let Some(traffic) = world.plan.traffic {
            return traffic.react(&mut world.state(), url);
        }
        let host = HOSTS.iter().position(|host| url.contains(host)).unwrap_or(0);
        let is_bad = world.plan.flaps && world.is_faulty();
        match host {
            // Up for 150 s, then down for 150 s.
            1 if is_bad && (world.age_s() / 150) % 2 == 1 => world.state().chance.pick(&[
                Reaction::Refuses,
                Reaction::Hangs,
                Reaction::Responds(503, None),
            ]),
            2 if is_bad => world.state().chance.pick(&MIXED),
            3 => world.state().chance.pick(&[
                Reaction::Responds(404, None),
                Reaction::Responds(500, None),
                Reaction::Responds(302, None),
            ]),
            4 => world.state().chance.pick(&[Reaction::Responds(500, None), Reaction::Refuses]),
            5 if world.plan.death > 0.0 => Reaction::Kills,
            _ => Reaction::Responds(200, None),
        }
    }
}

fn failed(kind: ErrorKind, duration: Duration) -> Answer {
    Answer {
        error: Some(kind),
        message: Some("no response".to_owned()),
        duration,
        ..Answer::default()
    }
}

fn responded(status: u16, retry_after_s: Option<u64>, duration: Duration) -> Answer {
    let error = (!(200..300).contains(&status)).then_some(ErrorKind::HttpStatus);
    Answer {
        error,
        status_code: Some(status),
        retry_after: retry_after_s.map(Duration::from_secs),
        duration,
        ..Answer::default()
    }
}

impl State {
    /// Checks the request of a delivery.
    fn delivery_requested(&mut self, process: &Process, request: &Request<'_>) {
        let id = request.webhook_id;
        let (Some(message), Some(endpoint)) = (id.message_id(), id.endpoint) else { return };
        let signature = |secrets: &[Secret]| {
            let seconds = request.timestamp.as_seconds();
            sign(secrets, &message.to_string(), seconds, &request.payload)
        };
        let known = self.checks.published.secrets.get(&endpoint);
        let known = known.and_then(|text| Secret::parse_list(text).ok());
        let received = Received {
            id,
            attempt: request.attempt,
            url: request.url,
            payload: &request.payload,
            signature: &signature(request.secrets.unwrap_or_default()),
            expected: known.map(|secrets| signature(&secrets)),
        };
        self.checks.delivery_requested(process, &received);
    }
}

#[async_trait]
impl Lookup for Services {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for Services {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let process = &self.0;
        let world = &process.world;
        let reaction = self.react(request.url);
        world.change(|state| {
            let is_enough = deadline >= MIN_DEADLINE;
            state.checks.require(is_enough, || {
                format!(
                    "attempt {} of {} has only {deadline:?} left for the destination",
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
            Reaction::Responds(status, _) | Reaction::Breaks(status) => Some(status),
            _ => None,
        };
        let key = (request.webhook_id.clone(), request.attempt);
        world.change(|state: &mut State| {
            let now = state.now();
            state.delivery_requested(process, request);
            state.note(process, || {
                format!(
                    "POST of {}, attempt {}: {status:?}",
                    short_id(request.webhook_id),
                    request.attempt
                )
            });
            state.checks.requested(
                &key,
                &request.payload,
                now,
                state.destinations.requests.contains_key(&key),
            );
            if let Some((webhook, _)) = state.records.stored(&key.0) {
                let targets = &state.records.targets;
                let checks = &mut state.checks;
                checks.traffic.requested(&mut checks.violation, process, webhook, targets);
            }
            state.destinations.requests.insert(
                key.clone(),
                DestinationRequest { status, reported: None, reported_at: now },
            );
        });
        let is_quick = world.plan.traffic.is_some();
        let slow = if is_quick {
            world.below(400)
        } else if world.below(if world.plan.stall > 0.0 { 2 } else { 8 }) == 0 {
            world.below(28_000)
        } else {
            world.below(400)
        };
        let left = deadline.saturating_sub(connecting);
        let response_time = match reaction {
            Reaction::Hangs => left,
            _ => process.latency() + Duration::from_millis(slow),
        };
        process.wait(response_time.min(left)).await;
        let answer = match reaction {
            _ if response_time >= left => failed(ErrorKind::Timeout, deadline),
            Reaction::Responds(status, retry_after_s) => {
                responded(status, retry_after_s, connecting + response_time)
            }
            _ => failed(ErrorKind::Network, connecting + response_time),
        };
        world.change(|state| {
            let now = state.now();
            if let Some(request) = state.destinations.requests.get_mut(&key) {
                request.reported = Some(answer.clone());
                request.reported_at = now;
            }
        });
        // Here a worker can die after the response and before it writes the outcome.
        process.alive().await;
        answer
    }
}
