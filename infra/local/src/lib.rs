//! The local stack: it does what function URLs, event source mappings and the scheduler do on AWS.
//! The functions are the same handlers that run on Lambda, and they get the same events.
//!
//! - [`process`]: the process of a stack and its exit code
//! - [`stack`]: the deployment: builds the parts, starts them, stops them
//! - [`serve`]: the HTTP server, with limits on connections
//! - `triggers`: connects each function to its event source, in this process or in others
//! - [`mapping`]: an SQS event source mapping: polls a queue and invokes its function with batches
//! - [`schedule`]: EventBridge Scheduler: invokes the sweep
//! - [`events`]: the events that AWS sends, and how AWS reads a batch's response
//! - [`functions`]: functions in other processes, by the Invoke API of `cargo lambda watch`
//! - [`forward`]: the function URL of those
//! - [`maintenance`]: backup, restore and recovery of the embedded file
//! - [`options`]: the command line
//! - [`signals`]: Ctrl-C and SIGTERM
//! - [`banner`]: the text that a started stack prints
//! - `errors`: errors as the terminal shows them

pub mod banner;
mod errors;
pub mod events;
pub mod forward;
pub mod functions;
pub mod maintenance;
pub mod mapping;
pub mod options;
pub mod process;
pub mod schedule;
pub mod serve;
pub mod signals;
pub mod stack;
mod triggers;
