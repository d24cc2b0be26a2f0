//! Errors as the terminal shows them.

use std::error::Error;

use shared::error_chain::causes;

/// The error and its causes, one per line.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}
