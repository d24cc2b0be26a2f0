//! A shell, and the two programs that the documents start: the local stack and the receiver.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use harness::{binaries::binary, process::free_ports as find_free_ports};

/// The longest wait for a command's output. Retries wait for seconds.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Printed after each command, to mark the end of its output.
const DONE: &str = "__this is done__";

/// A shell that keeps its variables from block to block, as a reader's terminal does.
pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut command = Command::new("bash");
        command
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // The stack is on loopback, whatever proxy this machine has set. A pipe needs no progress
        // meter.
        fs::write(folder.join(".curlrc"), "silent\nshow-error\nnoproxy = \"*\"\n").unwrap();
        command.env("CURL_HOME", folder);
        let mut child = command.spawn().expect("the tour needs bash");
        let (input, output) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (heard, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| heard.send(line))
        });
        Self { child, input, lines }
    }

    /// Runs the text and returns its output.
    pub(crate) fn run(&mut self, text: &str) -> String {
        writeln!(self.input, "{text}\necho; echo '{DONE}'").unwrap();
        let mut output = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(BOUND)
                .unwrap_or_else(|error| panic!("{error} after {output:?} of:\n{text}"))
            {
                line if line == DONE => return output.join("\n"),
                line => output.push(line),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stack or the receiver. Dropping it ends the process.
pub(crate) struct Started(Child);

impl Started {
    pub(crate) fn start(
        name: &str,
        [api, metrics, receiver]: &[String; 3],
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut command = match name {
            "local" => Command::new(binary("local").unwrap()),
            _ => Command::new(binary("webhook-receiver").unwrap()),
        };
        match name {
            "local" => command.args([
                "--listen",
                &format!("127.0.0.1:{api}"),
                "--metrics-listen",
                &format!("127.0.0.1:{metrics}"),
            ]),
            _ => command.args(["--port", receiver]),
        };
        let log = File::create(folder.join(format!("{name}.log"))).unwrap();
        // The shell's directory holds no data.
        command.current_dir(folder).envs(settings.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Free ports.
pub(crate) fn free_ports() -> [String; 3] {
    find_free_ports().unwrap().map(|port: u16| port.to_string())
}
