//! The API through real HTTP, on the embedded backend, with a clock that only the test moves.
//!
//! | file | what it shows |
//! |---|---|
//! | `accept` | what is answered, stored, queued and sent on for a webhook |
//! | `bad_input` | each case of the contract's paragraph on bad input, and the limits |
//! | `access` | keys, correlation ids, methods and routes |
//! | `keys` | every route and every method, with every sort of credentials that is not a key |
//! | `idempotency` | the same request twice, at once, later, and after each crash |
//! | `batches` | each item judged on its own |
//! | `lists` | filters, pages, cursors |
//! | `openapi` | the document is what the code says, and the router has what it says |
//! | `operators` | delete, clean up, resend, redrive, dead letters, explain |
//! | `outages` | store or queue gone, slow, or silent after it did its work; health; metrics |
//! | `overload` | more requests at a time than there is room for |
//! | `page` | the operator's page as it is served, and the calls that were made for it |

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in any way")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test prints is read by who runs it"
)]

mod accept;
mod access;
mod bad_input;
mod batches;
mod faulty;
mod harness;
mod idempotency;
mod keys;
mod lists;
mod openapi;
mod operators;
mod outages;
mod overload;
mod page;
