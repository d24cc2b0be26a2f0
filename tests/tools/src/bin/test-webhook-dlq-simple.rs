//! `test-webhook-dlq-simple`: a failing webhook becomes a dead letter. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Report;
use tools::{dead_letters, target::Target};

/// Tests in short that a webhook that fails for good becomes a dead letter and can be redriven.
///
/// Any running webhook-receiver will do: the webhook goes to its path /status-code/500, or to a
/// plain path if the receiver was started with --failure-rate 100.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-dlq-simple",
    version,
    after_help = "Exit codes: 0 the system did what it should, 1 it did not, 2 wrong usage, 3 it \
        could not be tested."
)]
struct Options {
    #[command(flatten)]
    target: Target,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { target } = Options::parse();
    let mut report = Report::new("test-webhook-dlq-simple", target.json);
    let outcome = dead_letters::simple(&target, &mut report).await;
    report.finish(&outcome)
}
