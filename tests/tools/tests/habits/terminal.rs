//! Colour: on a terminal, unless `NO_COLOR` is set. The terminal is a pseudo terminal.

use std::{
    io::{BufRead, BufReader},
    process::Command,
};

use harness::{
    binaries::binary,
    habits::{check_colour, on_a_terminal},
};

use crate::programs;

#[test]
fn usage_is_coloured_on_a_terminal_unless_told_otherwise() {
    for (name, path) in programs() {
        check_colour(name, &path);
    }
}

#[test]
fn the_log_is_coloured_on_a_terminal_unless_told_otherwise() {
    for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary("local").unwrap());
        command
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .current_dir(folder.path());
        // Private destinations are warned of at start.
        command.env("ALLOW_PRIVATE_DESTINATIONS", "true").env_remove("RUST_LOG");
        let (mut stack, terminal) = on_a_terminal(command, no_color);
        let mut lines = BufReader::new(terminal).lines().map_while(Result::ok);
        let warning = lines.find(|line| line.contains("WARN"));
        stack.kill().unwrap();
        stack.wait().unwrap();
        let warning = warning.expect("the stack warns of private destinations");
        assert_eq!(warning.contains('\u{1b}'), coloured, "with NO_COLOR={no_color:?}: {warning:?}");
    }
}
