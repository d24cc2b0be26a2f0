//! The load tool: how many webhooks a second a running system accepts and delivers, how soon they
//! arrive, and at what cost.
//!
//! Client, receiver and system share one machine, so the client is lean: requests are prepared
//! bytes on plain sockets, and the receiver notes an arrival with two atomic writes. Beside each
//! result stands its ceiling: the same client posting straight to the same receiver.
//!
//! | part | what it holds |
//! |---|---|
//! | [`plan`] | the options |
//! | [`wire`] | requests as bytes, and the little of HTTP/1.1 that is read back |
//! | [`arrival`] | the receiver of the load, and when each webhook arrived |
//! | [`closed`] | the closed loop: N connections, each with one request at a time |
//! | [`open`] | the open loop: a fixed rate, whatever the answers |
//! | [`machine`] | the disk's sync time; the processor time and the memory of a process |
//! | [`fairness`] | how much a destination that hangs delays the others |
//! | [`overload`] | ten times what the stack can carry |
//! | [`run`] | one run from the ceiling to the verdict |
//! | [`report`] | the table |

pub mod arrival;
pub mod closed;
pub mod fairness;
pub mod machine;
pub mod open;
pub mod overload;
pub mod plan;
pub mod report;
pub mod run;
pub mod wire;

use std::{io, path::PathBuf, time::Duration};

use harness::process::ProcessError;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The options do not go together, or name something that is not there.
    #[error("{0}")]
    Plan(String),
    /// A socket failed.
    #[error("cannot {what} {whom}: {source}")]
    Socket {
        /// What was to be done.
        what: &'static str,
        /// With whom.
        whom: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other side spoke something else than was expected.
    #[error("{0}")]
    Protocol(String),
    /// A file or folder could not be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system under test ended, or did not become ready, or did not end.
    #[error(transparent)]
    Stack(#[from] ProcessError),
    /// Not all of the webhooks that were accepted have arrived.
    #[error(
        "{arrived} of {accepted} accepted webhooks arrived within {bound:?} of the last answer"
    )]
    Missing {
        /// Different webhooks that arrived.
        arrived: u64,
        /// Webhooks that were accepted.
        accepted: u64,
        /// How long was waited.
        bound: Duration,
    },
    /// A thread of the tool panicked.
    #[error("a thread of the load tool ended unexpectedly")]
    Thread,
}
