//! Errors as the terminal and the log show them.

use std::{error::Error, iter::successors};

/// The error and its causes, one per line.
pub(crate) fn explain(error: &dyn Error) -> String {
    joined(error, "\n  because: ")
}

/// The error and its causes in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    joined(error, ": ")
}

fn joined(error: &dyn Error, separator: &str) -> String {
    let chain = successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
