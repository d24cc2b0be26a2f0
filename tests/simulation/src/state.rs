//! The state of a world, which its processes change.

pub(crate) mod messages;
pub(crate) mod published;
pub(crate) mod records;
pub(crate) mod requests;
pub(crate) mod tracking;
pub(crate) mod traffic;

use std::fmt;

use shared::clock::Timestamp;
use tokio::time::Instant;

use self::{messages::Messages, records::Records, requests::Destinations, tracking::Checks};
use crate::chance::Chance;

/// When every world starts: 2026-01-01T00:00:30Z.
pub(crate) const EPOCH_MS: i64 = 1_767_225_630_000;

/// The state of a world.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) chance: Chance,
    pub(crate) records: Records,
    pub(crate) messages: Messages,
    pub(crate) destinations: Destinations,
    pub(crate) checks: Checks,
    pub(crate) processes: u32,
    pub(crate) started: Instant,
    pub(crate) trace: Option<Vec<String>>,
}

impl State {
    /// Adds a line to the trace, if the run is traced.
    pub(crate) fn note(&mut self, who: &dyn fmt::Display, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!(
                "{:>11.3}  {who:<12} {}",
                self.started.elapsed().as_secs_f64(),
                what()
            ));
        }
    }

    /// The true time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH_MS).plus(self.started.elapsed())
    }
}
