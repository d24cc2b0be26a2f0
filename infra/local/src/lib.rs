//! The local stack: what function URLs, event source mappings and the scheduler are on AWS.
//!
//! | module | what it stands in for |
//! |---|---|
//! | [`stack`] | the deployment: puts the parts together, starts them, ends them |
//! | [`serve`] | the HTTP server, and how long and how many connections callers may hold |
//! | `triggers` | which function is called by what, in this process or in others |
//! | [`mapping`] | an SQS event source mapping: polls a queue and calls its function with batches |
//! | [`schedule`] | EventBridge Scheduler: calls the sweep |
//! | [`events`] | the events that AWS sends, and the rules by which it reads a batch's answer |
//! | [`functions`] | the functions in processes of their own: the Invoke API of `cargo lambda watch` |
//! | [`forward`] | the function URL of those |
//! | [`maintenance`] | backup, restore and recovery of the embedded file |
//! | [`options`] | the command line |
//! | [`banner`] | what it tells when it is ready |
//!
//! The functions themselves are the very handlers that run on Lambda, and get the very events.

pub mod banner;
pub mod events;
pub mod forward;
pub mod functions;
pub mod maintenance;
pub mod mapping;
pub mod options;
pub mod schedule;
pub mod serve;
pub mod stack;
mod triggers;
