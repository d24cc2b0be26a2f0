//! `test-webhook-dlq`: checks dead letters and redrive. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Checklist;
use tools::{dead_letters, target::Target};

/// Checks the dead letters of a running system.
///
/// A failed webhook becomes a dead letter with payload, error, attempts and correlation ID,
/// retained for 30 days. It can be redriven with a new budget of attempts, and deleted.
///
/// Needs a running webhook-receiver. The webhook goes to its path /status-code/500. If the receiver
/// was started with --failure-rate 100, it goes to an ordinary path. Restart the receiver without
/// that option before the redrive to see the webhook delivered.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-dlq",
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
    let test = async |report: &mut _| dead_letters::full(&target, report).await;
    Checklist::run("test-webhook-dlq", target.json, test).await
}
