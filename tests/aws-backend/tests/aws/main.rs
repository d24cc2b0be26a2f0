//! `infra/template.yaml`, deployed: the real template with the real functions on an emulator of AWS
//! that enforces the functions' roles, driven through the function URL.
//!
//! The emulator is no AWS; where it differs stands in `infra/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

mod crash;
mod deployed;
mod front;
mod strays;
mod template;
mod thousand;
