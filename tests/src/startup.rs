//! What the start of each function costs: processor time and time from exec to its first call of the Runtime API, beside a function that
//! does nothing; processor time of the first delivery over TLS against the next ones; and the size of what is uploaded.
//!
//! | part | what it measures |
//! |---|---|
//! | `first_call` | from exec to the first `/next` |
//! | `delivery` | deliveries to an HTTPS receiver, by the binary itself, with webhooks in a Redis server of its own |
//! | here | sizes, medians, targets |

mod delivery;
mod first_call;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use miniz_oxide::deflate::compress_to_vec;
use nix::{
    sys::time::TimeSpec,
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// The functions, and what they are measured against.
const FUNCTIONS: [&str; 4] = ["api", "deliver", "sweep", "dlq"];
const HELLO: &str = "hello-world";

/// The start of a function may take this many times that of hello-world.
const MAX_RATIO: f64 = 2.0;

/// The first delivery may take so much more processor time than the second.
const MAX_FIRST_DELIVERY_MS: f64 = 5.0;

/// A function's zip at most.
const MAX_ZIP_BYTES: usize = 4 * 1024 * 1024;

/// How hard zips are packed.
const ZIP_LEVEL: u8 = 6;

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

/// Measures what the start of each function costs, beside a hello-world function that was built in the same way.
///
/// Build them first:
///   cargo lambda build --release --x86-64 -p api -p deliver -p sweep -p dlq
///   cargo lambda build --release --x86-64 -p hello-world
/// Nothing but this machine is contacted; redis-server must be installed. Exit codes: 0 all targets are met, 1 some are not, 2 it could
/// not be measured.
#[derive(Clone, Debug, Parser)]
#[command(name = "startup", version)]
pub struct Options {
    /// Where the binaries are, each as NAME/bootstrap [default: `lambda` in cargo's build folder].
    #[arg(long, value_name = "FOLDER")]
    pub binaries: Option<PathBuf>,

    /// Starts of each function.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// Processes that make deliveries, three each.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub processes: u32,
}

/// Measures, prints a table, and tells whether all targets are met.
pub async fn run(options: &Options) -> Result<bool, StartupError> {
    let folder = options.binaries.clone().unwrap_or_else(default_folder);
    let binary = |name: &str| folder.join(name).join("bootstrap");
    for name in FUNCTIONS.into_iter().chain([HELLO]) {
        if !binary(name).is_file() {
            return Err(StartupError(format!("there is no {}; `startup --help` says how to build it", binary(name).display())));
        }
    }
    let mut samples = vec![(Vec::new(), Vec::new()); FUNCTIONS.len() + 1];
    for _ in 0..options.runs {
        // In turn, so that what else the machine does falls on all of them alike.
        for (name, (cpu, wall)) in FUNCTIONS.into_iter().chain([HELLO]).zip(&mut samples) {
            let start = first_call::measure(&binary(name)).await?;
            cpu.push(start.cpu_ms);
            wall.push(start.wall_ms);
        }
    }
    let mut is_met = report_starts(&mut samples, &binary)?;
    let deliveries = delivery::measure(&binary("api"), &binary("deliver"), options.processes).await?;
    is_met &= report_deliveries(deliveries);
    Ok(is_met)
}

fn default_folder() -> PathBuf {
    // This runs from target/PROFILE.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("target")).join("lambda")
}

fn report_starts(samples: &mut [(Vec<f64>, Vec<f64>)], binary: &impl Fn(&str) -> PathBuf) -> Result<bool, StartupError> {
    let hello = samples.last_mut().map_or(0.0, |(cpu, _)| median(cpu));
    let mut is_met = true;
    println!("| function | CPU until its first call, median (p90) | against hello-world | time, median (p90) | binary | zip |");
    println!("|---|---|---|---|---|---|");
    for (name, (cpu, wall)) in FUNCTIONS.into_iter().chain([HELLO]).zip(samples) {
        let bytes = std::fs::read(binary(name))?;
        let zip = packed(&bytes);
        let ratio = median(cpu) / hello;
        is_met &= name == HELLO || (ratio <= MAX_RATIO && zip <= MAX_ZIP_BYTES);
        println!(
            "| {name} | {:.2} ms ({:.2}) | {ratio:.2} | {:.2} ms ({:.2}) | {:.2} MiB | {:.2} MiB |",
            median(cpu),
            p90(cpu),
            median(wall),
            p90(wall),
            mebibytes(bytes.len()),
            mebibytes(zip)
        );
    }
    println!("\nTargets: at most {MAX_RATIO} times hello-world, zips of at most {} MiB.\n", mebibytes(MAX_ZIP_BYTES));
    Ok(is_met)
}

fn report_deliveries(mut deliveries: [Vec<f64>; delivery::DELIVERIES]) -> bool {
    println!("| delivery over TLS by a process | CPU, median (p90) |\n|---|---|");
    let medians = deliveries.each_mut().map(|samples| (median(samples), p90(samples)));
    for (number, (median, p90)) in medians.iter().enumerate() {
        println!("| {} | {median:.2} ms ({p90:.2}) |", number + 1);
    }
    let more = medians[0].0 - medians[1].0;
    println!("\nThe first takes {more:.2} ms more than the second; target: at most {MAX_FIRST_DELIVERY_MS} ms.");
    more <= MAX_FIRST_DELIVERY_MS
}

/// The size of the zip that holds it: deflated at the usual level, and some 150 bytes for the names.
fn packed(bytes: &[u8]) -> usize {
    compress_to_vec(bytes, ZIP_LEVEL).len() + 150
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn median(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.5)
}

fn p90(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.9)
}

fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// User and system time of all threads of a process, also of those that have ended.
fn cpu_ms(pid: u32) -> Result<f64, StartupError> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).map_err(StartupError::new)?;
    let time: TimeSpec = clock_gettime(clock).map_err(StartupError::new)?;
    Ok(Duration::from(time).as_secs_f64() * 1000.0)
}
