//! `test-webhook-failure`: drives a failure through a running system and judges what it did. See
//! `--help`.

use std::process::ExitCode;

use clap::Parser;
use harness::progress::Report;
use tools::{
    failure::{self, Failure},
    target::Target,
};

/// Tests how a running system handles failing webhooks, by asking its API.
///
/// Without --failure: checks the API with no webhook involved, then makes one delivery through the
/// receiver. With it: drives that failure and checks the attempts, the waits between them and the
/// final status. Any running webhook-receiver will do, whatever it was told to answer: the webhooks
/// go to its paths /status-code/404, /status-code/500 and /delay/60.
#[derive(Debug, Parser)]
#[command(
    name = "test-webhook-failure",
    version,
    after_help = "Exit codes: 0 the system did what it should, 1 it did not, 2 wrong usage, 3 it \
        could not be tested."
)]
struct Options {
    /// The failure to drive.
    #[arg(long, value_enum)]
    failure: Option<Failure>,
    #[command(flatten)]
    target: Target,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { failure, target } = Options::parse();
    let mut report = Report::new(
        format!("test-webhook-failure {}", failure.map_or("(delivery)", Failure::as_str)),
        target.json,
    );
    let outcome = failure::run(&target, failure, &mut report).await;
    report.finish(&outcome)
}
