//! The load tool: measures the throughput, latency and resource use of a running system.
//!
//! Client, receiver and system share one machine, so the client uses little CPU time: requests are
//! prepared bytes on plain sockets, and the receiver records an arrival with two atomic writes.
//! Each result comes with its ceiling: the same client posting directly to the same receiver.
//!
//! | module | contents |
//! |---|---|
//! | [`plan`] | the options |
//! | [`wire`] | requests as bytes, and a minimal HTTP/1.1 response parser |
//! | [`arrival`] | the receiver, and the arrival time of each webhook |
//! | [`closed`] | the closed loop: N connections, each with one request at a time |
//! | [`open`] | the open loop: a fixed rate, independent of the responses |
//! | [`machine`] | the disk's sync time; the processor time and the memory of a process |
//! | [`fairness`] | how much a hanging destination delays the others |
//! | [`fan_out`] | messages to an application, against direct webhooks |
//! | [`overload`] | ten times the capacity of the stack |
//! | [`run`] | one run from the ceiling to the result |
//! | [`figures`], [`report`] | the results, as a table or as JSON |

pub mod arrival;
pub mod closed;
pub mod fairness;
pub mod fan_out;
pub mod figures;
pub mod machine;
pub mod open;
pub mod overload;
pub mod plan;
pub mod report;
pub mod run;
pub mod wire;

use std::{io, path::PathBuf, time::Duration};

use harness::process::ProcessError;

/// The reason for a failed measurement.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The options conflict or name something that does not exist.
    #[error("{0}")]
    Plan(String),
    /// A socket failed.
    #[error("cannot {what} {whom}: {source}")]
    Socket {
        /// The operation.
        what: &'static str,
        /// The peer.
        whom: String,
        /// The cause.
        source: io::Error,
    },
    /// The peer sent an unexpected response.
    #[error("{0}")]
    Protocol(String),
    /// A file or folder could not be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system under test did not start, did not stop, or exited.
    #[error(transparent)]
    Stack(#[from] ProcessError),
    /// Some accepted webhooks did not arrive.
    #[error(
        "{arrived} of {accepted} accepted webhooks arrived within {bound:?} of the last response"
    )]
    Missing {
        /// Distinct webhooks that arrived.
        arrived: u64,
        /// Accepted webhooks.
        accepted: u64,
        /// The time limit.
        bound: Duration,
    },
    /// A thread of the tool panicked.
    #[error("a thread of the load tool panicked")]
    Thread,
}
