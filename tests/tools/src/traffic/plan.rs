//! The options of the traffic tool.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use crate::load::{
    LoadError,
    plan::{disk_folder, rate_up_to},
};

/// Measures traffic control against the targets of its design.
///
/// Starts the local stack on free ports and a new data folder, or several on a new Redis server.
/// Starts a receiver too, and sends webhooks to it through the API. Contacts no other machine.
/// Without a name, runs all measurements.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "traffic",
    version,
    after_help = "\
Exit codes: 0 all targets are met, 1 some are not, 2 invalid usage, 3 the measurement failed.\n\
Example: cargo run --release -p tools --bin traffic -- --redis limit"
)]
pub struct Plan {
    /// What to measure [default: all].
    #[arg(value_enum, value_name = "NAME")]
    pub names: Vec<Measurement>,
    /// The local stack to start.
    #[arg(long, value_name = "BINARY", default_value = "target/release/local")]
    pub spawn: PathBuf,
    /// Use a new Redis server for records and queues. Needs redis-server.
    #[arg(long)]
    pub redis: bool,
    /// throttled: webhooks, and how many of them the receiver takes a second. Repeatable.
    #[arg(long, value_name = "N@PER_SECOND", value_parser = parse_case,
        default_values = ["40@2", "1000@50"])]
    pub throttled: Vec<ThrottledCase>,
    /// Duration of isolation and applications (each half of a pair) and of limit.
    #[arg(long, default_value_t = 60, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// isolation, applications: pairs of runs, with and without the broken part.
    #[arg(long, default_value_t = 10, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub pairs: u32,
    /// isolation, applications: webhooks a second to the healthy part. The broken one gets six
    /// times as many.
    #[arg(long, default_value_t = 10.0, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub rate: f64,
    /// limit: the configured rate, in requests a second.
    #[arg(long, default_value_t = 10, value_name = "PER_SECOND",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub limit: u32,
    /// limit: processes that share the Redis server. The embedded backend has one.
    #[arg(long, default_value_t = 5, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=20))]
    pub processes: u32,
    /// How long to wait for arrivals after the expected time.
    #[arg(long, default_value_t = 120, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_seconds: u64,
    /// Create the data folders here [default: the build folder if it exists].
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Print the result as JSON. Progress goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// One of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// Webhooks to a receiver that takes so many a second and answers the rest with 429.
    Throttled,
    /// A healthy path beside a broken one on one host.
    Isolation,
    /// An application beside one whose 100 endpoints hang.
    Applications,
    /// A configured rate, with several processes.
    Limit,
}

/// The size of a throttled measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottledCase {
    /// Number of webhooks.
    pub webhooks: u32,
    /// How many the receiver takes a second.
    pub per_second: u32,
}

impl Plan {
    /// The measurements, in order.
    pub fn measurements(&self) -> Vec<Measurement> {
        let all = Measurement::value_variants();
        let chosen = |one: &&Measurement| self.names.is_empty() || self.names.contains(one);
        all.iter().filter(chosen).copied().collect()
    }

    /// The name of the backend.
    pub fn backend(&self) -> &'static str {
        if self.redis { "Redis" } else { "embedded" }
    }

    /// How long to wait for arrivals after the expected time.
    pub fn bound(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// The folder for data folders.
    pub(super) fn disk_folder(&self) -> Result<PathBuf, LoadError> {
        disk_folder(self.data_dir.as_deref())
    }

    /// Prints progress.
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        if self.json { shared::complain!("{text}") } else { shared::say!("{text}") }
    }
}

fn parse_case(text: &str) -> Result<ThrottledCase, String> {
    let number = |text: &str| text.parse().ok().filter(|number| (1..=100_000).contains(number));
    text.split_once('@')
        .and_then(|(webhooks, per_second)| {
            Some(ThrottledCase { webhooks: number(webhooks)?, per_second: number(per_second)? })
        })
        .ok_or_else(|| "must be two numbers from 1 to 100000, such as 40@2".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    rate_up_to(1_000.0, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, clap::Error> {
        Plan::try_parse_from([&["traffic"], args].concat())
    }

    #[test]
    fn without_a_name_everything_is_measured_at_the_sizes_of_the_design() {
        let all = plan(&[]).unwrap();
        assert_eq!(all.measurements(), Measurement::value_variants());
        let case = |webhooks, per_second| ThrottledCase { webhooks, per_second };
        assert_eq!(all.throttled, [case(40, 2), case(1000, 50)]);
        assert_eq!((all.seconds, all.pairs, all.limit, all.processes), (60, 10, 10, 5));
        let some = plan(&["limit", "throttled", "--throttled", "5@1"]).unwrap();
        assert_eq!(some.measurements(), [Measurement::Throttled, Measurement::Limit]);
        assert_eq!(some.throttled, [case(5, 1)]);
    }

    #[test]
    fn invalid_options_are_refused() {
        for args in [
            &["speed"][..],
            &["--throttled", "40"],
            &["--throttled", "0@2"],
            &["--throttled", "40@x"],
            &["--rate", "0"],
            &["--pairs", "0"],
            &["--processes", "21"],
        ] {
            assert!(plan(args).is_err(), "{args:?}");
        }
    }
}
