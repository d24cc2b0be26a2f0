//! What the start of each function costs: processor time and time from exec to its first call of
//! the Runtime API, beside a function that does nothing; processor time of the first delivery over
//! TLS against the next ones; and the size of what is uploaded.
//!
//! | part | what it measures |
//! |---|---|
//! | `first_call` | from exec to the first `/next` |
//! | `delivery` | deliveries to an HTTPS receiver, by the binary itself, with webhooks in a Redis server of its own |
//! | `report` | sizes, medians, targets |

mod delivery;
mod first_call;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Parser;
use nix::{
    sys::time::TimeSpec,
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

pub use self::report::Report;
use self::report::Samples;
use harness::progress::Ticker;

/// The functions, and what they are measured against.
const FUNCTIONS: [&str; 4] = ["api", "deliver", "sweep", "dlq"];
const HELLO: &str = "hello-world";

/// What measuring failed with, in a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartupError(String);

impl StartupError {
    fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl From<io::Error> for StartupError {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

/// Measures what the start of each function costs, beside a hello-world function that was built in
/// the same way.
///
/// Build them first:
///   cargo lambda build --release --x86-64 -p api -p deliver -p sweep -p dlq
///   cargo lambda build --release --x86-64 -p hello-world
/// Nothing but this machine is contacted; redis-server must be installed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "startup",
    version,
    after_help = "Exit codes: 0 all targets are met, 1 some are not, 2 wrong usage, 3 it could not \
        be measured (the message says why)."
)]
pub struct Options {
    /// Where the binaries are, each as NAME/bootstrap [default: `lambda` in cargo's build folder].
    #[arg(long, value_name = "FOLDER")]
    pub binaries: Option<PathBuf>,

    /// Starts of each function.
    #[arg(long, value_name = "N", default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// Processes that make deliveries, three each.
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub processes: u32,

    /// Print JSON instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// Measures; tells on standard error how far it has come.
pub async fn run(options: &Options) -> Result<Report, StartupError> {
    let folder = options.binaries.clone().unwrap_or_else(default_folder);
    let binary = |name: &str| folder.join(name).join("bootstrap");
    for name in FUNCTIONS.into_iter().chain([HELLO]) {
        if !binary(name).is_file() {
            return Err(StartupError(format!(
                "there is no {}; `startup --help` says how to build it",
                binary(name).display()
            )));
        }
    }
    let mut samples = Vec::new();
    for name in FUNCTIONS.into_iter().chain([HELLO]) {
        samples.push(Samples {
            name,
            binary: std::fs::read(binary(name))?,
            cpu_ms: Vec::new(),
            wall_ms: Vec::new(),
        });
    }
    let done = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&done);
    let ticker =
        Ticker::start("startup", "starts of each function", options.runs.into(), move || {
            counted.load(Relaxed)
        });
    for _ in 0..options.runs {
        // In turn, so that what else the machine does falls on all of them alike.
        for samples in &mut samples {
            let start = first_call::measure(&binary(samples.name)).await?;
            samples.cpu_ms.push(start.cpu_ms);
            samples.wall_ms.push(start.wall_ms);
        }
        done.fetch_add(1, Relaxed);
    }
    drop(ticker);
    shared::complain!("startup: deliveries by {} processes", options.processes);
    let deliveries =
        delivery::measure(&binary("api"), &binary("deliver"), options.processes).await?;
    Ok(Report::of(samples, deliveries))
}

fn default_folder() -> PathBuf {
    // This runs from target/PROFILE.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("target")).join("lambda")
}

/// User and system time of all threads of a process, also of those that have ended.
fn cpu_ms(pid: u32) -> Result<f64, StartupError> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).map_err(StartupError::new)?;
    let time: TimeSpec = clock_gettime(clock).map_err(StartupError::new)?;
    Ok(Duration::from(time).as_secs_f64() * 1000.0)
}
