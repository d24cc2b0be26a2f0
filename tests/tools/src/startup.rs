//! Measures the cold start of each function.
//!
//! - CPU time and duration from exec to the first call of the Runtime API, compared with a function
//!   that does nothing (`first_call`)
//! - CPU time of the first delivery over TLS, compared with later ones; the webhooks are in a new
//!   Redis server (`delivery`)
//! - sizes of the zips; medians and targets (`report`)

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

use self::report::Samples;
pub use self::report::{MAX_ZIP_BYTES, StartupReport};
use harness::progress::Ticker;

/// The functions to measure.
const FUNCTIONS: [&str; 4] = ["api", "deliver", "sweep", "dlq"];
/// The baseline.
const HELLO: &str = "hello-world";

/// The reason for a failed measurement.
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

/// Measures the cold start of each function, compared with a hello-world function.
///
/// Build the functions first:
///   cargo lambda build --release --x86-64 -p api -p deliver -p sweep -p dlq
///   cargo lambda build --release --x86-64 -p hello-world
/// Needs redis-server. Contacts no other machine.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "startup",
    version,
    after_help = "Exit codes: 0 all targets are met, 1 some are not, 2 invalid usage, 3 the \
        measurement failed."
)]
pub struct Options {
    /// Folder of the binaries NAME/bootstrap [default: `lambda` in cargo's build folder].
    #[arg(long, value_name = "FOLDER")]
    pub binaries: Option<PathBuf>,

    /// Number of starts of each function.
    #[arg(long, value_name = "N", default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// Number of processes that make three deliveries each.
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub processes: u32,

    /// Print JSON instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// Runs the measurement and prints progress to standard error.
pub async fn run(options: &Options) -> Result<StartupReport, StartupError> {
    let folder = options.binaries.clone().unwrap_or_else(default_folder);
    let binary = |name: &str| folder.join(name).join("bootstrap");
    for name in FUNCTIONS.into_iter().chain([HELLO]) {
        if !binary(name).is_file() {
            return Err(StartupError(format!(
                "{} does not exist; `startup --help` shows how to build it",
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
        // In turn, so that other load on the machine affects all functions alike.
        for samples in &mut samples {
            let start = first_call::measure(&binary(samples.name)).await?;
            samples.cpu_ms.push(start.cpu_ms);
            samples.wall_ms.push(start.wall_ms);
        }
        done.fetch_add(1, Relaxed);
    }
    drop(ticker);
    shared::complain!("startup: measuring deliveries by {} processes", options.processes);
    let deliveries =
        delivery::measure(&binary("api"), &binary("deliver"), options.processes).await?;
    Ok(StartupReport::of(samples, deliveries))
}

fn default_folder() -> PathBuf {
    // This runs from target/PROFILE.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("target")).join("lambda")
}

/// User and system time of all threads of a process, including terminated ones.
fn cpu_ms(pid: u32) -> Result<f64, StartupError> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).map_err(StartupError::new)?;
    let time: TimeSpec = clock_gettime(clock).map_err(StartupError::new)?;
    Ok(Duration::from(time).as_secs_f64() * 1000.0)
}
