//! `infra/template.yaml`, deployed: the real template and functions on an AWS emulator that
//! enforces the functions' roles, called through the function URL.
//!
//! `infra/README.md` lists the differences between the emulator and AWS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is for the person who runs the test"
)]

mod crash;
mod deployed;
mod front;
mod strays;
mod template;
mod thousand;
