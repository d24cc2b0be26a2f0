//! The condition of the database: what its threads noticed, and the warnings for an operator.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    DatabaseError,
    files::{OpenFiles, free_bytes},
};

/// The free space below which the database warns. An operator can still act before writes fail.
const MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// The pages that may stay in the log after a checkpoint: 32 MiB. The longest read of this process
/// ends before so much is written.
const MAX_UNMOVED_PAGES: i64 = 8000;

const MIB: u64 = 1024 * 1024;

/// What the threads of a database noticed.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// A write failed for want of space, and no large write has succeeded since.
    is_full: AtomicBool,
    is_damaged: AtomicBool,
    log: Mutex<Log>,
}

/// The result of the latest checkpoint.
#[derive(Clone, Debug, Default)]
struct Log {
    unmoved_pages: i64,
    error: Option<String>,
}

impl Condition {
    /// Whether little or no space is left.
    pub(super) fn is_tight(&self, path: &Path) -> bool {
        self.is_full.load(Ordering::Relaxed)
            || free_bytes(path).is_ok_and(|free| free < MIN_FREE_BYTES)
    }

    /// Records that a write ran out of space.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Records that a large write succeeded.
    pub(super) fn found_space(&self) {
        self.is_full.store(false, Ordering::Relaxed);
    }

    /// Records what the error says about the file.
    pub(super) fn note(&self, error: &DatabaseError) {
        match error {
            DatabaseError::Full(_) => self.is_full.store(true, Ordering::Relaxed),
            DatabaseError::Damaged(_) => self.is_damaged.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Records a checkpoint: the pages that it left, or its failure.
    pub(super) fn note_checkpoint(&self, outcome: Result<i64, String>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(unmoved_pages) => *log = Log { unmoved_pages, error: None },
            Err(error) => log.error = Some(error),
        }
    }

    /// Conditions that an operator should change, one sentence each.
    pub(super) fn warnings(&self, path: &Path, files: &OpenFiles) -> Vec<String> {
        let lost = files.lost().map(|lost| lost.to_string());
        let free = free_bytes(path).ok().filter(|free| *free < MIN_FREE_BYTES).map(|free| {
            format!(
                "{} MiB are free on the disk of {}: nothing is accepted once it is full; free some \
                 space ({} MiB or more)",
                free / MIB,
                path.display(),
                MIN_FREE_BYTES / MIB
            )
        });
        let damaged = self.is_damaged.load(Ordering::Relaxed).then(|| {
            format!(
                "{} is damaged, so some webhooks cannot be read: stop the stack, then restore a \
                 backup (`local restore`) or save what can be read (`local recover`)",
                path.display()
            )
        });
        lost.into_iter().chain(free).chain(damaged).chain(self.log_warning(path)).collect()
    }

    fn log_warning(&self, path: &Path) -> Option<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let path = path.display();
        if let Some(error) = log.error {
            return Some(format!(
                "the last checkpoint of {path} failed ({error}), so its write-ahead log grows"
            ));
        }
        (log.unmoved_pages >= MAX_UNMOVED_PAGES).then(|| {
            format!(
                "another program keeps a transaction open on {path}, so its write-ahead log grows: \
                 end that program, such as a sqlite3 shell, or wait for the backup that is being \
                 made"
            )
        })
    }
}
