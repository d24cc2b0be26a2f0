//! `cargo run --release --bin local`: the local stack.

use std::process::ExitCode;

use clap::Parser;
use local::{options::Options, stack::Stack};
use shared::logging;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = logging::init(logging::Format::Text) {
        return refuse(&error);
    }
    match Stack::start(&options).await {
        Ok(stack) => {
            stack.run_until_asked_to_end().await;
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error.explain()),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("local cannot start:\n{why}");
    ExitCode::FAILURE
}
