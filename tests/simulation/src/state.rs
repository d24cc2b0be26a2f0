//! The state of a world: what its processes change.

pub(crate) mod books;
pub(crate) mod messages;
pub(crate) mod records;
pub(crate) mod requests;

use std::fmt;

use shared::clock::Timestamp;
use tokio::time::Instant;

use self::{books::Checks, messages::Messages, records::Records, requests::Destinations};
use crate::chance::Chance;

/// When every world begins: 2026-01-01T00:00:30Z.
pub(crate) const EPOCH_MS: i64 = 1_767_225_630_000;

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) chance: Chance,
    pub(crate) records: Records,
    pub(crate) messages: Messages,
    pub(crate) destinations: Destinations,
    pub(crate) watch: Checks,
    pub(crate) processes: u32,
    pub(crate) began: Instant,
    pub(crate) trace: Option<Vec<String>>,
}

impl State {
    /// Adds a line to the trace, if there is one.
    pub(crate) fn note(&mut self, who: &dyn fmt::Display, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!(
                "{:>11.3}  {who:<12} {}",
                self.began.elapsed().as_secs_f64(),
                what()
            ));
        }
    }

    /// The true time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH_MS).plus(self.began.elapsed())
    }
}
