//! The documents: every link leads somewhere, every file that is shown is the file, the README's
//! tour works as printed, and the runbook asks what the API knows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod banner;
mod links;
mod page;
mod quotes;
mod runbook;
mod settings;
mod shell;
mod tour;
