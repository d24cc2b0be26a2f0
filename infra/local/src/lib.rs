//! The local stack: what function URLs, event source mappings and the scheduler are on AWS, in one process.
//!
//! | module | what it stands in for |
//! |---|---|
//! | [`stack`] | the deployment: puts the parts together, starts them, ends them |
//! | [`mapping`] | an SQS event source mapping: polls a queue and calls its function with batches |
//! | [`schedule`] | EventBridge Scheduler: calls the sweep |
//! | [`options`] | the command line |
//! | [`banner`] | what it tells when it is ready |
//!
//! The functions themselves are the very handlers that run on Lambda, and get the very events.

pub mod banner;
pub mod mapping;
pub mod options;
pub mod schedule;
pub mod stack;
