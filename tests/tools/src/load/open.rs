//! The open loop: requests at a fixed rate, independent of the responses.
//!
//! A latency starts when its request is *due*, not when it is sent. If the system stalls, the
//! requests behind the stall are late. A tool that starts the clock at the send would not measure
//! this (coordinated omission). The senders are plain threads, because a runtime's timer has a
//! resolution of only one millisecond.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    LoadError,
    arrival::Arrivals,
    wire::{Connection, Server, Template},
};

/// Time for the threads to start before the first request is due.
const LEAD: Duration = Duration::from_millis(50);

/// The result of an open loop.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Responses by status code.
    pub answers: BTreeMap<u16, u64>,
    /// Requests without a response.
    pub broken: u64,
    /// The first response that is not a 202.
    pub first_refusal: Option<String>,
    /// For each accepted webhook: its number, and when it was due and answered, since the epoch.
    pub accepted: Vec<(u32, Duration, Duration)>,
    /// Responses 429 and 503 without `retry-after`.
    pub without_retry_after: u64,
    /// How late the tool sent each request.
    pub lateness: Vec<Duration>,
}

/// The number and rate of requests, the connections, and the time limit of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Number of requests.
    pub total: u32,
    /// Requests per second.
    pub rate: f64,
    /// Connections, each with one request at a time.
    pub connections: u16,
    /// Time limit, from the first request.
    pub limit: Duration,
}

/// Sends requests at this pace, over the connections in turn.
pub fn send_at_rate(
    server: &Server,
    template: &Template,
    arrivals: &Arc<Arrivals>,
    pace: Pace,
) -> Result<Sent, LoadError> {
    let connections = u32::from(pace.connections).min(pace.total);
    let first_due = Instant::now() + LEAD;
    let parts = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..connections)
            .map(|lane| {
                let lane = Lane {
                    server,
                    epoch: arrivals.epoch(),
                    first_due,
                    pace,
                    first: lane,
                    step: connections,
                };
                scope.spawn(move || lane.send(template.clone()))
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().map_err(|_| LoadError::Thread)?)
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut sent = Sent::default();
    for part in parts {
        for (status, count) in part.answers {
            *sent.answers.entry(status).or_default() += count;
        }
        sent.broken += part.broken;
        sent.without_retry_after += part.without_retry_after;
        sent.first_refusal = sent.first_refusal.or(part.first_refusal);
        sent.accepted.extend(part.accepted);
        sent.lateness.extend(part.lateness);
    }
    Ok(sent)
}

/// Sends at this pace on a plain thread. A runtime would wait for a blocking task when it shuts
/// down, and Ctrl-C must end the tool immediately.
pub(crate) async fn in_the_background(
    api: &Server,
    template: Template,
    arrivals: &Arc<Arrivals>,
    pace: Pace,
) -> Result<Sent, LoadError> {
    let (api, arrivals) = (api.clone(), Arc::clone(arrivals));
    let (done, sending) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(send_at_rate(&api, &template, &arrivals, pace)));
    sending.await.map_err(|_| LoadError::Thread)?
}

/// The error of a loop in which no webhook was accepted.
pub(crate) fn nothing_accepted(first_refusal: Option<String>) -> LoadError {
    LoadError::Protocol(format!(
        "no webhook was accepted; the first response: {}",
        first_refusal.unwrap_or_else(|| "none".into())
    ))
}

/// One connection, which sends every `step`th request.
struct Lane<'a> {
    server: &'a Server,
    epoch: Instant,
    first_due: Instant,
    pace: Pace,
    first: u32,
    step: u32,
}

impl Lane<'_> {
    fn send(&self, mut template: Template) -> Result<Sent, LoadError> {
        let mut connection = Connection::open(self.server)?;
        let mut sent = Sent::default();
        for number in (self.first..self.pace.total).step_by(self.step as usize) {
            let due = self.first_due + Duration::from_secs_f64(f64::from(number) / self.pace.rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.first_due.elapsed() > self.pace.limit {
                break;
            }
            if !connection.usable {
                connection = Connection::open(self.server)?;
            }
            sent.lateness.push(due.elapsed());
            match connection.exchange(template.numbered(number)) {
                Ok((status, body)) => {
                    *sent.answers.entry(status).or_default() += 1;
                    if status == 202 {
                        sent.accepted.push((number, due - self.epoch, self.epoch.elapsed()));
                    } else {
                        sent.without_retry_after += u64::from(
                            matches!(status, 429 | 503) && !connection.had_header("retry-after"),
                        );
                        sent.first_refusal.get_or_insert_with(|| format!("{status} {body}"));
                    }
                }
                Err(error) => {
                    sent.broken += 1;
                    sent.first_refusal.get_or_insert_with(|| format!("no response: {error}"));
                }
            }
        }
        Ok(sent)
    }
}
