//! Fuzzing: whatever callers, destinations, queues and platforms send, nothing panics, nothing
//! hangs, and what must hold holds.
//!
//! Each target is a test. It replays its corpus, then judges inputs that are made from the corpus
//! by random edits, for a few seconds; `BOLERO_RANDOM_TEST_TIME_MS` sets how long. It needs no
//! nightly toolchain: [bolero](https://docs.rs/bolero) drives it.
//!
//! | file | where the input enters | what must hold |
//! |---|---|---|
//! | `requests` | bodies, queries, cursors and whole requests, through the router | never a 5xx; refused with a reason, or done; a payload keeps its bytes; no list but its own reads a cursor |
//! | `urls` | the address guard with each sort of allowlist, and the sender behind it | what is accepted is public and on the list; what is not is never connected to |
//! | `headers` | a webhook's own headers, over a real connection | they arrive as they were given, and nothing else does |
//! | `answers` | what a destination answers, over a real connection; `Retry-After` | bounded in time and size; delivered by a 2xx and by nothing else; a wait within its cap |
//! | `records` | stored records, queue messages | read as they were written; every rule takes any record that can be read; what is stored can be shown |
//! | `events` | Lambda events: HTTP in three shapes, batches of both queues | an HTTP event is answered; only messages of the batch are handed back |
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
mod urls;
