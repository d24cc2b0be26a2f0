//! Moves what was committed from the write-ahead log to the file, so that the log starts over instead of growing.
//!
//! On a thread of its own: a checkpoint syncs the disk twice, and the writer, whose commits somebody waits for, should not.
//! A passive checkpoint never makes anybody wait; what was committed meanwhile is left, so it goes round a few times.

use std::{
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

/// 4,000 pages are 16 MiB of log: a restart after a crash reads it in some 20 ms. A shorter one means more syncs that hold up
/// a webhook now and then.
const MIN_PAGES: i64 = 4000;

/// How often it goes round until it leaves the rest to the next time.
const MAX_ROUNDS: u32 = 4;

/// Looks whenever it is told to; ends when the sender is gone.
pub(super) fn start(connection: Connection) -> io::Result<(SyncSender<()>, JoinHandle<()>)> {
    let (sender, looks) = sync_channel(1);
    let thread = thread::Builder::new().name("sqlite-checkpoint".to_owned()).spawn(move || {
        while looks.recv().is_ok() {
            if let Err(error) = look(&connection, MIN_PAGES) {
                tracing::warn!(error = %error, "a checkpoint of the database failed; the log grows until one succeeds");
            }
        }
    })?;
    Ok((sender, thread))
}

/// Moves the log if it is that long. How many pages it moved.
pub(super) fn look(connection: &Connection, min_pages: i64) -> rusqlite::Result<i64> {
    let (mut pages, begun_at) = log(connection, "PRAGMA wal_checkpoint(NOOP)")?;
    let (mut done, mut rounds) = (begun_at, 0);
    while pages >= min_pages && done < pages && rounds < MAX_ROUNDS {
        (pages, done) = log(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        rounds += 1;
    }
    Ok(done - begun_at)
}

/// Pages in the log, and how many of them are in the file.
fn log(connection: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(1)?, row.get(2)?)))
}
