//! The thread that writes. One transaction takes every waiting write.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, Params};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    DatabaseError,
    condition::Condition,
    files::OpenFiles,
    trim::{self, Trimmer},
};
use crate::{
    lane::{Lane, MAX_BATCH},
    status::Status,
};

/// The most writes of one transaction.
const MAX_JOBS_PER_COMMIT: usize = 1024;

/// Commits between two checks of the log's length by the checkpointer. A check is cheap.
const COMMITS_PER_CHECKPOINT_LOOK: u64 = 32;

/// The number of totals; see [`Total`].
pub(crate) const TOTALS: usize = Total::ALL.len();

/// What a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// A crash of any process.
    Crash,
    /// A power loss. The disk is synced before the answer.
    PowerLoss,
}

/// A count that is exact, because the transactions that change it update it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Total {
    /// Webhooks with this status.
    Webhooks(Status),
    /// Messages in this lane.
    Messages(Lane),
}

impl Total {
    /// All totals, in the order of their rows.
    pub(crate) const ALL: [Self; 7] = [
        Self::Webhooks(Status::Pending),
        Self::Webhooks(Status::InProgress),
        Self::Webhooks(Status::Retrying),
        Self::Webhooks(Status::Delivered),
        Self::Webhooks(Status::Failed),
        Self::Messages(Lane::Webhooks),
        Self::Messages(Lane::DeadLetters),
    ];

    /// The row of the table `totals`. Stored, so a row never changes its meaning. A new total takes
    /// the next free row, in a migration.
    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::Webhooks(Status::Pending) => 0,
            Self::Webhooks(Status::InProgress) => 1,
            Self::Webhooks(Status::Retrying) => 2,
            Self::Webhooks(Status::Delivered) => 3,
            Self::Webhooks(Status::Failed) => 4,
            Self::Messages(Lane::Webhooks) => 5,
            Self::Messages(Lane::DeadLetters) => 6,
        }
    }
}

const _: () = {
    let mut slot = 0;
    while slot < TOTALS {
        assert!(Total::ALL[slot].slot() == slot, "a total's slot is its place in ALL");
        slot += 1;
    }
};

/// What the writer signals to other threads.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) commits: AtomicU64,
    pub(super) arrivals: [Notify; Lane::ALL.len()],
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Transaction<'c> {
    connection: &'c Connection,
    totals: [i64; TOTALS],
    arrivals: [usize; Lane::ALL.len()],
}

impl<'c> Transaction<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, totals: [0; TOTALS], arrivals: [0; Lane::ALL.len()] }
    }

    /// The connection for queries, which is in the transaction.
    pub(crate) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Runs a statement, which is compiled once. Returns the number of changed rows.
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Changes a total.
    pub(crate) fn count(&mut self, total: Total, change: i64) {
        self.totals[total.slot()] += change;
    }

    /// Notifies receivers of the lane after the commit.
    pub(crate) fn announce(&mut self, lane: Lane, messages: usize) {
        self.arrivals[lane.index()] += messages;
    }

    /// The totals are written once per transaction, not once per write.
    fn write_totals(&self) -> rusqlite::Result<()> {
        for (slot, change) in self.totals.iter().enumerate().filter(|(_, change)| **change != 0) {
            self.execute("UPDATE totals SET n = n + ?2 WHERE slot = ?1", (slot as i64, change))?;
        }
        Ok(())
    }
}

/// A waiting write.
pub(super) trait Job: Send {
    fn durability(&self) -> Durability;
    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: &Result<(), DatabaseError>);
}

/// A write with any result.
pub(super) struct Task<F, T> {
    durability: Durability,
    work: Option<F>,
    done: Option<T>,
    answer: oneshot::Sender<Result<T, DatabaseError>>,
}

impl<F, T> Task<F, T> {
    pub(super) fn new(
        durability: Durability,
        work: F,
        answer: oneshot::Sender<Result<T, DatabaseError>>,
    ) -> Self {
        Self { durability, work: Some(work), done: None, answer }
    }
}

impl<F, T> Job for Task<F, T>
where
    F: FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(transaction)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: &Result<(), DatabaseError>) {
        let answer = match outcome {
            Ok(()) => self.done.ok_or(DatabaseError::Closed),
            Err(error) => Err(error.clone()),
        };
        // A caller that stopped waiting gets no result.
        let _ = self.answer.send(answer);
    }
}

