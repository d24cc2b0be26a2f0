//! `dlq`: archives failed webhooks, and rescues unfinished ones whose messages the queue gave up
//! on.
//!
//! A dead letter *is* the failed record, so archiving is one conditional write. A message that
//! cannot be read belongs to no webhook. It becomes a dead letter with a record of its own, so no
//! queued message disappears without a trace.
//!
//! - `batch`: runs a batch and builds the partial batch response
//! - `dead_letter`: archives or rescues the webhook of one message
//! - `unreadable_message`: keeps a message that cannot be read

mod batch;
mod dead_letter;
mod unreadable_message;

pub use batch::handle;
