//! The command line of `local`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use shared::config::DEFAULT_DATA_DIR;

use crate::functions::Endpoint;

/// Runs Posthaste on one machine: the API, delivery, the sweep and the dead-letter queue in one
/// process. With `--functions`, runs only what invokes the functions.
///
/// Settings are environment variables. docs/settings.md lists them. Ctrl-C or SIGTERM stops the
/// stack: it waits for attempts in flight, and the next start continues with the rest.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "local",
    version,
    after_help = "Exit codes: 0 stopped by a signal, 1 stopped by a fault (see the log or the \
        message), 2 invalid usage, 3 could not start (see the message)."
)]
pub struct Options {
    /// Address of the API. An address other than loopback needs `API_KEYS`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Address of the metrics, besides the API's /metrics [default: 127.0.0.1 and
    /// `PROMETHEUS_PORT`, 8001].
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,

    /// Folder of the embedded store and queue [default: `DATA_DIR`, .posthaste].
    #[arg(long, value_name = "FOLDER", global = true)]
    pub data_dir: Option<PathBuf>,

    /// Interval of the sweep in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub sweep_interval_ms: u64,

    /// Invoke the functions at this endpoint instead of in this process, such as
    /// `http://127.0.0.1:9000` of `cargo lambda watch`.
    #[arg(long, value_name = "URL")]
    pub functions: Option<Endpoint>,

    /// Concurrent invocations of each function at that endpoint. Use the value of `cargo lambda
    /// watch --concurrency`.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_concurrency,
        requires = "functions")]
    pub function_concurrency: usize,

    /// Runs a command instead of a stack.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A command for the embedded file.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Copy the database to a file. A stack may be running on it.
    Backup {
        /// File to create. Only its owner can read it.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
    },
    /// Replace the database of the data folder with a backup. Fails while a stack or functions run
    /// on the folder.
    Restore {
        /// The backup.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Move an existing database to posthaste.db.replaced.
        #[arg(long)]
        overwrite: bool,
    },
    /// Save the readable part of a damaged database. Fails while a stack or functions run on the
    /// folder.
    Recover {
        /// File to create. Only its owner can read it.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
    },
}

impl Command {
    /// Its name on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Restore { .. } => "restore",
            Self::Recover { .. } => "recover",
        }
    }
}

impl Options {
    /// The data folder of a command. No other setting is read, because an invalid one must not
    /// prevent a backup.
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