/// The connection that writes.
pub(super) struct Writer {
    connection: Connection,
    /// The current value of `PRAGMA synchronous`.
    durability: Durability,
    signals: Arc<Signals>,
    checkpoints: SyncSender<()>,
    condition: Arc<Condition>,
    files: OpenFiles,
    /// Whether the last check found a lost file.
    is_lost: bool,
    trimmer: Trimmer,
}

/// A process without its writer could only refuse, forever. A new process works again and loses
/// nothing.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        signals: Arc<Signals>,
        checkpoints: SyncSender<()>,
        condition: Arc<Condition>,
        files: OpenFiles,
    ) -> Self {
        let (durability, trimmer) = (Durability::Crash, Trimmer::default());
        Self {
            connection,
            durability,
            signals,
            checkpoints,
            condition,
            files,
            is_lost: false,
            trimmer,
        }
    }

    /// Works until every sender is dropped.
    pub(super) fn start(
        mut self,
        mut waiting: mpsc::Receiver<Box<dyn Job>>,
    ) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || {
            let _guard = AbortOnPanic;
            let mut batch = Vec::new();
            while waiting.blocking_recv_many(&mut batch, MAX_JOBS_PER_COMMIT) > 0 {
                let outcome = self.commit(&mut batch);
                if let Err(error) = &outcome {
                    self.roll_back();
                    tracing::warn!(error = %error, writes = batch.len(),
                        "a batch of writes to the database was rolled back");
                    self.condition.note(error);
                }
                if self.condition.is_full() {
                    self.ask_for_checkpoint();
                }
                for job in batch.drain(..) {
                    job.answer(&outcome);
                }
                if outcome.is_ok() {
                    self.trim();
                }
            }
        })
    }

    /// Commits the batch and checks that the files are still there. An answer before the check
    /// would acknowledge lost data.
    fn commit(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), DatabaseError> {
        if self.is_lost {
            self.check_files()?;
        }
        let arrivals = self.transact(batch)?;
        self.check_files()?;
        self.announce(arrivals);
        Ok(())
    }

    fn check_files(&mut self) -> Result<(), DatabaseError> {
        let lost = self.files.lost();
        self.is_lost = lost.is_some();
        lost.map_or(Ok(()), |lost| Err(DatabaseError::Lost(lost)))
    }

    fn transact(&mut self, batch: &mut [Box<dyn Job>]) -> rusqlite::Result<[usize; 2]> {
        let needed = batch.iter().map(|job| job.durability()).max().unwrap_or(Durability::Crash);
        self.set_durability(needed)?;
        let mut transaction = Transaction::new(&self.connection);
        transaction.execute("BEGIN IMMEDIATE", ())?;
        for job in batch {
            job.run(&mut transaction)?;
        }
        transaction.write_totals()?;
        transaction.execute("COMMIT", ())?;
        Ok(transaction.arrivals)
    }

    fn announce(&self, arrivals: [usize; 2]) {
        for (lane, messages) in arrivals.into_iter().enumerate() {
            // A receiver that takes all it can wakes the next one.
            for _ in 0..messages.div_ceil(MAX_BATCH) {
                self.signals.arrivals[lane].notify_one();
            }
        }
        if self
            .signals
            .commits
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(COMMITS_PER_CHECKPOINT_LOOK)
        {
            self.ask_for_checkpoint();
        }
    }

    fn ask_for_checkpoint(&self) {
        // A full channel means that the checkpointer has a pending signal.
        let _ = self.checkpoints.try_send(());
    }

    /// Runs after the answers, so it delays only the next batch. Pages that stay free are harmless.
    fn trim(&mut self) {
        if !self.trimmer.is_time() {
            return;
        }
        let trimmed =
            self.set_durability(Durability::Crash).and_then(|()| trim::step(&self.connection));
        if let Err(error) = trimmed {
            tracing::warn!(error = %error, "free pages of the database could not be given back");
        }
    }

    /// Takes effect at once and not in a transaction, so it is never compiled ahead.
    fn set_durability(&mut self, needed: Durability) -> rusqlite::Result<()> {
        if self.durability != needed {
            self.connection.execute_batch(match needed {
                Durability::Crash => "PRAGMA synchronous = NORMAL",
                Durability::PowerLoss => "PRAGMA synchronous = FULL",
            })?;
            self.durability = needed;
        }
        Ok(())
    }

    fn roll_back(&self) {
        // Some errors have already ended the transaction.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(error = %error, "the database did not roll back");
        }
    }
}
