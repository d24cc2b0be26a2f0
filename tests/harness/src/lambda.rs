//! A Lambda emulator on loopback. It runs the function binaries as processes, which use the Runtime
//! API. Callers use the Invoke API and function URLs.
//!
//! As on AWS, an instance processes one invocation at a time. If no instance is free, a new one is
//! started, up to a limit. An instance that exits during an invocation fails it, and the next
//! invocation gets a new instance.

mod url;

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path as Segments, State},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use shared::clock::{Clock, SystemClock};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::process::{ProcessError, free_ports};

/// The timeout of an invocation.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum size of a request and of a response on Lambda.
const MAX_BYTES: usize = 6 * 1024 * 1024;

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The binary.
    pub binary: PathBuf,
    /// Environment variables in addition to those of this process.
    pub environment: Vec<(String, String)>,
    /// The maximum number of instances.
    pub concurrency: usize,
}

/// A running emulator. Dropping it kills its instances.
#[derive(Debug)]
pub struct Lambda {
    address: SocketAddr,
    state: Arc<Functions>,
    server: JoinHandle<()>,
}

impl Lambda {
    /// Starts on a free port of 127.0.0.1. The functions log to `NAME.log` in this folder.
    pub async fn start(functions: Vec<Function>, logs: &Path) -> io::Result<Self> {
        let [port] = free_ports()?;
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], port)), functions, logs).await
    }

    /// Starts on this address.
    pub async fn start_at(
        address: SocketAddr,
        functions: Vec<Function>,
        logs: &Path,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut by_name = HashMap::new();
        for function in functions {
            let log = File::options()
                .create(true)
                .append(true)
                .open(logs.join(format!("{}.log", function.name)))?;
            by_name.insert(function.name, Arc::new(Running::new(function, address, log)));
        }
        let state = Arc::new(Functions(by_name));
        let router = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(invoke))
            .route("/lambda-url/{name}", any(url::call))
            .route("/lambda-url/{name}/", any(url::call))
            .route("/lambda-url/{name}/{*path}", any(url::call))
            .route("/runtime/{name}/{instance}/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/runtime/{name}/{instance}/2018-06-01/runtime/invocation/{id}/{outcome}",
                post(answer),
            )
            .route(
                "/runtime/{name}/{instance}/2018-06-01/runtime/init/error",
                post(async || StatusCode::ACCEPTED),
            )
            .layer(DefaultBodyLimit::max(MAX_BYTES))
            .with_state(Arc::clone(&state));
        let server = tokio::spawn(async move {
            // The server ends with its task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, state, server })
    }

    /// The endpoint, for `local --functions`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process IDs of the instances of this function.
    pub fn pids(&self, name: &str) -> Vec<u32> {
        self.state
            .get(name)
            .map(|function| {
                function.lock().instances.values().map(|instance| instance.pid).collect()
            })
            .unwrap_or_default()
    }

    /// Kills the instances of this function with SIGKILL. Returns their number.
    pub fn crash(&self, name: &str) -> usize {
        let pids = self.pids(name);
        for pid in &pids {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                // The process may have exited.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        pids.len()
    }

    /// The numbers of invocations and of failed invocations of this function.
    pub fn counts(&self, name: &str) -> (u64, u64) {
        let count = |function: &Arc<Running>| {
            (function.invoked.load(Ordering::SeqCst), function.failed.load(Ordering::SeqCst))
        };
        self.state.get(name).map(count).unwrap_or_default()
    }

    /// Invokes a function with an event, like the Invoke API. Returns the response or the error.
    pub async fn call(&self, name: &str, event: impl Into<Bytes>) -> Result<Bytes, ProcessError> {
        let function = self
            .state
            .get(name)
            .ok_or_else(|| ProcessError(format!("there is no function {name}")))?;
        function
            .invoke(event.into())
            .await
            .map_err(|error| ProcessError(String::from_utf8_lossy(&error).into_owned()))
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        self.server.abort();
        for function in self.state.0.values() {
            function.lock().is_over = true;
            function.stopping.notify_waiters();
        }
        for name in self.state.0.keys() {
            self.crash(name);
        }
    }
}

/// All functions, by name.
#[derive(Debug)]
struct Functions(HashMap<&'static str, Arc<Running>>);

impl Functions {
    fn get(&self, name: &str) -> Option<&Arc<Running>> {
        self.0.get(name)
    }
}

/// The result of an invocation for its caller: the response or the error.
type Outcome = Result<Bytes, Bytes>;

#[derive(Debug)]
struct Invocation {
    id: u64,
    event: Bytes,
    caller: oneshot::Sender<Outcome>,
}

/// A function and its instances.
#[derive(Debug)]
struct Running {
    function: Function,
    address: SocketAddr,
    log: File,
    table: Mutex<Table>,
    arrived: Notify,
    stopping: Notify,
    ids: AtomicU64,
    invoked: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    waiting: VecDeque<Invocation>,
    /// The invocations in progress, by instance.
    taken: HashMap<u64, Invocation>,
    instances: HashMap<u64, Instance>,
    is_over: bool,
}

#[derive(Debug)]
struct Instance {
    pid: u32,
    /// Whether it has polled for an invocation, so its initialization succeeded.
    has_polled: bool,
}

impl Running {
    fn new(function: Function, address: SocketAddr, log: File) -> Self {
        Self {
            function,
            address,
            log,
            table: Mutex::default(),
            arrived: Notify::new(),
            stopping: Notify::new(),
            ids: AtomicU64::new(1),
            invoked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Locks the table. The lock must not be held across an await.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn invoke(self: &Arc<Self>, event: Bytes) -> Outcome {
        self.invoked.fetch_add(1, Ordering::SeqCst);
        let (caller, outcome) = oneshot::channel();
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        self.lock().waiting.push_back(Invocation { id, event, caller });
        self.start_instances();
        self.arrived.notify_one();
        // The sender is dropped when the instance exits.
        let exited = || {
            Err(Bytes::from(
                json!({"errorType": "Runtime.ExitError", "errorMessage": "the process exited"})
                    .to_string(),
            ))
        };
        let outcome = tokio::time::timeout(TIMEOUT, outcome)
            .await
            .map_or_else(|_| exited(), |answer| answer.unwrap_or_else(|_| exited()));
        if outcome.is_err() {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }

    /// Starts an instance for each invocation, up to the limit.
    fn start_instances(self: &Arc<Self>) {
        let mut table = self.lock();
        while !table.is_over
            && table.instances.len()
                < self.function.concurrency.min(table.waiting.len() + table.taken.len())
        {
            let instance = self.ids.fetch_add(1, Ordering::SeqCst);
            match self.spawn(instance) {
                Ok(child) => {
                    table.instances.insert(
                        instance,
                        Instance { pid: child.id().unwrap_or_default(), has_polled: false },
                    );
                    tokio::spawn(Arc::clone(self).watch(instance, child));
                }
                Err(error) => {
                    shared::complain!("cannot start {}: {error}", self.function.binary.display());
                    table.waiting.clear();
                }
            }
        }
    }

    fn spawn(&self, instance: u64) -> io::Result<Child> {
        let Function { name, binary, environment, .. } = &self.function;
        Command::new(binary)
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env(
                "AWS_LAMBDA_RUNTIME_API",
                format!("http://{}/runtime/{name}/{instance}", self.address),
            )
            // Without this, tests would wait a second between attempts.
            .env("MIN_RETRY_DELAY_MS", "0")
            .envs(environment.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?)
            .kill_on_drop(true)
            .spawn()
    }

    /// Waits until the instance exits. Fails its invocation, or the next one if it exited before
    /// its first poll.
    async fn watch(self: Arc<Self>, instance: u64, mut child: Child) {
        tokio::select! {
            _ = child.wait() => {}
            () = self.stopping.notified() => return,
        }
        {
            let mut table = self.lock();
            let exited = table.instances.remove(&instance);
            table.taken.remove(&instance);
            if exited.is_some_and(|instance| !instance.has_polled) {
                table.waiting.pop_front();
            }
        }
        self.start_instances();
    }

    /// The next invocation for this instance. `None` if the instance has exited.
    async fn take(&self, instance: u64) -> Option<(u64, Bytes)> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut table = self.lock();
                let Some(known) = table.instances.get_mut(&instance) else {
                    // The notification was for another instance.
                    self.arrived.notify_one();
                    return None;
                };
                known.has_polled = true;
                if let Some(invocation) = table.waiting.pop_front() {
                    let found = (invocation.id, invocation.event.clone());
                    table.taken.insert(instance, invocation);
                    if !table.waiting.is_empty() {
                        self.arrived.notify_one();
                    }
                    return Some(found);
                }
            }
            arrived.await;
        }
    }

    fn finish(&self, instance: u64, id: u64, outcome: Outcome) {
        let mut table = self.lock();
        if table.taken.get(&instance).is_some_and(|invocation| invocation.id == id)
            && let Some(invocation) = table.taken.remove(&instance)
        {
            // The caller may have stopped waiting.
            let _ = invocation.caller.send(outcome);
        }
    }
}

/// The Invoke API.
async fn invoke(
    State(functions): State<Arc<Functions>>,
    Segments(name): Segments<String>,
    event: Bytes,
) -> Response {
    let Some(function) = functions.get(&name) else {
        let unknown = json!({"Type": "User", "Message": format!("Function not found: {name}")});
        return (StatusCode::NOT_FOUND, unknown.to_string()).into_response();
    };
    if function.lock().is_over {
        // The connection has outlived the emulator for a moment.
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match function.invoke(event).await {
        Ok(answer) => answer.into_response(),
        Err(error) => ([("x-amz-function-error", "Unhandled")], error).into_response(),
    }
}

async fn next(
    State(functions): State<Arc<Functions>>,
    Segments((name, instance)): Segments<(String, u64)>,
) -> Response {
    let Some(function) = functions.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let Some((id, event)) = function.take(instance).await else {
        return StatusCode::GONE.into_response();
    };
    let headers = [
        ("lambda-runtime-aws-request-id", id.to_string()),
        ("lambda-runtime-deadline-ms", SystemClock.now().plus(TIMEOUT).as_millis().to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:local:000000000000:function:{name}"),
        ),
        ("lambda-runtime-trace-id", format!("Root=1-00000000-{id:024x};Sampled=1")),
    ];
    (headers, event).into_response()
}

async fn answer(
    State(functions): State<Arc<Functions>>,
    Segments((name, instance, id, outcome)): Segments<(String, u64, u64, String)>,
    body: Bytes,
) -> StatusCode {
    let Some(function) = functions.get(&name) else { return StatusCode::NOT_FOUND };
    match outcome.as_str() {
        "response" => function.finish(instance, id, Ok(body)),
        "error" => function.finish(instance, id, Err(body)),
        _ => return StatusCode::NOT_FOUND,
    }
    StatusCode::ACCEPTED
}
