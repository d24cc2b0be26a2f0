//! The command line of `local`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;

/// Posthaste on one machine: the API, delivery, the sweep and the dead-letter queue in one process.
///
/// Settings are environment variables; the README lists them. Ends on Ctrl-C or SIGTERM: attempts in flight are finished, and what is
/// left goes on at the next start. Exit codes: 0 ended as asked, 1 could not start, 2 wrong usage.
#[derive(Clone, Debug, Parser)]
#[command(name = "local", version)]
pub struct Options {
    /// Where the API listens. Anywhere but on loopback needs `API_KEYS`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Where the metrics are served besides the API's /metrics [default: 127.0.0.1 and `PROMETHEUS_PORT`, 8001].
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,

    /// The folder of the embedded store and queue [default: `DATA_DIR`, .posthaste].
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// How often the sweep runs, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub sweep_interval_ms: u64,
}
