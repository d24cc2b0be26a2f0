//! The local stack as a process: started on free ports, and stopped with SIGTERM or SIGKILL.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    binaries::binary,
    process::{ProcessError, free_ports},
    secrecy,
};

/// The time limit until the stack is ready.
const READY_BOUND: Duration = Duration::from_secs(30);

/// The time limit until the stack has exited. It is longer than the deadline of an attempt.
const EXIT_BOUND: Duration = Duration::from_secs(60);

/// How often a stack is started on other ports, if another process takes one of them first.
const MAX_TRIES: usize = 3;

/// The end of the error of a stack whose port is taken.
const PORT_TAKEN: &str = "another process is listening there";

/// The pause between two checks.
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// The number of log lines that an error shows.
const SHOWN_LOG_LINES: usize = 15;

/// The settings of a stack. All stacks that it starts use the same data.
///
/// Dropping it searches the logs in its folder for secrets ([`secrecy`]), and panics if one
/// contains any.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    /// Contains data and log. It is removed on drop.
    folder: TempDir,
    settings: Vec<(String, String)>,
    /// Command-line options that replace the default ones.
    options: Vec<(String, String)>,
    ready_bound: Duration,
}

impl Launch {
    /// Starts this binary, with a new folder in `parent`.
    pub fn of(binary: &Path, parent: &Path) -> Result<Self, ProcessError> {
        let folder =
            TempDir::with_prefix_in("posthaste-", parent).map_err(ProcessError::at(parent))?;
        Ok(Self {
            binary: binary.to_owned(),
            folder,
            settings: Vec::new(),
            options: Vec::new(),
            ready_bound: READY_BOUND,
        })
    }

    /// Starts the `local` binary of this build, with a new folder in the system's temporary folder.
    pub fn fresh() -> Result<Self, ProcessError> {
        Self::of(&binary("local")?, &std::env::temp_dir())
    }

    /// Sets an environment variable of the stack.
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.settings.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Sets a command-line option of the stack. Replaces the default value.
    #[must_use]
    pub fn instead(mut self, option: &str, value: &str) -> Self {
        self.options.push((option.to_owned(), value.to_owned()));
        self
    }

    /// Sets the time limit until the stack is ready. The default is 30 s.
    #[must_use]
    pub fn ready_within(mut self, bound: Duration) -> Self {
        self.ready_bound = bound;
        self
    }

    /// The folder of data and log. It is removed on drop.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The standard output and standard error of all starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The size of the data directory in bytes.
    pub fn bytes_on_disk(&self) -> u64 {
        let entries = std::fs::read_dir(self.data_dir()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .map(|file| file.len())
            .sum()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("local.log")
    }

    /// Starts the stack on free ports and waits until it is ready.
    pub fn start(&self) -> Result<Stack, ProcessError> {
        for _ in 1..MAX_TRIES {
            let logged = self.log().len();
            let result = self.try_to_start();
            let is_taken =
                |log: String| log.get(logged..).is_some_and(|log| log.contains(PORT_TAKEN));
            if result.is_ok() || !is_taken(self.log()) {
                return result;
            }
        }
        self.try_to_start()
    }

    fn try_to_start(&self) -> Result<Stack, ProcessError> {
        let [api, metrics] = free_ports()
            .map_err(|error| ProcessError(format!("no free port was found: {error}")))?;
        let started = Instant::now();
        let mut stack = self.spawn(api, metrics)?;
        stack.ready_after = stack
            .wait_until_ready(started, self.ready_bound)
            .map_err(|reason| self.with_log(&reason))?;
        Ok(stack)
    }

    /// Starts the stack on these ports and waits until it exits by itself.
    pub fn run_to_its_end(&self, api: u16, metrics: u16) -> Result<ExitStatus, ProcessError> {
        self.spawn(api, metrics)?
            .wait_for_exit(Instant::now())
            .map_err(|reason| self.with_log(&reason))
    }

    fn spawn(&self, api: u16, metrics: u16) -> Result<Stack, ProcessError> {
        let log = self.log_file();
        let output =
            File::options().create(true).append(true).open(&log).map_err(ProcessError::at(&log))?;
        let errors = output.try_clone().map_err(ProcessError::at(&log))?;
        let mut command = Command::new(&self.binary);
        let defaults = [
            ("--listen", format!("127.0.0.1:{api}")),
            ("--metrics-listen", format!("127.0.0.1:{metrics}")),
            ("--data-dir", self.data_dir().display().to_string()),
        ];
        for (option, value) in defaults
            .iter()
            .filter(|(default, _)| !self.options.iter().any(|(option, _)| option == default))
        {
            command.arg(option).arg(value);
        }
        command.args(self.options.iter().flat_map(|(option, value)| [option, value]));
        // Without this, tests would wait a second between attempts. The tests of this minimum set
        // it.
        command.env("MIN_RETRY_DELAY_MS", "0");
        command.envs(self.settings.iter().map(|(variable, value)| (variable, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| {
            ProcessError(format!(
                "cannot start {}: {error}; build it with: cargo build --release -p local",
                self.binary.display()
            ))
        })?;
        Ok(Stack { child, api, metrics, ready_after: Duration::ZERO })
    }

    fn with_log(&self, reason: &ProcessError) -> ProcessError {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n  ");
        if shown.is_empty() {
            ProcessError(reason.to_string())
        } else {
            ProcessError(format!("{reason}. The end of its log:\n  {shown}"))
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        // A failing test has its own message.
        if std::thread::panicking() {
            return;
        }
        let leaks = secrecy::leaks(self.folder(), &self.settings);
        let shown: Vec<String> = leaks.iter().map(ToString::to_string).collect();
        assert!(leaks.is_empty(), "a log contains secrets:\n{}", shown.join("\n"));
    }
}

/// A running stack. Dropping it kills it.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    api: u16,
    metrics: u16,
    ready_after: Duration,
}

impl Stack {
    /// The URL of its API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    /// The URL of its metrics.
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.metrics)
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The time from its start until `GET /health` returned 200.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it with SIGKILL.
    pub fn crash(mut self) -> Result<(), ProcessError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|error| self.failed("kill", &error))?;
        Ok(())
    }

