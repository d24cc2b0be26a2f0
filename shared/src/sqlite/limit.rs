//! Interrupts a long read, because the write-ahead log cannot start over during a read.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rusqlite::Connection;

/// SQLite instructions between two checks of the time: some tenths of a millisecond.
const INSTRUCTIONS_PER_LOOK: i32 = 10_000;

thread_local! {
    /// When the read of this thread must end.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Interrupts work of this connection that exceeds the time of [`within`].
pub(super) fn watch(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(is_over))
}

/// Runs the work on this thread. After that time, interrupts it with
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
