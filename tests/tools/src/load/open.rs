//! The open loop: requests at a fixed rate, whatever the answers.
//!
//! A latency counts from the time at which its request was *due*, not from when it was sent: if the
//! system stalls, the requests that queue up behind the stall are late, and a tool that only timed
//! what it managed to send would not see it (coordinated omission). The senders are plain threads,
//! because a runtime's timer is a millisecond coarse.

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

/// What came of sending at a rate.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub broken: u64,
    /// The first answer that was not 202.
    pub first_refusal: Option<String>,
    /// For each accepted webhook: its number, when it was due, and when its answer was there, since
    /// the epoch.
    pub accepted: Vec<(u32, Duration, Duration)>,
    /// Of the answers, those that were a 429 or 503 without `retry-after`.
    pub without_retry_after: u64,
    /// How late each request was sent: the tool's own share.
    pub lateness: Vec<Duration>,
}

/// At what rate, over how many connections, and how many requests; all of it ends after `limit`,
/// however far it got.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests.
    pub total: u32,
    /// A second.
    pub rate: f64,
    /// Connections, each with one request at a time.
    pub connections: u16,
    /// The longest that it may take, from the first request on.
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

/// One connection and the requests that fall to it: every `step`th.
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
                            matches!(status, 429 | 503) && !connection.was_told("retry-after"),
                        );
                        sent.first_refusal.get_or_insert_with(|| format!("{status} {body}"));
                    }
                }
                Err(error) => {
                    sent.broken += 1;
                    sent.first_refusal.get_or_insert_with(|| format!("no answer: {error}"));
                }
            }
        }
        Ok(sent)
    }
}
