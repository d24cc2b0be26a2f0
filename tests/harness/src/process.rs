//! The error of a process that a test starts.

use std::{io, path::Path};

/// What went wrong with a stack, in a sentence or more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProcessError(pub String);

impl ProcessError {
    /// An error of the system at this path.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self(format!("{}: {error}", path.display()))
    }
}
