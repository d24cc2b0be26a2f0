//! `startup`: what the start of each function costs. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use posthaste_tests::startup::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("startup: {error}");
            ExitCode::from(2)
        }
    }
}
