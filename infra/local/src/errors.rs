//! Errors as the terminal shows them.

use std::{error::Error, fmt::Write as _};

/// The error and its causes, one per line.
pub(crate) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  because: {error}");
        source = error.source();
    }
    text
}
