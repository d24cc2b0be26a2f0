//! The queue on Redis. Each lane has two hashes for its messages, and a sorted set by the time at
//! which each becomes visible. A third hash names the process that holds a message, so another
//! process can recover it when the heartbeat stops (`context/redis/heartbeat.rs`).
//!
//! Every change is one script. The top of `prelude.lua` describes every key. A message stays in the
//! sorted set until it is acknowledged, so it is never only in a worker's memory. All keys share
//! the hash tag `{PREFIX-queue}`, so a message moves between the lanes in one script.
//!
//! So the queue is as fast as one node of a cluster. A webhook that succeeds at once costs it three
//! small writes. That is a quarter of the store's cost, which is spread over the nodes.
//!
//! Concurrent sends share a round trip, and so do acknowledgements (`Batcher`).
//!
//! On full memory, sends still succeed, because they move work that the store has accepted. The
//! store rejects new webhooks by then.

use std::{sync::Arc, time::Duration};

use ::redis::RedisError;
use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Depth, Lane, MAX_BATCH, MAX_DELAY, MAX_RECEIVES, Outgoing, Queue, QueueError, Received,
    SendError,
};
use crate::{
    clock::{Clock, Timestamp},
    liveness::{Liveness, ProcessId},
    random::write_name,
    redis::{Batcher, Call, Connection, Script, scripts},
};

/// How soon a receiver sees a message from another process, at first.
const MIN_POLL: Duration = Duration::from_millis(50);

/// The same for a receiver that has waited for a while.
const MAX_POLL: Duration = Duration::from_millis(200);

/// The most messages that one receive moves to the dead-letter lane. The next receive moves more.
const MAX_MOVES: usize = 100;

scripts!("redis": depth; even_when_full: acknowledge, receive, release, release_all, send);

/// The queue on a Redis server.
#[derive(Debug)]
pub struct RedisQueue {
    connection: Connection,
    clock: Arc<dyn Clock>,
    liveness: Arc<Liveness>,
    /// Per lane: ID, visible time and body of messages to send.
    sends: [Batcher<(String, i64, String)>; Lane::ALL.len()],
    /// Per lane: ID and receive count of messages to acknowledge.
    acknowledgements: [Batcher<(String, String)>; Lane::ALL.len()],
    /// Per lane: this process sent a message, or a receiver left messages behind.
    arrivals: [Notify; Lane::ALL.len()],
}

/// When the first message becomes visible, then ID, receive count, send time and body of each
/// received message.
type ReceiveAnswer = (String, Vec<(String, u32, i64, String)>);

/// The messages of one try. If there are none, when to try again.
struct Tried {
    received: Vec<Received>,
    next_at: Option<Timestamp>,
}

impl RedisQueue {
    /// Opens the queue behind this connection. The clock decides what is visible. The clocks of the
    /// processes that share the queue may differ by a few seconds.
    pub fn new(connection: Connection, clock: Arc<dyn Clock>) -> Self {
        Self::of_process(connection, clock, Arc::default())
    }

    /// Does the same, and holds received messages under this process's name while it has one.
    pub fn of_process(
        connection: Connection,
        clock: Arc<dyn Clock>,
        liveness: Arc<Liveness>,
    ) -> Self {
        let (sends, acknowledgements) = Default::default();
        Self { connection, clock, liveness, sends, acknowledgements, arrivals: Default::default() }
    }

    /// Makes all messages visible that a dead process holds. Returns how many.
    pub async fn release_all_of(
        &self,
        process: ProcessId,
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        let mut released = 0;
        for lane in Lane::ALL {
            let mut call = self.call(&SCRIPTS.release_all, lane);
            call.arg(now.as_millis()).arg(process);
            released += self.connection.run::<u64>(&call).await.map_err(failed)?;
            self.arrivals[lane.index()].notify_one();
        }
        Ok(released)
    }

    /// The keys of a lane, in the order of the scripts.
    fn keys(&self, lane: Lane) -> [String; 5] {
        let name = match lane {
            Lane::Webhooks => "webhooks",
            Lane::DeadLetters => "dead-letters",
        };
        ["visible", "held", "body", "meta", "holder"]
            .map(|part| self.connection.key(&format!("{name}:{part}")))
    }

