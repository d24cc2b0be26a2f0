//! Moves commits from the write-ahead log to the file, so the log starts over and stays short.
//!
//! It runs on its own thread. A checkpoint syncs the disk twice, and callers wait for the writer's
//! commits. A passive checkpoint never makes anybody wait. It leaves what was committed meanwhile,
//! so it runs a few times.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use super::condition::Condition;

/// 4,000 pages are 16 MiB of log. A restart after a crash reads it in about 20 ms. A shorter log
/// means more syncs, which sometimes delay a webhook.
const MIN_PAGES: i64 = 4000;

/// The most passes before the rest is left to the next time.
const MAX_ROUNDS: u32 = 4;

/// Checks the log on each signal. Ends when the sender is dropped.
pub(super) fn start(
    connection: Connection,
    condition: Arc<Condition>,
) -> io::Result<(SyncSender<()>, JoinHandle<()>)> {
    let (sender, looks) = sync_channel(1);
    let thread = thread::Builder::new().name("sqlite-checkpoint".to_owned()).spawn(move || {
        while looks.recv().is_ok() {
            // On a full disk, the log may still start over, and the next write needs that space.
            let min_pages = if condition.is_full() { 1 } else { MIN_PAGES };
            match look(&connection, min_pages) {
                Ok(look) => condition.note_checkpoint(Ok(look.left)),
                Err(error) => {
                    tracing::warn!(error = %error,
                        "a checkpoint of the database failed; the log grows until one succeeds");
                    condition.note_checkpoint(Err(error.to_string()));
                }
            }
        }
    })?;
    Ok((sender, thread))
}

/// The result of a checkpoint, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Pages moved to the file.
    pub(super) moved: i64,
    /// Pages that are only in the log.
    pub(super) left: i64,
}

/// Moves the log if it is long enough.
pub(super) fn look(connection: &Connection, min_pages: i64) -> rusqlite::Result<Look> {
    let (mut pages, begun_at) = log(connection, "PRAGMA wal_checkpoint(NOOP)")?;
    let (mut done, mut rounds) = (begun_at, 0);
    while pages >= min_pages && done < pages && rounds < MAX_ROUNDS {
        (pages, done) = log(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        rounds += 1;
    }
    Ok(Look { moved: done - begun_at, left: pages - done })
}

/// Pages in the log, and those of them in the file.
fn log(connection: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(1)?, row.get(2)?)))
}
