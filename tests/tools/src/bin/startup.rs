//! `startup`: measures the cold start of each function. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::COULD_NOT_RUN;
use tools::startup::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(report) => {
            if options.json {
                shared::say!("{:#}", serde_json::json!(report));
            } else {
                shared::say!("{}", report.to_string().trim_end());
            }
            if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            shared::complain!("startup: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