    /// Pauses it with SIGSTOP: it keeps its connections and does not respond.
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP, "pause")
    }

    /// Resumes it after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT, "resume")
    }

    fn signal(&self, signal: Signal, what: &str) -> Result<(), ProcessError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| self.failed(what, &error))
    }

    /// Sends SIGTERM and waits until it has exited. Returns the duration.
    pub fn stop(mut self) -> Result<Duration, ProcessError> {
        let started = Instant::now();
        self.signal(Signal::TERM, "send SIGTERM to")?;
        match self.wait_for_exit(started)? {
            status if status.success() => Ok(started.elapsed()),
            status => Err(ProcessError(format!(
                "after SIGTERM the local stack exited with {status} instead of 0"
            ))),
        }
    }

    fn wait_for_exit(&mut self, started: Instant) -> Result<ExitStatus, ProcessError> {
        while started.elapsed() < EXIT_BOUND {
            match self.exit_status()? {
                Some(status) => return Ok(status),
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
        Err(ProcessError(format!("the local stack did not exit within {EXIT_BOUND:?}")))
    }

    fn wait_until_ready(
        &mut self,
        started: Instant,
        bound: Duration,
    ) -> Result<Duration, ProcessError> {
        while started.elapsed() < bound {
            if let Some(status) = self.exit_status()? {
                return Err(ProcessError(format!(
                    "the local stack exited during its start with {status}"
                )));
            }
            if self.is_healthy() {
                return Ok(started.elapsed());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(ProcessError(format!("GET /health did not return 200 within {bound:?}")))
    }

    /// Whether `GET /health` returns 200. The setup of a client library would take longer than the
    /// start of the stack.
    fn is_healthy(&self) -> bool {
        let ask = || -> io::Result<bool> {
            let mut connection = TcpStream::connect(("127.0.0.1", self.api))?;
            connection.set_read_timeout(Some(READY_BOUND))?;
            connection.write_all(
                b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            )?;
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer)?;
            Ok(answer.starts_with(b"HTTP/1.1 200 "))
        };
        ask().unwrap_or(false)
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|error| self.failed("wait for", &error))
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) -> ProcessError {
        ProcessError(format!("cannot {what} process {}: {error}", self.pid()))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Does nothing if the process has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(binary: &str) -> String {
        Launch::of(Path::new(binary), &std::env::temp_dir())
            .unwrap()
            .start()
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_missing_binary_is_reported_with_the_command_that_builds_it() {
        let error = start("/no/such/binary");
        assert!(error.contains("cargo build --release -p local"), "{error}");
    }

    #[test]
    fn a_stack_that_exits_at_once_is_reported_at_once() {
        let started = Instant::now();
        let error = start("/bin/false");
        assert!(
            error.contains("exited during its start with exit status: 1")
                && started.elapsed() < READY_BOUND,
            "{error}"
        );
    }
}
