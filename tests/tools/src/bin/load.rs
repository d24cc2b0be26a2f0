//! `load`: the benchmark. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::COULD_NOT_RUN;
use tools::load::{LoadError, plan::Plan, run::run};

// One thread: the client uses at most one core, which it shares with the system under test.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let plan = Plan::parse();
    let measured = tokio::select! {
        measured = run(&plan) => measured,
        // Destructors stop the started processes.
        _ = tokio::signal::ctrl_c() => {
            shared::complain!("load: interrupted");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match measured {
        Ok(results) => {
            if plan.json {
                shared::say!("{:#}", serde_json::json!(results));
            } else {
                shared::say!("\n{}", results.to_string().trim_end());
            }
            if results.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            shared::complain!("load: {error}");
            if matches!(error, LoadError::Missing { .. }) {
                ExitCode::FAILURE
            } else {
                ExitCode::from(COULD_NOT_RUN)
            }
        }
    }
}
