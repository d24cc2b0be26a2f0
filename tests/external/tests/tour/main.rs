//! The README's example, the tour, the runbook's calls and the stack's banner, run in a shell as
//! they are printed. The tests of `repository` check the documents' links, names and settings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod banner;
mod runbook;
mod shell;
mod tour;
