//! An error with its causes, as text.

use std::{error::Error, iter};

/// The error and its causes, outermost first.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| (*error).source())
}

/// The error and its causes in one line, separated by colons.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn each_cause_is_named_once() {
        let error = Outer(std::fmt::Error);
        assert_eq!(one_line(&error), format!("cannot start: {}", std::fmt::Error));
        assert_eq!(causes(&error).count(), 2);
    }
}
