//! The stack: its parts, how they start, and how they end.

use std::{
    error::Error,
    fmt::Write,
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
    banner, forward,
    functions::Functions,
    maintenance::{recover_command, restore_command},
    options::Options,
    serve::{Limits, serve},
    signals::Signals,
    triggers,
};

/// How often the counters are added to the store's totals.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Time to end beyond the deadline of an attempt in flight.
const END_MARGIN: Duration = Duration::from_secs(5);

/// Why the stack did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A backend or the sender cannot be set up, or another stack uses the data directory.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// What the last run left cannot be taken over.
    #[error(transparent)]
    TakeOver(#[from] RecoverInFlightError),
    /// The embedded file is damaged.
    #[error(transparent)]
    Damaged(Box<DamagedFile>),
    /// Nobody would be asked for a key.
    #[error("{option} {address} can be reached from other machines: {way_out}")]
    Exposed {
        /// The option that says so.
        option: &'static str,
        /// Where.
        address: SocketAddr,
        /// What to do about it.
        way_out: &'static str,
    },
    /// The address is taken, or is not this machine's.
    #[error("cannot listen on {address} ({option}): {reason}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The option that says so.
        option: &'static str,
        /// What to do about it.
        reason: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What is known of a damaged file, and the commands that go on from there.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database {} is damaged ({}). If you have a backup: {restore}\n  If not, save what can be \
     read and start with that: {recover} && {restore_recovered}",
    path.display(), found.join("; ")
)]
pub struct DamagedFile {
    /// The file.
    path: PathBuf,
    /// What SQLite's own check found.
    found: Vec<String>,
    /// The command that restores a backup.
    restore: String,
    /// The command that saves what can be read.
    recover: String,
    /// The command that puts this in place.
    restore_recovered: String,
    /// What failed at it.
    #[source]
    source: StartError,
}

impl StartError {
    /// The error and what is behind it, a line each.
    pub fn explain(&self) -> String {
        explain(self)
    }
}

/// The error and what is behind it, a line each.
pub(crate) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, "\n  because: {error}");
        source = error.source();
    }
    text
}

/// Says of an error that comes from a damaged file which pages are, and what to do next.
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
    /// Tells every part to end.
    stop: watch::Sender<bool>,
    parts: JoinSet<()>,
    /// Goes on until the parts have ended, since they hold messages and claims to the last.
    _heartbeat: JoinSet<()>,
    /// Where the API listens.
    pub address: SocketAddr,
    /// Holds the lock of the data directory.
    _backends: Backends,
}

impl Stack {
    /// Starts all parts. When it returns, the API answers.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let mut config = config_from_env(Defaults::LOCAL).await?;
        if let Some(data_dir) = &options.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        let access = access(&config, options.listen)?;
        let functions = options.functions.clone().map(Functions::new);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let damaged = |error: StartError| diagnosed(error, &config.data_dir);
        let mode = match &functions {
            None => DataDirMode::Exclusive,
            Some(_) => DataDirMode::Shared,
        };
        let backends =
            Backends::open(&config, &clock, mode).map_err(|error| damaged(error.into()))?;
        let api_listener = listen(options.listen, "--listen").await?;
        let metrics_listener = if config.prometheus {
            let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), config.prometheus_port);
            let (address, option) = (options.metrics_listen.unwrap_or(default), "--metrics-listen");
            // Its port asks nobody for a key, and names destinations.
            let way_out = "listen on 127.0.0.1, or scrape the API's /metrics with a key";
            on_loopback(address).ok_or(StartError::Exposed { option, address, way_out })?;
            Some(listen(address, option).await?)
        } else {
            None
        };
        let taken_over =
            backends.recover_in_flight(clock.now()).await.map_err(|error| damaged(error.into()))?;
        let mut heartbeat = JoinSet::new();
        heartbeat.spawn(backends.keep_alive());
        let context = Context::new(config, &backends, clock, FLUSH_INTERVAL)?;
        let sender = Arc::new(context.http_sender()?);

        let (stop, stopped) = watch::channel(false);
        let mut parts = JoinSet::new();
        let address = address_of(&api_listener, options.listen);
        let metrics_address =
            metrics_listener.as_ref().map(|listener| address_of(listener, options.listen));
        let router = match &functions {
            None => api::router(context.clone(), access),
            Some(functions) => forward::router(functions.clone(), access),
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
        triggers::start(&context, sender, options, functions.as_ref(), &stopped, &mut parts);
        let functions = functions.as_ref().map(Functions::endpoint);
        banner::print(&banner::Facts {
            config: &context.config,
            address,
            metrics_address,
            functions,
            taken_over,
        });
        Ok(Self { context, stop, parts, _heartbeat: heartbeat, address, _backends: backends })
    }

    /// Runs until Ctrl-C or SIGTERM, then ends: no more requests and no more messages are taken,
    /// attempts in flight are finished. A second signal ends it at once. Whether it ended because
    /// it was asked to: if a part ended by itself, which none should, a supervisor does better with
    /// a new process than with half a stack.
    pub async fn run_until_asked_to_end(mut self, mut signals: Signals) -> bool {
        tokio::select! {
            () = signals.asked_to_end() => {}
            Some(ended) = self.parts.join_next() => {
                tracing::error!(panicked = ended.is_err(),
                    "A part of the stack ended by itself; the stack ends too");
                return false;
            }
        }
        shared::complain!("Ending: attempts in flight are finished first. Again to end at once.");
        let limit = self.context.config.delivery_timeout + END_MARGIN;
        tokio::select! {
            ended = tokio::time::timeout(limit, self.end()) => {
                if ended.is_err() {
                    shared::complain!("Not everything ended within {} s. What is left goes on at \
                        the next start.", limit.as_secs());
                }
            }
            () = signals.asked_to_end() => shared::complain!("Ended at once. What was in flight \
                goes on at the next start."),
        }
        true
    }

    /// Ends every part, and tells the store what was counted.
    pub async fn end(mut self) {
        let _ = self.stop.send(true);
        while self.parts.join_next().await.is_some() {}
        if let Err(error) =
            self.context.metrics.flush(&*self.context.store, self.context.clock.now()).await
        {
            tracing::warn!(
                error = &error as &dyn Error,
                "The last counters could not be added to the store"
            );
        }
    }
}

/// Who may call: whoever has a key; without keys, whoever is on this machine, since nobody else
/// gets through.
fn access(config: &Config, listen: SocketAddr) -> Result<Access, StartError> {
    if !config.access.key_hashes.is_empty() {
        return Ok(Access::Keys(config.access.key_hashes.clone()));
    }
    let way_out = "set API_KEYS, or listen on 127.0.0.1";
    let exposed = StartError::Exposed { option: "--listen", address: listen, way_out };
    on_loopback(listen).ok_or(exposed).map(|()| Access::Loopback)
}

fn on_loopback(address: SocketAddr) -> Option<()> {
    address.ip().is_loopback().then_some(())
}

async fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| {
        let reason = match source.kind() {
            ErrorKind::AddrInUse => {
                "another process listens there; stop it, or choose another port"
            }
            ErrorKind::AddrNotAvailable => "this machine does not have that address",
            ErrorKind::PermissionDenied => "that needs more rights; choose a port above 1023",
            _ => "the system refuses",
        };
        StartError::Listen { address, option, reason, source }
    })
}

fn address_of(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
