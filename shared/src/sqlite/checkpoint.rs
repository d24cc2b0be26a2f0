//! Moves what was committed from the write-ahead log to the file, so that the log starts over
//! instead of growing.
//!
//! On a thread of its own: a checkpoint syncs the disk twice, and the writer, whose commits
//! somebody waits for, should not. A passive checkpoint never makes anybody wait; what was
//! committed meanwhile is left, so it goes round a few times.

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

/// 4,000 pages are 16 MiB of log: a restart after a crash reads it in some 20 ms. A shorter one
/// means more syncs that hold up a webhook now and then.
const MIN_PAGES: i64 = 4000;

/// How often it goes round until it leaves the rest to the next time.
const MAX_ROUNDS: u32 = 4;

/// Looks whenever it is told to; ends when the sender is gone.
pub(super) fn start(
    connection: Connection,
    condition: Arc<Condition>,
) -> io::Result<(SyncSender<()>, JoinHandle<()>)> {
    let (sender, looks) = sync_channel(1);
    let thread = thread::Builder::new().name("sqlite-checkpoint".to_owned()).spawn(move || {
        while looks.recv().is_ok() {
            // On a full disk the log may still be able to start over, which is the space that the
            // next write needs.
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

/// What a look at the log came to, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Moved to the file.
    pub(super) moved: i64,
    /// Still in the log only.
    pub(super) left: i64,
}

/// Moves the log if it is that long.
pub(super) fn look(connection: &Connection, min_pages: i64) -> rusqlite::Result<Look> {
    let (mut pages, begun_at) = log(connection, "PRAGMA wal_checkpoint(NOOP)")?;
    let (mut done, mut rounds) = (begun_at, 0);
    while pages >= min_pages && done < pages && rounds < MAX_ROUNDS {
        (pages, done) = log(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        rounds += 1;
    }
    Ok(Look { moved: done - begun_at, left: pages - done })
}

/// Pages in the log, and how many of them are in the file.
fn log(connection: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(1)?, row.get(2)?)))
}
