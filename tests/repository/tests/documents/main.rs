//! The documents: every link and name in them is right, every setting and every field of the API is
//! listed, every file that they show is the file, and every sentence that they quote is one of the
//! code. They need only Rust; the tests of `external` run the commands.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod api;
mod links;
mod names;
mod quotes;
mod sentences;
mod settings;
