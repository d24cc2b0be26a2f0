//! The options of the load tool.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;

use super::LoadError;

/// Default number of webhooks of a throughput run.
pub(crate) const THROUGHPUT_WEBHOOKS: u32 = 10_000;

/// Default number of webhooks of a latency run.
const LATENCY_WEBHOOKS: u32 = 1_000;

/// Default rate of the latency run of --spawn.
const LATENCY_RATE: f64 = 50.0;

/// Measures the throughput, latency and resource use of a running system.
///
/// Without --rate, runs a closed loop over --connections and measures the time from the first POST
/// until the receiver has all webhooks. With --rate, runs an open loop at that rate and measures
/// the time from when each POST was due until its webhook arrived at the receiver. With --spawn,
/// starts the local stack on free ports and a new data folder, and runs both loops. Also prints the
/// ceiling (posting directly to the receiver) and the sync time of the disk.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "load",
    version,
    after_help = "\
Exit codes: 0 all webhooks were accepted and arrived, 1 some were not, 2 invalid usage, 3 the \
measurement failed.\n\
Example: cargo run --release -p tools --bin load -- --spawn"
)]
pub struct Plan {
    /// Base URL of the API (http only).
    #[arg(
        long,
        default_value = "http://127.0.0.1:8000",
        value_name = "URL",
        conflicts_with = "spawn"
    )]
    pub api_url: String,
    /// API key, if the API requires one.
    #[arg(long, value_name = "KEY", env = "POSTHASTE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Webhooks to send [default: 10000, with --rate 1000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub webhooks: Option<u32>,
    /// Connections to the API.
    #[arg(long, default_value_t = 32, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub connections: u16,
    /// Bytes of each payload (64 to 1048576).
    #[arg(long, default_value_t = 1_024, value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub payload_bytes: u32,
    /// Webhooks per second of an open loop. With --spawn, the rate of its second run [default
    /// there: 50].
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Webhooks of the second run of --spawn [default: 1000].
    #[arg(long, value_name = "N", requires = "spawn",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub latency_webhooks: Option<u32>,
    /// A running webhook-receiver to use instead of the built-in one. Throughput only.
    #[arg(long, value_name = "URL", conflicts_with_all = ["rate", "spawn"])]
    pub receiver_url: Option<String>,
    /// A folder on the disk that the system writes to, to measure its sync time. --spawn creates
    /// its data folder there.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Process ID of the system under test, to measure its CPU time and memory. Repeatable.
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    pub pid: Vec<u32>,
    /// Start this local stack, measure it, and stop it.
    #[arg(long, value_name = "BINARY", num_args = 0..=1, require_equals = true,
        default_missing_value = "target/release/local")]
    pub spawn: Option<PathBuf>,
    /// With --spawn: measure only how much a hanging destination that has half of the traffic
    /// delays the rest, with and without the circuit breaker. --rate is the total rate [default
    /// here: 100].
    #[arg(long, requires = "spawn", conflicts_with_all = ["webhooks", "latency_webhooks",
        "overload"])]
    pub fairness: bool,
    /// With --spawn: send ten times the capacity of the stack, and check that it sheds the excess
    /// and loses nothing.
    #[arg(long, requires = "spawn", conflicts_with_all = ["latency_webhooks", "rate"])]
    pub overload: bool,
    /// Measure messages to an application of this many endpoints against direct webhooks, with
    /// --webhooks deliveries each, in --rounds rounds.
    #[arg(long, value_name = "N", conflicts_with_all = ["fairness", "overload", "rate",
        "latency_webhooks", "receiver_url"],
        value_parser = clap::value_parser!(u16).range(1..=100))]
    pub endpoints: Option<u16>,
    /// Duration of each phase of --fairness, and of --overload.
    #[arg(long, default_value_t = 60, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// How often --fairness and --endpoints measure each case.
    #[arg(long, default_value_t = 3, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long to wait for arrivals after the last response.
    #[arg(long, default_value_t = 120, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_seconds: u64,
    /// Print the result as JSON. Progress goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// One run of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Run {
    /// A closed loop, as fast as the connections allow.
    Throughput {
        /// Number of webhooks.
        webhooks: u32,
    },
    /// An open loop at a fixed rate.
    Latency {
        /// Number of webhooks.
        webhooks: u32,
        /// Webhooks per second.
        rate: f64,
    },
}

impl Plan {
    /// The runs, in order.
    pub fn runs(&self) -> Vec<Run> {
        let throughput = Run::Throughput { webhooks: self.webhooks.unwrap_or(THROUGHPUT_WEBHOOKS) };
        if self.spawn.is_some() {
            let webhooks = self.latency_webhooks.unwrap_or(LATENCY_WEBHOOKS);
            return vec![
                throughput,
                Run::Latency { webhooks, rate: self.rate.unwrap_or(LATENCY_RATE) },
            ];
        }
        match self.rate {
            Some(rate) => {
                vec![Run::Latency { webhooks: self.webhooks.unwrap_or(LATENCY_WEBHOOKS), rate }]
            }
            None => vec![throughput],
        }
    }

    /// How long to wait for arrivals after the last response.
    pub fn arrival_bound(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// The folder for data folders and the disk measurement.
    pub fn disk_folder(&self) -> Result<PathBuf, LoadError> {
        disk_folder(self.data_dir.as_deref())
    }

    /// Prints progress.
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.json { shared::complain!("{text}") } else { shared::say!("{text}") }
    }
}

/// The folder that was chosen, else the build folder if it exists, else the system's temporary
/// folder, which may be in memory.
pub(crate) fn disk_folder(chosen: Option<&Path>) -> Result<PathBuf, LoadError> {
    if let Some(folder) = chosen {
        std::fs::create_dir_all(folder)
            .map_err(|source| LoadError::File { path: folder.to_owned(), source })?;
        return Ok(folder.to_owned());
    }
    let build = PathBuf::from("target");
    Ok(if build.is_dir() { build } else { std::env::temp_dir() })
}

fn parse_rate(text: &str) -> Result<f64, String> {
    rate_up_to(100_000.0, text)
}

/// A number of webhooks per second.
pub(crate) fn rate_up_to(most: f64, text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.1..=most).contains(rate))
        .ok_or_else(|| format!("must be a number from 0.1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, clap::Error> {
        Plan::try_parse_from([&["load"], args].concat())
    }

    #[test]
    fn a_rate_selects_a_latency_run_and_spawn_both() {
        assert_eq!(plan(&[]).unwrap().runs(), [Run::Throughput { webhooks: 10_000 }]);
        assert_eq!(
            plan(&["--rate", "50"]).unwrap().runs(),
            [Run::Latency { webhooks: 1_000, rate: 50.0 }]
        );
        let both = plan(&["--spawn", "--webhooks", "7", "--rate", "9"]).unwrap();
        assert_eq!(
            both.runs(),
            [Run::Throughput { webhooks: 7 }, Run::Latency { webhooks: 1_000, rate: 9.0 }]
        );
        assert_eq!(both.spawn, Some("target/release/local".into()));
    }

    #[test]
    fn conflicting_options_are_refused() {
        for args in [
            &["--spawn", "--pid", "1"][..],
            &["--spawn", "--api-url", "http://x"],
            &["--rate", "5", "--receiver-url", "http://x"],
            &["--rate", "0"],
            &["--latency-webhooks", "5"],
            &["--payload-bytes", "10"],
            &["--fairness"],
            &["--spawn", "--fairness", "--overload"],
            &["--spawn", "--overload", "--rate", "5"],
        ] {
            assert!(plan(args).is_err(), "{args:?}");
        }
    }
}
