//! `cost`: measures the cost of a webhook on AWS. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::COULD_NOT_RUN;
use tools::cost::run::{Plan, run};

#[tokio::main]
async fn main() -> ExitCode {
    let plan = Plan::parse();
    let measured = tokio::select! {
        measured = run(&plan) => measured,
        // Destructors stop the started processes.
        _ = tokio::signal::ctrl_c() => {
            shared::complain!("cost: interrupted");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match measured {
        Ok(report) if plan.json => shared::say!("{:#}", report.to_json()),
        Ok(report) => shared::say!("\n{}", report.to_string().trim_end()),
        Err(error) => {
            shared::complain!("cost: {error}");
            return ExitCode::from(COULD_NOT_RUN);
        }
    }
    ExitCode::SUCCESS
}
