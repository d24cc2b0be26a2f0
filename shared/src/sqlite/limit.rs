//! Ends a read that takes too long: as long as it goes on, the write-ahead log cannot start over.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rusqlite::Connection;

/// Instructions of SQLite between two looks at the time; some tenths of a millisecond.
const INSTRUCTIONS_PER_LOOK: i32 = 10_000;

thread_local! {
    /// When the read of this thread has to be over.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on what this connection does within [`within`] is ended.
pub(super) fn watch(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(is_over))
}

/// Does the work, on this thread, and ends it after that time with
/// [`rusqlite::ErrorCode::OperationInterrupted`].
pub(super) fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    UNTIL.set(Some(Instant::now() + limit));
    let done = work();
    UNTIL.set(None);
    done
}

fn is_over() -> bool {
    UNTIL.get().is_some_and(|until| Instant::now() > until)
}
