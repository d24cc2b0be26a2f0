//! The checks that every command-line tool passes: `--help` lists the exit codes, usage errors exit
//! with 2, and only a terminal gets colors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Runs a command to its end with its output in pipes.
pub fn piped(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// The output of a pipe as text. Panics if it holds an escape code.
pub fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text.contains('\u{1b}'), "an escape code in a pipe: {text}");
    text
}

/// Starts a command with a pseudo terminal as its standard output and standard error. The file
/// reads what the command writes there.
pub fn on_a_terminal(mut command: Command, no_color: Option<&str>) -> (Child, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options()
        .read(true)
        .write(true)
        .custom_flags(OpenptFlags::NOCTTY.bits() as i32)
        .open(name)
        .unwrap();
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.envs(no_color.map(|value| ("NO_COLOR", value)));
    command.stdin(Stdio::null()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let child = command.spawn().unwrap();
    (child, controller.into())
}

/// Reads the rest of the output of a terminal. A read fails with EIO once the last writer has
/// closed it.
pub fn read_to_end(mut terminal: File) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match terminal.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `--help` lists the exit codes, and `--version` prints the name and the version.
pub fn check_help(name: &str, program: &Path) {
    let output = piped(Command::new(program).arg("--help"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{name} --help");
    assert!(stdout.contains(&format!("Usage: {name}")), "{name} --help prints: {stdout}");
    let codes = stdout
        .lines()
        .find_map(|line| line.split_once("Exit codes: "))
        .unwrap_or_else(|| panic!("{name}: {stdout}"))
        .1;
    assert!(codes.starts_with("0 ") && codes.contains("2 invalid usage"), "{name}: {codes}");
    let version = piped(Command::new(program).arg("--version"));
    assert_eq!(
        (version.status.code(), &*text(&version.stdout)),
        (Some(0), &*format!("{name} {}\n", env!("CARGO_PKG_VERSION")))
    );
}

/// An unknown option ends with exit code 2, and standard error names the option.
pub fn check_wrong_usage(name: &str, program: &Path) {
    let output = piped(Command::new(program).arg("--no-such-option"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), &*stdout), (Some(2), ""), "{name}");
    assert!(stderr.contains("--no-such-option") && stderr.contains("Usage: "), "{name}: {stderr}");
}

/// A usage error is colored on a terminal, unless `NO_COLOR` is set.
pub fn check_colour(name: &str, program: &Path) {
    for (no_color, coloured) in [(None, true), (Some("1"), false)] {
        let mut command = Command::new(program);
        command.arg("--no-such-option");
        let (mut child, terminal) = on_a_terminal(command, no_color);
        let shown = read_to_end(terminal);
        assert_eq!(child.wait().unwrap().code(), Some(2), "{name}: {shown}");
        assert_eq!(
            shown.contains('\u{1b}'),
            coloured,
            "{name} with NO_COLOR={no_color:?}: {shown:?}"
        );
    }
}
