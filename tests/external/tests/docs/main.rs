//! The documents: every link, name and command in them is right, every setting is listed, every
//! file that they show is the file, the tour works as printed, and the runbook's calls exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod api;
mod banner;
mod links;
mod names;
mod page;
mod quotes;
mod runbook;
mod settings;
mod shell;
mod tour;
