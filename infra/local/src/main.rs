//! `cargo run --release --bin local`: the local stack.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use local::{maintenance, options::Options, signals::Signals, stack::Stack};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::logging;
use tokio::runtime::Runtime;

/// What may still be under way when all parts have ended, such as a name that the system looks up,
/// is not waited for.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(200);

/// The exit code that says so; 1 is a fault while it ran.
const COULD_NOT_START: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = logging::init(logging::Format::Text) {
        return refuse(&error);
    }
    if let Some(command) = &options.command {
        return maintenance::run(command, &options.data_dir_of_command());
    }
    raise_file_limit();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("no threads: {error}")),
    };
    let code = runtime.block_on(async {
        let mut signals = Signals::listen();
        let started = tokio::select! {
            started = Stack::start(&options) => started,
            () = signals.asked_to_end() => return ExitCode::SUCCESS,
        };
        match started {
            Ok(stack) => {
                if stack.run_until_asked_to_end(signals).await {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }
            }
            Err(error) => refuse(&error.explain()),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    code
}

/// Every connection is an open file; the usual soft limit of 1,024 is meant for programs that use
/// `select`. As many as the hard limit allows.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused on systems that have another bound still; the soft limit stays as it was then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn refuse(why: &str) -> ExitCode {
    shared::complain!("local cannot start:\n{why}");
    ExitCode::from(COULD_NOT_START)
}
