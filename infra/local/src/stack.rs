//! The stack: its parts, how they start and how they stop.

use std::{
    error::Error,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::Access;
use shared::{
    clock::{Clock, SystemClock},
    config::{Config, Defaults},
    context::{
        Backends, Context, ContextError, DataDirMode, RecoverInFlightError, config_from_env,
    },
    sqlite::{DATABASE_FILE, diagnose, is_damage},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    banner,
    errors::explain,
    forward,
    functions::Functions,
    maintenance::{recover_command, restore_command},
    options::Options,
    serve::{Limits, serve},
    signals::Signals,
    triggers,
};

/// The options with an address, as errors name them.
const LISTEN: &str = "--listen";
const METRICS_LISTEN: &str = "--metrics-listen";

/// The interval at which counters are added to the store's totals.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The time to stop beyond the deadline of an attempt in flight.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(5);

/// Why the stack did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A backend or the sender cannot be created, or another stack uses the data directory.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The webhooks and messages in flight of the last run cannot be recovered.
    #[error(transparent)]
    RecoverInFlight(#[from] RecoverInFlightError),
    /// The embedded file is damaged.
    #[error(transparent)]
    Damaged(Box<DamagedFile>),
    /// Other machines could call without a key.
    #[error("{option} {address} is reachable from other machines: {way_out}")]
    Exposed {
        /// The option with the address.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What to do next.
        way_out: &'static str,
    },
    /// The address is in use or not available.
    #[error("cannot listen on {address} ({option}): {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option with the address.
        option: &'static str,
        /// The cause and what to do next.
        reason: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A damaged file, and the commands that repair it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database {} is damaged ({}). If you have a backup, restore it: {restore}\n  If not, save \
     the readable part and start with that: {recover} && {restore_recovered}",
    path.display(), found.join("; ")
)]
pub struct DamagedFile {
    /// The file.
    path: PathBuf,
    /// The findings of SQLite's integrity check.
    found: Vec<String>,
    /// The command that restores a backup.
    restore: String,
    /// The command that saves the readable part.
    recover: String,
    /// The command that restores that part.
    restore_recovered: String,
    /// The error of the failed operation.
    #[source]
    source: StartError,
}

impl StartError {
    /// The error and its causes, one per line.
    pub fn explain(&self) -> String {
        explain(self)
    }
}

/// Adds the damaged pages and the next steps to an error of a damaged file.
fn diagnosed(error: StartError, data_dir: &Path) -> StartError {
    if !is_damage(&error) {
        return error;
    }
    let path = data_dir.join(DATABASE_FILE);
    let (recover, recovered) = recover_command(data_dir);
    StartError::Damaged(Box::new(DamagedFile {
        found: diagnose(&path),
        restore: restore_command(data_dir, Path::new("BACKUP")),
        recover,
        restore_recovered: restore_command(data_dir, &recovered),
        path,
        source: error,
    }))
}

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    context: Context,
    /// Stops every part.
    stop: watch::Sender<bool>,
    parts: JoinSet<()>,
    /// Runs until the parts have stopped, because they hold messages and claims until then.
    _heartbeat: JoinSet<()>,
    /// The API's address.
    pub address: SocketAddr,
    /// Holds the lock of the data directory.
    _backends: Backends,
}

impl Stack {
    /// Starts all parts. When this returns, the API accepts requests.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let mut config = config_from_env(Defaults::LOCAL).await?;
        if let Some(data_dir) = &options.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        let access = access(&config, options.listen)?;
        let metrics_listen = metrics_address(&config, options)?;
        let api_listener = listen(options.listen, LISTEN).await?;
        let metrics_listener = match metrics_listen {
            Some(address) => Some(listen(address, METRICS_LISTEN).await?),
            None => None,
        };
        let functions = options.functions.clone().map(Functions::new);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let damaged = |error: StartError| diagnosed(error, &config.data_dir);
        let mode = match &functions {
            None => DataDirMode::Exclusive,
            Some(_) => DataDirMode::SharedByStack,
        };
        let backends =
            Backends::open(&config, &clock, mode).map_err(|error| damaged(error.into()))?;
        // `DataDirMode` makes this do nothing while functions in other processes may be working:
        // their leases and hidden messages must expire by themselves.
        let recovered =
            backends.recover_in_flight(clock.now()).await.map_err(|error| damaged(error.into()))?;
        let mut heartbeat = JoinSet::new();
        heartbeat.spawn(backends.keep_alive());
        let context = Context::new(config, &backends, clock, FLUSH_INTERVAL)?;

