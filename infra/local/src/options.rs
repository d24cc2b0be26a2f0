//! The command line of `local`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use shared::config::DEFAULT_DATA_DIR;

use crate::functions::Endpoint;

/// Posthaste on one machine: the API, delivery, the sweep and the dead-letter queue in one process;
/// or, with `--functions`, only what calls them.
///
/// Settings are environment variables; the README lists them. Ends on Ctrl-C or SIGTERM: attempts
/// in flight are finished, and what is left goes on at the next start.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "local",
    version,
    after_help = "Exit codes: 0 ended as asked, 1 ended by a fault (the log or the message says \
        which), 2 wrong usage, 3 could not start (the message says why)."
)]
pub struct Options {
    /// Where the API listens. Anywhere but on loopback needs `API_KEYS`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Where the metrics are served besides the API's /metrics [default: 127.0.0.1 and
    /// `PROMETHEUS_PORT`, 8001].
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,

    /// The folder of the embedded store and queue [default: `DATA_DIR`, .posthaste].
    #[arg(long, value_name = "FOLDER", global = true)]
    pub data_dir: Option<PathBuf>,

    /// How often the sweep runs, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub sweep_interval_ms: u64,

    /// Call the functions at this endpoint, as `http://127.0.0.1:9000` of `cargo lambda watch`, and
    /// run none in this process.
    #[arg(long, value_name = "URL")]
    pub functions: Option<Endpoint>,

    /// Calls at a time of each function at that endpoint; as many as `cargo lambda watch
    /// --concurrency` was told.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_concurrency,
        requires = "functions")]
    pub function_concurrency: usize,

    /// Something else than to run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done with the embedded file beside running on it.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Copy the database to a file, also while a stack is running on it.
    Backup {
        /// The file to make, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
    },
    /// Make a backup the database of the data folder. Refused while a stack or functions run on it.
    Restore {
        /// The backup.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Put a database that is there aside, as posthaste.db.replaced.
        #[arg(long)]
        overwrite: bool,
    },
    /// Save what can be read of a damaged database. Refused while a stack or functions run on it.
    Recover {
        /// The file to make, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
    },
}

impl Command {
    /// As it stands on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Restore { .. } => "restore",
            Self::Recover { .. } => "recover",
        }
    }
}

impl Options {
    /// The data folder of a command. It reads no other setting: one that is wrong must not stop a
    /// backup.
    pub fn data_dir_of_command(&self) -> PathBuf {
        let from_env =
            || std::env::var_os("DATA_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        self.data_dir.clone().or_else(from_env).unwrap_or_else(|| DEFAULT_DATA_DIR.into())
    }
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=1000).contains(n))
        .ok_or_else(|| "must be a whole number from 1 to 1000".to_owned())
}
