//! Errors as the terminal and the log show them.

use std::error::Error;

/// The error and its causes, one per line.
pub(crate) fn explain(error: &dyn Error) -> String {
    joined(error, "\n  because: ")
}

/// The error and its causes in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    joined(error, ": ")
}

fn joined(error: &dyn Error, separator: &str) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += separator;
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
