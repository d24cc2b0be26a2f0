//! What a tool tells while it works, and its verdict.
//!
//! Lines for people go to standard output; with `--json` they go to standard error, and standard
//! output gets one JSON object at the end. How far long work has come is told on standard error
//! ([`Ticker`]).
//!
//! Exit codes are the same for all tools: 0 it is as it should be, 1 it is not, 2 wrong usage, 3
//! that could not be found out ([`COULD_NOT_RUN`]).

use std::{
    fmt::Display,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Serialize;

/// The exit code of a tool that has nothing to say about the system under test, because it could
/// not run.
pub const COULD_NOT_RUN: u8 = 3;

/// Between two lines of a [`Ticker`].
const TICK: Duration = Duration::from_secs(5);

/// Tells how far long work has come: a line on standard error every few seconds, until it is
/// dropped.
#[derive(Debug)]
pub struct Ticker {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Ticker {
    /// `tool: DONE of TOTAL WHAT`, where `done` is asked each time.
    pub fn start(
        tool: &'static str,
        what: &'static str,
        total: u64,
        done: impl Fn() -> u64 + Send + 'static,
    ) -> Self {
        Self::every(TICK, move || {
            shared::complain!("{tool}: {} of {total} {what}", done().min(total))
        })
    }

    fn every(interval: Duration, tell: impl Fn() + Send + 'static) -> Self {
        let (end, ended) = channel();
        let tick = move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                tell();
            }
        };
        // Without a thread the work is done all the same, in silence.
        let thread = std::thread::Builder::new().name("ticker".into()).spawn(tick).ok();
        Self { thread: thread.map(|thread| (end, thread)) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // So that no line of it comes behind the result.
            let _ = thread.join();
        }
    }
}

/// The checks of one run.
#[derive(Debug)]
pub struct Report {
    scenario: String,
    json: bool,
    started: Instant,
    checks: Vec<Check>,
}

/// One thing that was to be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was to be so.
    pub what: String,
    /// Whether it was.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

impl Report {
    /// A report on this scenario.
    pub fn new(scenario: impl Into<String>, json: bool) -> Self {
        Self { scenario: scenario.into(), json, started: Instant::now(), checks: Vec::new() }
    }

    /// Tells something.
    pub fn say(&self, text: impl Display) {
        let line = format!("[{:7.1}s] {text}", self.started.elapsed().as_secs_f64());
        if self.json { shared::complain!("{line}") } else { shared::say!("{line}") }
    }

    /// Notes whether something was as it had to be, and what was found.
    pub fn check(&mut self, what: impl Into<String>, ok: bool, found: impl Display) -> bool {
        let check = Check { what: what.into(), ok, found: found.to_string() };
        self.say(format_args!(
            "{} {}: {}",
            if ok { "ok   " } else { "WRONG" },
            check.what,
            check.found
        ));
        self.checks.push(check);
        ok
    }

    /// Notes whether something was equal to what it had to be.
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
            if ok { format!("{found:?}") } else { format!("{found:?} instead of {wanted:?}") },
        )
    }

    /// The checks so far.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether every check so far was ok, and there was one.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// Tells the verdict on a run; its error is why it could not go on to its end. A run that ended
    /// before it checked anything says nothing about the system: [`COULD_NOT_RUN`].
    pub fn finish(self, outcome: &Result<(), String>) -> ExitCode {
        let stopped = outcome.as_ref().err();
        let wrong: Vec<&Check> = self.checks.iter().filter(|check| !check.ok).collect();
        let passed = stopped.is_none() && self.passed();
        if passed {
            self.say(format_args!("PASSED {}: {} checks", self.scenario, self.checks.len()));
        } else {
            self.say(format_args!(
                "FAILED {}: {} of {} checks wrong",
                self.scenario,
                wrong.len(),
                self.checks.len()
            ));
            for check in &wrong {
                self.say(format_args!("  wrong: {}: {}", check.what, check.found));
            }
            if let Some(reason) = stopped {
                self.say(format_args!("  stopped: {reason}"));
            }
        }
        if self.json {
            let seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let verdict = serde_json::json!({ "scenario": self.scenario, "passed": passed,
                "seconds": seconds,
                                              "checks": self.checks, "stopped": stopped });
            shared::say!("{verdict:#}");
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
    fn a_ticker_tells_again_and_again_until_it_is_dropped() {
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
    fn a_run_passes_only_if_it_checked_something_and_nothing_was_wrong() {
        let mut report = Report::new("x", false);
        assert!(!report.passed());
        report.check_eq("one", &1, &1);
        assert!(report.passed());
        report.check_eq("two", &1, &2);
        assert!(!report.passed());
        assert_eq!(report.checks()[1].found, "1 instead of 2");
    }
}
