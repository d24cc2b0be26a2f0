//! `traffic`: measures traffic control against its targets. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::COULD_NOT_RUN;
use tools::traffic::{plan::Plan, run};

// One thread: the receiver and the client use at most one core.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let plan = Plan::parse();
    let measured = tokio::select! {
        measured = run(&plan) => measured,
        // Destructors stop the started processes.
        _ = tokio::signal::ctrl_c() => {
            shared::complain!("traffic: interrupted");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match measured {
        Ok(report) => {
            if plan.json {
                shared::say!("{:#}", serde_json::json!(report));
            } else {
                shared::say!("\n{}", report.to_string().trim_end());
            }
            if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            shared::complain!("traffic: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
