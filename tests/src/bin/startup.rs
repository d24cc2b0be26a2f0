//! `startup`: what the start of each function costs. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use posthaste_tests::{
    progress::COULD_NOT_RUN,
    startup::{Options, run},
};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(report) => {
            if options.json {
                println!("{:#}", serde_json::json!(report));
            } else {
                print!("{report}");
            }
            if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("startup: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
