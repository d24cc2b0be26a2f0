//! `test-webhook-failure`: causes a failure and checks how the system handles it. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Checklist;
use tools::{
    failure::{self, Failure},
    target::Target,
};

/// Checks how a running system handles failing webhooks.
///
/// Without --failure, checks the API and one delivery. With --failure, causes that failure and
/// checks the attempts, the waits between them and the final status.
///
/// Needs a running webhook-receiver. The webhooks go to its paths /status-code/404,
/// /status-code/500 and /delay/60, which do not depend on its options.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-failure",
    version,
    after_help = "Exit codes: 0 every check passed, 1 a check failed, 2 invalid usage, 3 the \
        test could not run."
)]
struct Options {
    /// The failure to cause.
    #[arg(long, value_enum)]
    failure: Option<Failure>,
    #[command(flatten)]
    target: Target,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { failure, target } = Options::parse();
    let scenario =
        format!("test-webhook-failure {}", failure.map_or("(delivery)", Failure::as_str));
    let test = async |report: &mut _| failure::run(&target, failure, report).await;
    Checklist::run(scenario, target.json, test).await
}
