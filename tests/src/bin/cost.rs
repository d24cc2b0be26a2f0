//! `cost`: what a webhook costs on AWS. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use posthaste_tests::{
    cost::run::{Plan, run},
    progress::COULD_NOT_RUN,
};

#[tokio::main]
async fn main() -> ExitCode {
    let plan = Plan::parse();
    let measured = tokio::select! {
        measured = run(&plan) => measured,
        // What was started is ended by its destructor.
        _ = tokio::signal::ctrl_c() => {
            eprintln!("cost: interrupted");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match measured {
        Ok(report) if plan.json => println!("{:#}", report.to_json()),
        Ok(report) => print!("\n{report}"),
        Err(error) => {
            eprintln!("cost: {error}");
            return ExitCode::from(COULD_NOT_RUN);
        }
    }
    ExitCode::SUCCESS
}
