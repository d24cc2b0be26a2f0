//! The embedded file under a running stack: deleted files, other readers, damage and backups. Real
//! processes, real HTTP. `tests/external` tests a full disk.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod backup;
mod damage;
mod lost_files;
mod readers;

use std::{
    path::Path,
    process::{Command, Output},
};

use harness::{
    binaries::binary,
    health::{self, BOUND, POLL_INTERVAL, fresh_health, post, wait_for_health, warnings},
    ledger,
    stack::Launch,
};

/// A stack with short leases. A queue keeps messages of attempts that a crash interrupts until
/// their leases end.
fn launch() -> Launch {
    health::launch().set("DELIVERY_TIMEOUT_MS", "8000").set("LEASE_MS", "12000")
}

/// Runs `local` with these arguments on a data folder and waits until it exits.
fn local(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("local").unwrap());
    command.args(arguments).arg("--data-dir").arg(data_dir).output().unwrap()
}

/// The output of a successful command.
fn printed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{}", output.status, refusal(output));
    text
}

fn refusal(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The commands of the runbook's code block that contains this text.
fn runbook_block(text: &str) -> String {
    let file = harness::binaries::workspace().join("docs/operating.md");
    let runbook = std::fs::read_to_string(file).unwrap();
    let mut blocks = runbook.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .find(|block| block.contains(text))
        .unwrap_or_else(|| panic!("no block with {text}"))
        .to_owned()
}
