//! `test-webhook-dlq-simple`: a failing webhook becomes a dead letter. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Checklist;
use tools::{dead_letters, target::Target};

/// Checks that a failed webhook becomes a dead letter and can be redriven.
///
/// Needs a running webhook-receiver. The webhook goes to its path /status-code/500, or to an
/// ordinary path if the receiver was started with --failure-rate 100.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-dlq-simple",
    version,
    after_help = "Exit codes: 0 every check passed, 1 a check failed, 2 invalid usage, 3 the \
        test could not run."
)]
struct Options {
    #[command(flatten)]
    target: Target,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { target } = Options::parse();
    let test = async |report: &mut _| dead_letters::simple(&target, report).await;
    Checklist::run("test-webhook-dlq-simple", target.json, test).await
}
