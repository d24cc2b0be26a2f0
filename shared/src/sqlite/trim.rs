//! Gives free pages at the end of the file back to the file system, a few at a time.
//!
//! Expired webhooks leave free pages, which later webhooks use. Only pages beyond a reserve are
//! given back, so a file with an even load does not change. A file without the map of pages
//! (`auto_vacuum` is 0, as in the first versions) only reuses its free pages. `local backup` and
//! `local restore` make a copy with the map.

use std::time::{Duration, Instant};

use rusqlite::Connection;

/// The time between two steps.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pages of one step: 512 KiB, about two milliseconds of the writer's time.
const MAX_PAGES_PER_STEP: i64 = 128;

/// The smallest reserve of free pages: 8 MiB.
const MIN_RESERVE_PAGES: i64 = 2048;

/// The share of the file that may be free: one page in this many.
const RESERVE_SHARE: i64 = 8;

/// When the file was last trimmed.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    latest: Option<Instant>,
}

impl Trimmer {
    /// Whether a step is due. Schedules the next one.
    pub(super) fn is_time(&mut self) -> bool {
        let is_time = self.latest.is_none_or(|at| at.elapsed() >= INTERVAL);
        if is_time {
            self.latest = Some(Instant::now());
        }
        is_time
    }
}

/// Runs one step outside of a transaction. Returns the number of pages that it gave back. The file
/// shrinks with the next checkpoint.
pub(super) fn step(connection: &Connection) -> rusqlite::Result<i64> {
    let number = |sql| connection.prepare_cached(sql)?.query_row((), |row| row.get::<_, i64>(0));
    let free = number("PRAGMA freelist_count")?;
    let reserve = MIN_RESERVE_PAGES.max(number("PRAGMA page_count")? / RESERVE_SHARE);
    let pages = (free - reserve).clamp(0, MAX_PAGES_PER_STEP);
    if pages == 0 {
        return Ok(0);
    }
    // It returns a row per page, and stops if the next one is not read.
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(free - number("PRAGMA freelist_count")?)
}
