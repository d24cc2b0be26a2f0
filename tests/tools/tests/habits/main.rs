//! Habits that every program of this project has: help with its exit codes, usage errors, colour on
//! a terminal only, JSON that parses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

mod json;
mod terminal;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use posthaste_tests::binaries::{binary, workspace};

/// The tools of this build.
const TOOLS: [(&str, &str); 8] = [
    ("cost", env!("CARGO_BIN_EXE_cost")),
    ("load", env!("CARGO_BIN_EXE_load")),
    ("simulate", env!("CARGO_BIN_EXE_simulate")),
    ("startup", env!("CARGO_BIN_EXE_startup")),
    ("test-webhook-dlq", env!("CARGO_BIN_EXE_test-webhook-dlq")),
    ("test-webhook-dlq-simple", env!("CARGO_BIN_EXE_test-webhook-dlq-simple")),
    ("test-webhook-failure", env!("CARGO_BIN_EXE_test-webhook-failure")),
    ("webhook-receiver", env!("CARGO_BIN_EXE_webhook-receiver")),
];

/// Every program that somebody types the name of.
fn programs() -> Vec<(&'static str, PathBuf)> {
    let tools = TOOLS.map(|(name, path)| (name, PathBuf::from(path)));
    tools.into_iter().chain([("local", binary("local").unwrap())]).collect()
}

fn tool(name: &str) -> Command {
    Command::new(TOOLS.into_iter().find(|(tool, _)| *tool == name).unwrap().1)
}

/// Runs it to its end with its output in pipes.
fn piped(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text.contains('\u{1b}'), "an escape code in a pipe: {text}");
    text
}

#[test]
fn no_tool_is_forgotten_here() {
    let sources = std::fs::read_dir(workspace().join("tests/src/bin")).unwrap();
    let there: BTreeSet<String> = sources
        .map(|source| source.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, TOOLS.map(|(name, _)| name.to_owned()).into());
}

#[test]
fn help_tells_the_exit_codes() {
    for (name, path) in programs() {
        let output = piped(Command::new(&path).arg("--help"));
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), &*complained), (Some(0), ""), "{name} --help");
        assert!(said.contains(&format!("Usage: {name}")), "{name} --help says: {said}");
        let codes = said
            .lines()
            .find_map(|line| line.split_once("Exit codes: "))
            .unwrap_or_else(|| panic!("{name}: {said}"))
            .1;
        assert!(codes.starts_with("0 ") && codes.contains("2 wrong usage"), "{name}: {codes}");
        let version = piped(Command::new(&path).arg("--version"));
        assert_eq!(
            (version.status.code(), &*text(&version.stdout)),
            (Some(0), &*format!("{name} {}\n", env!("CARGO_PKG_VERSION")))
        );
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_is_wrong() {
    for (name, path) in programs() {
        let output = piped(Command::new(&path).arg("--no-such-option"));
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), &*said), (Some(2), ""), "{name}");
        assert!(
            complained.contains("--no-such-option") && complained.contains("Usage: "),
            "{name}: {complained}"
        );
    }
}

/// Nobody answers at the port that they are sent to, or what they need is not there: that is
/// another exit code than a verdict.
#[test]
fn what_could_not_run_exits_with_3_and_says_why() {
    let nobody = "http://127.0.0.1:1";
    for name in ["test-webhook-dlq", "test-webhook-dlq-simple", "test-webhook-failure"] {
        let output = piped(tool(name).args(["--api-url", nobody, "--receiver-url", nobody]));
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{name}: {said}");
        assert!(
            said.contains("stopped: ") && said.contains("http://127.0.0.1:1 ("),
            "{name}: {said}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name| {
        let mut command = tool(name);
        command.current_dir(folder.path());
        command
    };
    for (output, why) in [
        (piped(in_folder("load").args(["--api-url", nobody, "--webhooks", "1"])), "127.0.0.1:1"),
        (piped(in_folder("load").arg("--spawn=no-such-binary")), "no-such-binary"),
        (piped(in_folder("startup").args(["--binaries", "no-such-folder"])), "no-such-folder"),
        (
            piped(in_folder("webhook-receiver").args([
                "--port",
                "0",
                "--log-file",
                "no-such-folder/x",
            ])),
            "no-such-folder",
        ),
        (
            piped(
                Command::new(binary("local").unwrap())
                    .current_dir(folder.path())
                    .env("BATCH_SIZE", "many"),
            ),
            "BATCH_SIZE",
        ),
    ] {
        let complained = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{complained}");
        assert!(complained.contains(why), "{complained}");
    }
}
