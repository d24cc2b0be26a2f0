//! Fuzzing: whatever callers, destinations, queues and platforms send, nothing panics, nothing
//! hangs, and what must hold holds.
//!
//! Each target is a test. It replays its corpus, then judges inputs that are made from the corpus
//! by random edits, for a few seconds; `BOLERO_RANDOM_TEST_TIME_MS` sets how long. It needs no
//! nightly toolchain: [bolero](https://docs.rs/bolero) drives it.
//!
//! - `requests`: bodies, queries, cursors and whole requests go through the router. No request
//!   returns a 5xx. A refusal has a reason. A payload keeps its bytes. Only the list that issued a
//!   cursor reads it.
//! - `urls`: the address guard with each kind of allowlist, and the sender behind it. An accepted
//!   address is public and on the list. The sender never connects to a refused one.
//! - `headers`: the headers of a webhook, over a real connection. They arrive unchanged, and no
//!   other header arrives.
//! - `answers`: responses of a destination over a real connection, and `Retry-After`. Reading is
//!   bounded in time and size. Only a 2xx delivers. A wait stays within its limit.
//! - `records`: stored records and queue messages. They are read as they were written. Every rule
//!   accepts every readable record. Every stored record can be shown.
//! - `tenants`: any request with the key of one application. No answer contains anything of another
//!   one.
//! - `events`: Lambda events: HTTP in three formats, batches of both queues. An HTTP event gets a
//!   response. Only messages of the batch are returned to the queue.
//!
//! The corpora are in `__fuzz__/FILE__TARGET/corpus`, a file for each input, as it stands. What a
//! run finds, it writes to a file and names it; it belongs into the corpus together with the mend.

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

mod answers;
mod api;
mod engine;
mod events;
mod headers;
mod records;
mod requests;
mod server;
mod tenants;
mod urls;
