//! The terminal output of a tool: progress, checks, and the result.
//!
//! Text goes to standard output. With `--json`, it goes to standard error, and standard output gets
//! one JSON object at the end. The progress of long work goes to standard error ([`Ticker`]).
//!
//! All tools use the same exit codes: 0 passed, 1 failed, 2 invalid usage, 3 could not run
//! ([`COULD_NOT_RUN`]).

use std::{
    fmt::Display,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Serialize;

/// The exit code of a tool that could not run, and so has no result for the system under test.
pub const COULD_NOT_RUN: u8 = 3;

/// The pause between two lines of a [`Ticker`].
const TICK: Duration = Duration::from_secs(5);

/// Prints the progress of long work to standard error every few seconds, until it is dropped.
#[derive(Debug)]
pub struct Ticker {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Ticker {
    /// Prints `tool: DONE of TOTAL WHAT`. `done` returns the current count.
    pub fn start(
        tool: &'static str,
        what: &'static str,
        total: u64,
        done: impl Fn() -> u64 + Send + 'static,
    ) -> Self {
        Self::every(TICK, move || {
            shared::complain!("{tool}: {} of {total} {what}", done().min(total));
        })
    }

    fn every(interval: Duration, print: impl Fn() + Send + 'static) -> Self {
        let (end, ended) = channel();
        let tick = move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                print();
            }
        };
        // Without a thread, the work continues without progress lines.
        let thread = std::thread::Builder::new().name("ticker".into()).spawn(tick).ok();
        Self { thread: thread.map(|thread| (end, thread)) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // No progress line may follow the result.
            let _ = thread.join();
        }
    }
}

/// The checks of one run of a test tool.
#[derive(Debug)]
pub struct Checklist {
    scenario: String,
    json: bool,
    started: Instant,
    checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The expectation.
    pub what: String,
    /// Whether it was met.
    pub ok: bool,
    /// The observation.
    pub found: String,
}

impl Checklist {
    /// The checks of this scenario.
    pub fn new(scenario: impl Into<String>, json: bool) -> Self {
        Self { scenario: scenario.into(), json, started: Instant::now(), checks: Vec::new() }
    }

    /// Runs a test and prints its result. The error of the test is the reason why it stopped early.
    pub async fn run(
        scenario: impl Into<String>,
        json: bool,
        test: impl AsyncFnOnce(&mut Self) -> Result<(), String>,
    ) -> ExitCode {
        let mut report = Self::new(scenario, json);
        let outcome = test(&mut report).await;
        report.finish(&outcome)
    }

    /// Prints a line.
    pub fn say(&self, text: impl Display) {
        let line = format!("[{:7.1}s] {text}", self.started.elapsed().as_secs_f64());
        if self.json { shared::complain!("{line}") } else { shared::say!("{line}") }
    }

    /// Records a check and prints it.
    pub fn check(&mut self, what: impl Into<String>, ok: bool, found: impl Display) -> bool {
        let check = Check { what: what.into(), ok, found: found.to_string() };
        self.say(format_args!(
            "{} {}: {}",
            if ok { "ok   " } else { "FAIL " },
            check.what,
            check.found
        ));
        self.checks.push(check);
        ok
    }

    /// Records whether a value is the wanted one.
    pub fn check_eq<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        found: &T,
        wanted: &T,
    ) -> bool {
        let ok = found == wanted;
        self.check(
            what,
            ok,
            if ok { format!("{found:?}") } else { format!("{found:?}, expected {wanted:?}") },
        )
    }

    /// The checks so far.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether there was a check and all checks passed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// Prints the result of a run. The error of `outcome` is the reason why the run stopped early.
    /// A run that stopped before its first check returns [`COULD_NOT_RUN`].
    fn finish(self, outcome: &Result<(), String>) -> ExitCode {
        let stopped = outcome.as_ref().err();
        let wrong: Vec<&Check> = self.checks.iter().filter(|check| !check.ok).collect();
        let passed = stopped.is_none() && self.passed();
        if passed {
            self.say(format_args!("PASSED {}: {} checks", self.scenario, self.checks.len()));
        } else {
            self.say(format_args!(
                "FAILED {}: {} of {} checks failed",
                self.scenario,
                wrong.len(),
                self.checks.len()
            ));
            for check in &wrong {
                self.say(format_args!("  failed: {}: {}", check.what, check.found));
            }
            if let Some(reason) = stopped {
                self.say(format_args!("  stopped: {reason}"));
            }
        }
        if self.json {
            let seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let result = serde_json::json!({ "scenario": self.scenario, "passed": passed,
                "seconds": seconds,
                                              "checks": self.checks, "stopped": stopped });
            shared::say!("{result:#}");
        }
        if passed {
            ExitCode::SUCCESS
        } else if self.checks.is_empty() {
            ExitCode::from(COULD_NOT_RUN)
        } else {
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::TryRecvError;

    use super::*;

    #[test]
    fn a_ticker_prints_until_it_is_dropped() {
        let (told, heard) = channel();
        let ticker = Ticker::every(Duration::from_millis(1), move || told.send(()).unwrap());
        for _ in 0..3 {
            heard.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        drop(ticker);
        while heard.try_recv().is_ok() {}
        assert_eq!(heard.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_run_passes_only_if_it_has_checks_and_all_pass() {
        let mut report = Checklist::new("x", false);
        assert!(!report.passed());
        report.check_eq("one", &1, &1);
        assert!(report.passed());
        report.check_eq("two", &1, &2);
        assert!(!report.passed());
        assert_eq!(report.checks()[1].found, "1, expected 2");
    }
}
