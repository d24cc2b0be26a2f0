//! Gives free pages at the end of the file back to the file system, a little at a time.
//!
//! Expired webhooks leave free pages, which later ones use. Only what exceeds a reserve is given
//! back, so a file whose load is even is left alone. A file that was made without the map of pages
//! that this needs (`auto_vacuum` is 0, as all were at first) only uses its free pages again;
//! `local backup` and `local restore` make a copy that has the map.

use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Between two steps.
const INTERVAL: Duration = Duration::from_secs(1);

/// Pages of one step: 512 KiB, some two milliseconds of the writer.
const MAX_PAGES_PER_STEP: i64 = 128;

/// Free pages that are kept in any case: 8 MiB.
const MIN_RESERVE_PAGES: i64 = 2048;

/// The share of the file that may be free: one in so many pages.
const RESERVE_SHARE: i64 = 8;

/// When the file was last trimmed.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    latest: Option<Instant>,
}

impl Trimmer {
    /// Whether it is time for a step; the next one is later then.
    pub(super) fn is_time(&mut self) -> bool {
        let is_time = self.latest.is_none_or(|at| at.elapsed() >= INTERVAL);
        if is_time {
            self.latest = Some(Instant::now());
        }
        is_time
    }
}

/// One step, outside of a transaction; how many pages it gave back. The file itself shrinks with
/// the next checkpoint.
pub(super) fn step(connection: &Connection) -> rusqlite::Result<i64> {
    let number = |sql| connection.prepare_cached(sql)?.query_row((), |row| row.get::<_, i64>(0));
    let free = number("PRAGMA freelist_count")?;
    let reserve = MIN_RESERVE_PAGES.max(number("PRAGMA page_count")? / RESERVE_SHARE);
    let pages = (free - reserve).clamp(0, MAX_PAGES_PER_STEP);
    if pages == 0 {
        return Ok(0);
    }
    // It gives a row for each page, and stops where it is not asked for the next one.
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(free - number("PRAGMA freelist_count")?)
}