    fn call<'a>(&self, script: &'a Script, lane: Lane) -> Call<'a> {
        script.on(&self.keys(lane))
    }

    async fn try_receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
    ) -> Result<Tried, QueueError> {
        let now = self.clock.now();
        let (mut keys, [visible, _, body, meta, _]) =
            (self.keys(lane).to_vec(), self.keys(Lane::DeadLetters));
        keys.extend([visible, body, meta]);
        let mut script = SCRIPTS.receive.on(&keys);
        script.arg(now.as_millis()).arg(max).arg(now.plus(visibility).as_millis());
        let limit = if lane == Lane::Webhooks { MAX_RECEIVES } else { 0 };
        let process = self.liveness.id().map_or_else(String::new, |id| id.to_string());
        script.arg(limit).arg(MAX_MOVES).arg(process);
        // No retry if the connection breaks. The messages of the first try would wait for their
        // visibility timeout anyway.
        let (next_at, messages): ReceiveAnswer =
            self.connection.once(&script).await.map_err(failed)?;
        let received = messages.into_iter().map(|(id, receives, sent_at, body)| Received {
            receipt: format!("{id}.{receives}"),
            id,
            body,
            receives,
            sent_at: Timestamp::from_millis(sent_at),
        });
        let next_at =
            next_at.parse::<f64>().ok().map(|millis| Timestamp::from_millis(millis as i64));
        Ok(Tried { received: received.collect(), next_at })
    }

    /// Waits until another try may succeed: this process sent a message, a message becomes visible,
    /// another process may have sent one, or the wait is over.
    async fn wait_for_message(
        &self,
        lane: Lane,
        next_at: Option<Timestamp>,
        deadline: Timestamp,
        poll: Duration,
    ) {
        let wake_at = next_at.map_or(deadline, |at| at.min(deadline));
        tokio::select! {
            () = self.arrivals[lane.index()].notified() => {}
            () = self.clock.sleep(wake_at.since(self.clock.now())) => {}
            // The machine's time, because other processes do not follow this clock.
            () = tokio::time::sleep(poll) => {}
        }
    }
}

#[async_trait]
impl Queue for RedisQueue {
    // A write, because a replica answers reads and refuses sends. Full memory refuses no send.
    async fn ping(&self) -> Result<(), QueueError> {
        self.connection.ping(&self.connection.key("ping")).await.map_err(failed)
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        Ok(Vec::new())
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        let now = self.clock.now();
        let (taken, refused): (Vec<usize>, Vec<usize>) =
            (0..messages.len()).partition(|index| messages[*index].fits());
        if !taken.is_empty() {
            let row = |index: &usize| {
                let message = &messages[*index];
                // 64 random bits are unique enough without a check.
                (write_name(), now.plus(message.delay).as_millis(), message.body.clone())
            };
            let (connection, clock, keys) =
                (self.connection.clone(), Arc::clone(&self.clock), self.keys(lane));
            let run = move |rows: Vec<(String, i64, String)>| {
                let mut call = SCRIPTS.send.on(&keys);
                call.arg(clock.now().as_millis());
                let count = rows.len();
                for (id, visible_at, body) in rows {
                    call.arg(id).arg(visible_at).arg(body);
                }
                let connection = connection.clone();
                async move { connection.run::<()>(&call).await.map(|()| vec![(); count]) }
            };
            let sent = self.sends[lane.index()].add(taken.iter().map(row).collect(), run).await;
            sent.map_err(|error| SendError {
                failed: (0..messages.len()).collect(),
                source: failed(error),
            })?;
            self.arrivals[lane.index()].notify_one();
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
        let mut poll = MIN_POLL;
        loop {
            let Tried { received, next_at } = self.try_receive(lane, max, visibility).await?;
            if received.len() == max {
                // There may be more messages for the next receiver.
                self.arrivals[lane.index()].notify_one();
            }
            if !received.is_empty() || self.clock.now() >= deadline {
                return Ok(received);
            }
            self.wait_for_message(lane, next_at, deadline, poll).await;
            poll = (poll * 2).min(MAX_POLL);
        }
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        let rows: Vec<_> =
            parts(receipts).map(|(id, receives)| (id.to_owned(), receives.to_owned())).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let (connection, keys) = (self.connection.clone(), self.keys(lane));
        let run = move |rows: Vec<(String, String)>| {
            let mut call = SCRIPTS.acknowledge.on(&keys);
            let count = rows.len();
            for (id, receives) in rows {
                call.arg(id).arg(receives);
            }
            let connection = connection.clone();
            async move { connection.run::<()>(&call).await.map(|()| vec![(); count]) }
        };
        self.acknowledgements[lane.index()].add(rows, run).await.map(drop).map_err(failed)
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        let delay = delay.min(MAX_DELAY);
        let mut script = self.call(&SCRIPTS.release, lane);
        script.arg(self.clock.now().plus(delay).as_millis()).arg(u8::from(!delay.is_zero()));
        let mut receipts = parts(receipts).peekable();
        if receipts.peek().is_none() {
            return Ok(());
        }
        for (id, receives) in receipts {
            script.arg(id).arg(receives);
        }
        self.connection.run::<()>(&script).await.map_err(failed)?;
        self.arrivals[lane.index()].notify_one();
        Ok(())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let mut script = self.call(&SCRIPTS.depth, lane);
        script.arg(self.clock.now().as_millis());
        let (all, hidden, in_flight): (u64, u64, u64) =
            self.connection.run(&script).await.map_err(failed)?;
        Ok(Depth {
            ready: all.saturating_sub(hidden),
            in_flight,
            delayed: hidden.saturating_sub(in_flight),
        })
    }
}

/// ID and receive count of each receipt. Skips receipts that are not from this queue.
fn parts(receipts: &[String]) -> impl Iterator<Item = (&str, &str)> {
    receipts.iter().filter_map(|receipt| receipt.split_once('.'))
}

fn failed(error: RedisError) -> QueueError {
    QueueError(Box::new(error))
}
