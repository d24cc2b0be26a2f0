//! The embedded queue: a table of a [`Database`], ordered by the time at which messages become
//! visible.
//!
//! A receive moves a message to the time at which it becomes visible again. So the table needs no
//! other index, and the message's key identifies its latest receive. The receipt is that key.

mod messages;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

pub use messages::RecoveredInFlight;

use self::messages::{NewMessage, Receipt};
use super::{Depth, Lane, MAX_BATCH, MAX_DELAY, Outgoing, Queue, QueueError, Received, SendError};
use crate::{
    clock::{Clock, Timestamp},
    sqlite::{Database, DatabaseError, Durability},
};

/// How soon a receiver sees a message from another process, at first.
const MIN_POLL: Duration = Duration::from_millis(50);

/// The same for a receiver that has waited for a while.
const MAX_POLL: Duration = Duration::from_millis(200);

/// A depth that counted more messages than this is cached for [`DEPTH_AGE`].
const DEAR_COUNT: u64 = 10_000;

/// The largest age of a cached depth.
const DEPTH_AGE: Duration = Duration::from_millis(500);

/// The queue in a database file.
#[derive(Debug)]
pub struct SqliteQueue {
    database: Database,
    clock: Arc<dyn Clock>,
    /// Per lane, the latest expensive depth and when it was counted. Never locked across an await.
    depths: Mutex<[Option<(Instant, Depth)>; 2]>,
    /// Per lane, when a receiver last looked for messages of other processes. Never locked across
    /// an await.
    polls: Mutex<[Option<Instant>; 2]>,
}

impl SqliteQueue {
    /// Opens the queue in this file. The clock decides what is visible.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock, depths: Mutex::default(), polls: Mutex::default() }
    }

    /// Makes the messages in flight of the last run visible, and returns what a message leads to.
    /// Call it before any other use of the queue, and only if no other process uses it.
    ///
    /// A message in flight was received and neither acknowledged nor released. Delayed messages
    /// keep their delay. The interrupted receive does not count, so crashes of the stack do not use
    /// up a message's receives.
    pub async fn recover_in_flight(&self, now: Timestamp) -> Result<RecoveredInFlight, QueueError> {
        let released = self
            .database
            .write(Durability::Crash, move |tx| messages::release_all(tx, now))
            .await
            .map_err(failed)?;
        let looks = self.database.read(messages::looks).await.map_err(failed)?;
        Ok(RecoveredInFlight { released, looks })
    }

    /// Tries once. If there are no messages, returns when to try again, if ever.
    async fn try_receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
    ) -> Result<(Vec<Received>, Option<Timestamp>), QueueError> {
        let now = self.clock.now();
        // Dropped with this future. Messages without a receiver would stay hidden until their
        // visibility timeout.
        let receiver = Arc::new(());
        let wanted = Arc::downgrade(&receiver);
        let work = self.database.write(Durability::Crash, move |tx| match wanted.strong_count() {
            0 => Ok((Vec::new(), None)),
            _ => messages::receive(tx, lane, max, now, visibility),
        });
        work.await.map_err(failed)
    }

    /// Whether this receiver looks for messages of other processes now. One look serves all
    /// receivers.
    fn is_turn_to_poll(&self, lane: Lane, interval: Duration) -> bool {
        let latest = &mut self.polls.lock().unwrap_or_else(PoisonError::into_inner)[lane.index()];
        let is_turn = latest.is_none_or(|at| at.elapsed() >= interval);
        if is_turn {
            *latest = Some(Instant::now());
        }
        is_turn
    }

    /// Waits until another try may succeed: this process sent a message, a message becomes visible,
    /// another process sent one, or the wait is over.
    async fn wait_for_message(
        &self,
        lane: Lane,
        next_at: Option<Timestamp>,
        deadline: Timestamp,
    ) -> Result<(), QueueError> {
        let mut poll = MIN_POLL;
        let wake_at = next_at.map_or(deadline, |at| at.min(deadline));
        loop {
            let now = self.clock.now();
            if now >= wake_at {
                return Ok(());
            }
            tokio::select! {
                () = self.database.arrivals(lane).notified() => return Ok(()),
                () = self.clock.sleep(wake_at.since(now)) => return Ok(()),
                // The machine's time, because other processes do not follow this clock.
                () = tokio::time::sleep(poll) => {}
            }
            let is_turn = self.is_turn_to_poll(lane, poll);
            poll = (poll * 2).min(MAX_POLL);
            if is_turn {
                let first = self
                    .database
                    .read(move |connection| messages::first_visible_at(connection, lane));
                if first.await.map_err(failed)?.is_some_and(|at| at < wake_at) {
                    return Ok(());
                }
            }
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn ping(&self) -> Result<(), QueueError> {
        self.database.ping().await.map_err(failed)
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        Ok(self.database.warnings())
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        let now = self.clock.now();
        let (taken, refused): (Vec<usize>, Vec<usize>) =
            (0..messages.len()).partition(|index| messages[*index].fits());
        let rows: Vec<NewMessage> =
            taken.iter().map(|index| NewMessage::of(&messages[*index], now)).collect();
        if !rows.is_empty() {
            let work = self
                .database
                .write(Durability::Crash, move |tx| messages::send(tx, lane, &rows, now));
            work.await.map_err(|error| SendError {
                failed: (0..messages.len()).collect(),
                source: failed(error),
            })?;
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(SendError { failed: refused, source: QueueError::beyond_limits() })
    }

    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        let max = max.clamp(1, MAX_BATCH);
        let deadline = self.clock.now().plus(wait);
        loop {
            let (received, next_at) = self.try_receive(lane, max, visibility).await?;
            if received.len() == max {
                // There may be more messages for the next receiver.
                self.database.arrivals(lane).notify_one();
            }
            if !received.is_empty() || self.clock.now() >= deadline {
                return Ok(received);
            }
            self.wait_for_message(lane, next_at, deadline).await?;
        }
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        let receipts: Vec<Receipt> =
            receipts.iter().filter_map(|text| Receipt::parse(text)).collect();
        if receipts.is_empty() {
            return Ok(());
        }
        self.database
            .write(Durability::Crash, move |tx| messages::acknowledge(tx, lane, &receipts))
            .await
            .map_err(failed)
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        let receipts: Vec<Receipt> =
            receipts.iter().filter_map(|text| Receipt::parse(text)).collect();
        if receipts.is_empty() {
            return Ok(());
        }
        let (now, delay) = (self.clock.now(), delay.min(MAX_DELAY));
        let work = self
            .database
            .write(Durability::Crash, move |tx| messages::release(tx, lane, &receipts, now, delay));
        work.await.map_err(failed)
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let kept = self.depths.lock().unwrap_or_else(PoisonError::into_inner)[lane.index()];
        if let Some((_, depth)) = kept.filter(|(counted_at, _)| counted_at.elapsed() < DEPTH_AGE) {
            return Ok(depth);
        }
        let now = self.clock.now();
        let depth = self
            .database
            .read(move |connection| messages::depth(connection, lane, now))
            .await
            .map_err(failed)?;
        if depth.in_flight + depth.delayed > DEAR_COUNT {
            self.depths.lock().unwrap_or_else(PoisonError::into_inner)[lane.index()] =
                Some((Instant::now(), depth));
        }
        Ok(depth)
    }
}

fn failed(error: DatabaseError) -> QueueError {
    QueueError(Box::new(error))
}
