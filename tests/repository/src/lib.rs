//! Reads the documents of this repository. The tests of this package and of `external` use it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests use it: its panics are verdicts")]

pub mod page;
