//! The heartbeat of a process that holds messages and claims on Redis, and the recovery of what
//! processes held whose heartbeat stopped.
//!
//! Every [`INTERVAL`] a process writes the server's time beside its name: one command, which also
//! answers which processes are dead.
//!
//! - After [`LOST_AFTER`] without a heartbeat, by its own monotonic clock, the process stops its
//!   attempts and gives up its name.
//! - After [`DEAD_AFTER`] without a heartbeat, by the server's clock, another process ends its
//!   leases and makes its messages visible.
//!
//! So no process recovers the work of one that still makes attempts. The exception is a process
//! that does not run: a process that is stopped (SIGSTOP, a suspended machine) cannot stop its
//! attempts, and its requests may still arrive. Claims keep its late outcomes out of the records.
//!
//! A process recovers only after [`DEAD_AFTER`] of steady heartbeats of its own. After an outage
//! of the server every heartbeat is old, and the live processes have to show themselves first.
//!
//! A process without a heartbeat (a function on Lambda, an older version) has no name, and what it
//! holds comes back when leases and visibility timeouts end.

use std::{sync::Arc, time::Duration};

use ::redis::RedisResult;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    clock::Clock,
    liveness::{Liveness, ProcessId},
    queue::redis::RedisQueue,
    random::{Random, SystemRandom},
    redis::{Connection, scripts},
    store::redis::RedisStore,
};

/// Between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(2);

/// The wait after one that failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// How long a process goes on with its attempts without a heartbeat.
const LOST_AFTER: Duration = Duration::from_secs(7);

/// How long a process is without a heartbeat before another process recovers its work.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How long a recovery may take before another process starts it again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time between two heartbeats that still counts as steady. The server measures it, so
/// a server's clock that was put forward ends the steadiness too.
const MAX_STEADY_GAP: Duration = Duration::from_secs(5);

scripts!("heartbeat": ; even_when_full: beat, bury);

/// The heartbeat of this process, and the backends in which it recovers the work of others.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat {
    connection: Connection,
    liveness: Arc<Liveness>,
    clock: Arc<dyn Clock>,
    store: Option<Arc<RedisStore>>,
    queue: Option<Arc<RedisQueue>>,
}

/// What a heartbeat answered: the milliseconds since the one before, and who is dead.
type Answer = (i64, Vec<String>);

/// What the process knows of its own heartbeat.
#[derive(Debug)]
struct Beats {
    id: ProcessId,
    /// When the latest heartbeat that was answered was sent.
    last: Option<Instant>,
    /// Since when no heartbeat has failed.
    steady_since: Option<Instant>,
}

impl Beats {
    fn new() -> Self {
        Self { id: SystemRandom.next_u64(), last: None, steady_since: None }
    }

    fn is_steady(&self) -> bool {
        self.steady_since.is_some_and(|since| since.elapsed() >= DEAD_AFTER)
    }

    /// When the process must stop its attempts.
    fn lost_at(&self) -> Option<Instant> {
        self.last.map(|last| last + LOST_AFTER)
    }

    fn is_lost(&self) -> bool {
        self.lost_at().is_some_and(|at| Instant::now() >= at)
    }

    /// The one that was sent then was answered.
    fn note(&mut self, sent: Instant, gap_ms: i64) {
        let is_steady = (0..=MAX_STEADY_GAP.as_millis() as i64).contains(&gap_ms);
        self.steady_since = self.steady_since.filter(|_| is_steady).or(Some(sent));
        self.last = Some(sent);
    }
}

impl Heartbeat {
    /// The heartbeat is kept at `connection`. Dead processes lose what they hold in this store and
    /// this queue.
    pub(super) fn new(
        connection: Connection,
        liveness: Arc<Liveness>,
        clock: Arc<dyn Clock>,
        store: Option<Arc<RedisStore>>,
        queue: Option<Arc<RedisQueue>>,
    ) -> Self {
        Self { connection, liveness, clock, store, queue }
    }

    /// Runs while it is polled. The process has a name from the first heartbeat on.
    pub(super) async fn beat_forever(self) {
        let mut beats = Beats::new();
        loop {
            let sent = Instant::now();
            let limit = beats.lost_at().unwrap_or(sent + LOST_AFTER).min(sent + INTERVAL);
            let answer = timeout_at(limit, self.beat(beats.id, beats.is_steady())).await;
            let next = match answer {
                // A process that did not run for a while reads an old answer.
                Ok(Ok((gap_ms, dead))) if sent.elapsed() < LOST_AFTER => {
                    beats.note(sent, gap_ms);
                    if self.liveness.id() != Some(beats.id) {
                        self.liveness.begin(beats.id);
                    }
                    self.recover_from(dead);
                    sent + INTERVAL
                }
                failed => {
                    beats.steady_since = None;
                    let error = failed.ok().and_then(Result::err);
                    tracing::debug!(?error, "A heartbeat was not answered");
                    Instant::now() + RETRY_WAIT
                }
            };
            sleep_until(beats.lost_at().map_or(next, |at| at.min(next))).await;
            if beats.is_lost() {
                tracing::warn!(
                    "No heartbeat reached Redis for {} s. Attempts in flight are stopped and made \
                     again.",
                    LOST_AFTER.as_secs()
                );
                self.liveness.lose();
                beats = Beats::new();
            }
        }
    }

    fn keys(&self) -> [String; 2] {
        ["processes", "takers"].map(|name| self.connection.key(name))
    }

    async fn beat(&self, id: ProcessId, asks_for_dead: bool) -> RedisResult<Answer> {
        let mut call = SCRIPTS.beat.on(&self.keys());
        call.arg(id)
            .arg(millis(DEAD_AFTER))
            .arg(u8::from(asks_for_dead))
            .arg(millis(RECOVERY_TIMEOUT));
        // If the answer is lost, no process recovers the dead ones until the limit is over.
        self.connection.once(&call).await
    }

    fn recover_from(&self, dead: Vec<String>) {
        for id in dead.into_iter().filter_map(|name| name.parse().ok()) {
            let heartbeat = self.clone();
            tokio::spawn(async move { heartbeat.recover_in_flight(id).await });
        }
    }

    /// Leases end before messages become visible: a worker that finds a live lease hands the
    /// message back for a while.
    async fn recover_in_flight(&self, id: ProcessId) {
        let now = self.clock.now();
        let work = async {
            let leases = match &self.store {
                Some(store) => store.end_leases_of(id, now).await?,
                None => 0,
            };
            let messages = match &self.queue {
                Some(queue) => queue.release_all_of(id, now).await?,
                None => 0,
            };
            let mut bury = SCRIPTS.bury.on(&self.keys());
            self.connection.run::<()>(bury.arg(id).arg(millis(DEAD_AFTER))).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((leases, messages))
        };
        match tokio::time::timeout(RECOVERY_TIMEOUT, work).await {
            Ok(Ok((leases, messages))) => {
                tracing::warn!(
                    leases,
                    messages,
                    "Recovered the work of a process whose heartbeat stopped {} s ago",
                    DEAD_AFTER.as_secs()
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "Could not recover a dead process's work. Trying again.");
            }
            Err(_) => {
                tracing::warn!(
                    "The recovery of a dead process's work took too long. Trying again."
                );
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
