//! Colour: on a terminal, unless `NO_COLOR` is set. The terminal is a real one, opened by Python's
//! `pty`.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use posthaste_tests::binaries::binary;

use crate::programs;

/// Runs its arguments on a terminal of their own and copies what they write to standard output.
const ON_A_TERMINAL: &str =
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

fn on_a_terminal(program: &Path, no_color: Option<&str>) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-c", ON_A_TERMINAL])
        .arg(program)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command.envs(no_color.map(|value| ("NO_COLOR", value)));
    command
}

#[test]
fn usage_is_coloured_on_a_terminal_unless_told_otherwise() {
    for (name, path) in programs() {
        for (no_color, coloured) in [(None, true), (Some("1"), false)] {
            let output = on_a_terminal(&path, no_color)
                .arg("--no-such-option")
                .output()
                .expect("this test needs python3");
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(2), "{name}: {said}");
            assert_eq!(
                said.contains('\u{1b}'),
                coloured,
                "{name} with NO_COLOR={no_color:?}: {said:?}"
            );
        }
    }
}

#[test]
fn the_log_is_coloured_on_a_terminal_unless_told_otherwise() {
    for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = on_a_terminal(&binary("local").unwrap(), no_color);
        command
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .current_dir(folder.path());
        // Private destinations are warned of at start.
        command.env("ALLOW_PRIVATE_DESTINATIONS", "true").env_remove("RUST_LOG");
        let mut terminal = command.stdout(Stdio::piped()).spawn().expect("this test needs python3");
        let mut said =
            BufReader::new(terminal.stdout.take().unwrap()).lines().map_while(Result::ok);
        let warning = said.find(|line| line.contains("WARN"));
        // With the terminal the stack on it ends too.
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let warning = warning.expect("the stack warns of private destinations");
        assert_eq!(warning.contains('\u{1b}'), coloured, "with NO_COLOR={no_color:?}: {warning:?}");
    }
}
