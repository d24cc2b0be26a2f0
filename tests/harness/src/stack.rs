//! The local stack as a process of its own: started on free ports, ended by its process id, or
//! killed as a crash would.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{binaries::binary, process::ProcessError, secrecy};

/// How long it may take to become ready.
const READY_BOUND: Duration = Duration::from_secs(30);

/// How long it may take to end: an attempt's deadline and some.
const EXIT_BOUND: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// Lines of its log shown when it fails.
const SHOWN_LOG_LINES: usize = 15;

/// How to start a stack. Starting again with the same one goes on with the same data.
///
/// Dropping it searches every log in its folder for secrets ([`secrecy`]), and panics if one holds
/// any.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    /// Holds data and log; removed with it.
    folder: TempDir,
    settings: Vec<(String, String)>,
    /// Options of the command line that replace our own.
    options: Vec<(String, String)>,
    ready_bound: Duration,
}

impl Launch {
    /// This binary, with a data folder of its own below `parent`.
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

    /// The `local` binary of this build, with a data folder below the system's folder for temporary
    /// files.
    pub fn fresh() -> Result<Self, ProcessError> {
        Self::of(&binary("local")?, &std::env::temp_dir())
    }

    /// Sets an environment variable of the stack.
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.settings.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Gives an option of the stack's command line this value, instead of the usual one if it has
    /// one.
    #[must_use]
    pub fn instead(mut self, option: &str, value: &str) -> Self {
        self.options.push((option.to_owned(), value.to_owned()));
        self
    }

    /// Waits for it to become ready for so long; the usual bound is half a minute.
    #[must_use]
    pub fn ready_within(mut self, bound: Duration) -> Self {
        self.ready_bound = bound;
        self
    }

    /// What holds the data folder and the log; removed with this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the stack has written to standard output and error, over all starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// What its files take, in bytes.
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

    /// Starts it on free ports and waits until it answers.
    pub fn start(&self) -> Result<Stack, ProcessError> {
        let [api, metrics] = free_ports()?;
        let started = Instant::now();
        let mut stack = self.spawn(api, metrics)?;
        stack.ready_after = stack
            .wait_until_ready(started, self.ready_bound)
            .map_err(|reason| self.with_log(&reason))?;
        Ok(stack)
    }

    /// Starts it on these ports and waits until it has ended by itself.
    pub fn run_to_its_end(&self, api: u16, metrics: u16) -> Result<ExitStatus, ProcessError> {
        self.spawn(api, metrics)?
            .wait_for_end(Instant::now())
            .map_err(|reason| self.with_log(&reason))
    }

    fn spawn(&self, api: u16, metrics: u16) -> Result<Stack, ProcessError> {
        let log = self.log_file();
        let output =
            File::options().create(true).append(true).open(&log).map_err(ProcessError::at(&log))?;
        let errors = output.try_clone().map_err(ProcessError::at(&log))?;
        let mut command = Command::new(&self.binary);
        let usual = [
            ("--listen", format!("127.0.0.1:{api}")),
            ("--metrics-listen", format!("127.0.0.1:{metrics}")),
            ("--data-dir", self.data_dir().display().to_string()),
        ];
        for (option, value) in usual
            .iter()
            .filter(|(usual, _)| !self.options.iter().any(|(option, _)| option == usual))
        {
            command.arg(option).arg(value);
        }
        command.args(self.options.iter().flat_map(|(option, value)| [option, value]));
        // Tests have no second to wait between attempts; one that is about the floor sets it.
        command.env("MIN_RETRY_DELAY_MS", "0");
        command.envs(self.settings.iter().map(|(variable, value)| (variable, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| {
            ProcessError(format!(
                "cannot start {}: {error}; build it with: cargo build --release --bin local",
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
            ProcessError(format!("{reason}; its log ends:\n  {shown}"))
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        // A test that fails already says why.
        if std::thread::panicking() {
            return;
        }
        let leaks = secrecy::leaks(self.folder(), &self.settings);
        let shown: Vec<String> = leaks.iter().map(ToString::to_string).collect();
        assert!(leaks.is_empty(), "a log holds what must stand in none:\n{}", shown.join("\n"));
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
    /// Where its API is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    /// Where its metrics are.
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.metrics)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From its start until `GET /health` answered 200.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it as a crash would: no handler of it runs.
    pub fn crash(mut self) -> Result<(), ProcessError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|error| self.failed("kill", &error))?;
        Ok(())
    }

    /// Stops it without ending it: it keeps its connections and does nothing.
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP, "stop")
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT, "continue")
    }

    fn signal(&self, signal: Signal, what: &str) -> Result<(), ProcessError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| self.failed(what, &error))
    }

    /// Sends it SIGTERM and waits until it has ended: how long that took.
    pub fn stop(mut self) -> Result<Duration, ProcessError> {
        let started = Instant::now();
        self.signal(Signal::TERM, "send SIGTERM to")?;
        match self.wait_for_end(started)? {
            status if status.success() => Ok(started.elapsed()),
            status => Err(ProcessError(format!(
                "on SIGTERM the local stack ended with {status} instead of 0"
            ))),
        }
    }

    fn wait_for_end(&mut self, started: Instant) -> Result<ExitStatus, ProcessError> {
        while started.elapsed() < EXIT_BOUND {
            match self.ended()? {
                Some(status) => return Ok(status),
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
        Err(ProcessError(format!("the local stack did not end within {EXIT_BOUND:?}")))
    }

    fn wait_until_ready(
        &mut self,
        started: Instant,
        bound: Duration,
    ) -> Result<Duration, ProcessError> {
        while started.elapsed() < bound {
            if let Some(status) = self.ended()? {
                return Err(ProcessError(format!(
                    "the local stack ended at its start with {status}"
                )));
            }
            if self.is_healthy() {
                return Ok(started.elapsed());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(ProcessError(format!("GET /health did not answer 200 within {bound:?}")))
    }

    /// Whether `GET /health` answers 200. By hand, since a client library takes longer to set up
    /// than the stack to start.
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

    fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|error| self.failed("wait for", &error))
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) -> ProcessError {
        ProcessError(format!("cannot {what} process {}: {error}", self.pid()))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Does nothing if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two ports that were free a moment ago. Both are held until both are known, so they differ.
fn free_ports() -> Result<[u16; 2], ProcessError> {
    let port = || -> io::Result<(TcpListener, u16)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    };
    let none = |error| ProcessError(format!("no free port was found: {error}"));
    let (first, second) = (port().map_err(none)?, port().map_err(none)?);
    Ok([first.1, second.1])
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
    fn a_stack_that_is_not_there_says_how_to_build_it() {
        let error = start("/no/such/binary");
        assert!(error.contains("cargo build --release --bin local"), "{error}");
    }

    #[test]
    fn a_stack_that_ends_at_once_is_not_waited_for() {
        let started = Instant::now();
        let error = start("/bin/false");
        assert!(
            error.contains("ended at its start with exit status: 1")
                && started.elapsed() < READY_BOUND,
            "{error}"
        );
    }
}
