//! The process of a stack: its file limit, its runtime and its exit code.

use std::{process::ExitCode, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::{options::Options, signals::Signals, stack::Stack};

/// The time for blocking calls, such as a name lookup by the system, after all parts have stopped.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// The exit code of a stack that could not start. A fault while it runs is exit code 1.
const COULD_NOT_START: u8 = 3;

/// Runs a stack until it is asked to stop.
pub fn run(options: &Options) -> ExitCode {
    raise_file_limit();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("cannot start the runtime's threads: {error}")),
    };
    let code = runtime.block_on(start_and_run(options));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    code
}

async fn start_and_run(options: &Options) -> ExitCode {
    let mut signals = Signals::listen();
    let started = tokio::select! {
        started = Stack::start(options) => started,
        () = signals.received() => return ExitCode::SUCCESS,
    };
    match started {
        Ok(stack) => {
            if stack.run_until_signal(signals).await {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => refuse(&error.explain()),
    }
}

/// Prints why the stack cannot start.
pub fn refuse(reason: &str) -> ExitCode {
    shared::complain!("local cannot start:\n{reason}");
    ExitCode::from(COULD_NOT_START)
}

/// Raises the soft limit of open files to the hard limit. Every connection is an open file, and the
/// usual soft limit of 1,024 only protects programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Some systems have a lower bound of their own and refuse. The soft limit then stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