        let (stop, stopped) = watch::channel(false);
        let mut parts = JoinSet::new();
        let address = address_of(&api_listener, options.listen);
        let metrics_address =
            metrics_listener.as_ref().map(|listener| address_of(listener, options.listen));
        let router = match &functions {
            None => {
                let sender = Arc::new(context.http_sender()?);
                triggers::start_in_process(&context, sender, options, &stopped, &mut parts);
                api::router(context.clone(), access)
            }
            Some(functions) => {
                triggers::start_remote(&context, options, functions, &stopped, &mut parts);
                forward::router(functions.clone(), access)
            }
        };
        parts.spawn(serve(api_listener, router, Limits::default(), stopped.clone()));
        if let Some(listener) = metrics_listener {
            parts.spawn(serve(
                listener,
                api::metrics_router(context.clone()),
                Limits::for_metrics(),
                stopped.clone(),
            ));
        }
        let functions = functions.as_ref().map(Functions::endpoint);
        banner::print(&banner::Facts {
            config: &context.config,
            address,
            metrics_address,
            functions,
            recovered,
        });
        Ok(Self { context, stop, parts, _heartbeat: heartbeat, address, _backends: backends })
    }

    /// Runs until Ctrl-C or SIGTERM, then stops: the stack takes no further requests and messages
    /// and waits for attempts in flight. A second signal stops it at once. Returns false if a part
    /// stopped by itself, which is a bug: a supervisor should then start a new process.
    pub async fn run_until_signal(mut self, mut signals: Signals) -> bool {
        tokio::select! {
            () = signals.received() => {}
            Some(ended) = self.parts.join_next() => {
                tracing::error!(panicked = ended.is_err(),
                    "Stopping because a part of the stack stopped by itself");
                return false;
            }
        }
        shared::complain!(
            "Shutting down. Waiting for attempts in flight; press Ctrl-C again to stop now."
        );
        let timeout = self.context.config.delivery_timeout + SHUTDOWN_MARGIN;
        tokio::select! {
            stopped = tokio::time::timeout(timeout, self.stop()) => {
                if stopped.is_err() {
                    shared::complain!("Stopped after {} s, before all attempts ended. The next \
                        start continues with them.", timeout.as_secs());
                }
            }
            () = signals.received() => shared::complain!("Stopped. The next start continues with \
                the attempts that were in flight."),
        }
        true
    }

    /// Stops every part and adds the last counters to the store.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.parts.join_next().await.is_some() {}
        let (context, now) = (&self.context, self.context.clock.now());
        if let Err(error) = context.metrics.flush(&*context.store, now).await {
            let error = &error as &dyn Error;
            tracing::warn!(error, "Could not add the last counters to the store");
        }
    }
}

/// Access to the API: by key, or without keys from this machine only.
fn access(config: &Config, listen: SocketAddr) -> Result<Access, StartError> {
    if !config.access.key_hashes.is_empty() {
        return Ok(Access::Keys(config.access.key_hashes.clone()));
    }
    let way_out = "set API_KEYS, or listen on 127.0.0.1";
    let exposed = StartError::Exposed { option: LISTEN, address: listen, way_out };
    on_loopback(listen).ok_or(exposed).map(|()| Access::Loopback)
}

fn on_loopback(address: SocketAddr) -> Option<()> {
    address.ip().is_loopback().then_some(())
}

/// The address of the metrics, if they are on. It must be on loopback even if there are API keys.
fn metrics_address(config: &Config, options: &Options) -> Result<Option<SocketAddr>, StartError> {
    if !config.prometheus {
        return Ok(None);
    }
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), config.prometheus_port);
    let address = options.metrics_listen.unwrap_or(default);
    // The metrics name destinations, and their port requires no key.
    let way_out = "listen on 127.0.0.1, or scrape the API's /metrics with a key";
    let exposed = StartError::Exposed { option: METRICS_LISTEN, address, way_out };
    on_loopback(address).ok_or(exposed).map(|()| Some(address))
}

async fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| {
        let reason = match source.kind() {
            ErrorKind::AddrInUse => {
                "another process is listening there. Stop it, or choose another port"
            }
            ErrorKind::AddrNotAvailable => "this machine does not have that address",
            ErrorKind::PermissionDenied => "this needs more privileges. Choose a port above 1023",
            _ => "the system refused",
        };
        StartError::Listen { address, option, reason, source }
    })
}

fn address_of(listener: &TcpListener, requested: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(requested)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A stack that cannot listen, or must not, does not open its database.
    #[tokio::test]
    async fn the_ports_are_bound_before_the_database_is_opened() {
        let folder = std::env::temp_dir().join(format!("posthaste-ports-{}", std::process::id()));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (taken, free) = (taken.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
        let everywhere = "0.0.0.0:0".parse().unwrap();
        for (listen, metrics_listen) in
            [(taken, free), (free, taken), (everywhere, free), (free, everywhere)]
        {
            let options = Options {
                listen,
                metrics_listen: Some(metrics_listen),
                data_dir: Some(folder.clone()),
                ..Options::parse_from(["local"])
            };
            let error = Stack::start(&options).await.unwrap_err();
            let is_expected = match error {
                StartError::Listen { address, .. } => address == taken,
                StartError::Exposed { address, .. } => address == everywhere,
                _ => false,
            };
            assert!(is_expected, "{listen} {metrics_listen}: {error}");
            assert!(!folder.exists(), "{listen} {metrics_listen}: the folder was created");
        }
    }
}
