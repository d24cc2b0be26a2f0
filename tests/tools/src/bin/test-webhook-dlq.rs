//! `test-webhook-dlq`: follows a webhook into the dead letters and out again. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Report;
use tools::{dead_letters, target::Target};

/// Tests dead letters in a running system: a webhook that fails for good becomes one, with payload,
/// error, attempts and correlation id, for 30 days; it can be redriven with a fresh budget of
/// attempts, and deleted.
///
/// Any running webhook-receiver will do: the webhook goes to its path /status-code/500. If the
/// receiver was started with --failure-rate 100, it goes to a plain path instead; restart the
/// receiver without that option before the redrive, and see the webhook delivered.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-dlq",
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
    let mut report = Report::new("test-webhook-dlq", target.json);
    let outcome = dead_letters::full(&target, &mut report).await;
    report.finish(&outcome)
}
