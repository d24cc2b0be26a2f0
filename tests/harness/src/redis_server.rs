//! A Redis server as a child process on a free port, with its data in a temporary folder; or a
//! cluster of three.

mod behind;
mod cluster;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Cmd, FromRedisValue, InfoDict, cmd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::free_ports;

pub use behind::Behind;
pub use cluster::RedisCluster;

/// Time limit for its first response.
const READY_BOUND: Duration = Duration::from_secs(30);

/// The pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Number of ports to try. Another process may take a free port first.
const MAX_TRIES: usize = 5;

/// Why the server is not available.
#[derive(Debug, thiserror::Error)]
pub enum RedisServerError {
    /// redis-server is not installed.
    #[error("redis-server is not installed; install it with: apt-get install redis-server")]
    Missing,
    /// It exited or did not respond.
    #[error("redis-server did not start: {0}")]
    Start(String),
    /// A port, folder or process is not available.
    #[error("redis-server cannot be started")]
    System(#[from] io::Error),
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    /// The port for the cluster bus.
    bus_port: u16,
    arguments: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server that writes nothing to disk.
    pub fn start() -> Result<Self, RedisServerError> {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server that writes every change to disk before it responds, so that it survives a
    /// kill.
    pub fn durable() -> Result<Self, RedisServerError> {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server that also accepts TLS on the returned port, without client certificates. The
    /// files are PEM.
    pub fn tls(certificate: &Path, key: &Path) -> Result<(Self, u16), RedisServerError> {
        let [port] = free_ports()?;
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let server = Self::with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            &certificate,
        ])?;
        Ok((server, port))
    }

    /// Starts a replica and waits until it is in sync with the primary.
    pub fn replica_of(primary: &Self) -> Result<Self, RedisServerError> {
        let port = primary.port().to_string();
        let replica =
            Self::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port])?;
        let follows = replica
            .wait_until(|info| info.get::<String>("master_link_status").as_deref() == Some("up"));
        follows.map_err(RedisServerError::Start)?;
        Ok(replica)
    }

    /// Promotes a replica to a primary.
    pub fn promote(&self) -> Result<(), RedisServerError> {
        let promoted = self.command::<()>(0, cmd("REPLICAOF").arg("NO").arg("ONE"));
        promoted.map_err(RedisServerError::Start)?;
        self.wait_until(|info| info.get::<String>("role").as_deref() == Some("master"))
            .map_err(RedisServerError::Start)
    }

    /// Waits until `INFO replication` meets a condition.
    fn wait_until(&self, is_so: impl Fn(&InfoDict) -> bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let info: InfoDict = self.command(0, cmd("INFO").arg("replication"))?;
            if is_so(&info) {
                return Ok(());
            }
            if started.elapsed() > READY_BOUND {
                return Err(format!(
                    "its replication is not ready after {READY_BOUND:?}: {info:?}"
                ));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a command on a new connection.
    pub fn command<T: FromRedisValue>(&self, database: u32, command: &Cmd) -> Result<T, String> {
        let connection =
            redis::Client::open(self.url(database)).and_then(|client| client.get_connection());
        connection
            .and_then(|mut connection| command.query(&mut connection))
            .map_err(|error| error.to_string())
    }

    /// Starts a server with these arguments.
    pub fn with(arguments: &[&str]) -> Result<Self, RedisServerError> {
        let folder = TempDir::with_prefix("posthaste-redis-")?;
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut problem = String::new();
        for _ in 0..MAX_TRIES {
            let [port] = free_ports()?;
            let mut child = spawn(port, folder.path().into(), &arguments)?;
            match wait_until_ready(&mut child, port) {
                Ok(()) => return Ok(Self { child, port, bus_port: 0, arguments, folder }),
                Err(error) => problem = error,
            }
            end(&mut child);
        }
        Err(RedisServerError::Start(problem))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for the cluster bus.
    pub(crate) fn bus_port(&self) -> u16 {
        self.bus_port
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: u32) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pauses it with SIGSTOP: it keeps its connections and does not respond.
    pub fn pause(&self) -> Result<(), RedisServerError> {
        self.signal(Signal::STOP)
    }

    /// Resumes it after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), RedisServerError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), RedisServerError> {
        Ok(kill_process(Pid::from_child(&self.child), signal).map_err(io::Error::from)?)
    }

    /// Kills it with SIGKILL.
    pub fn crash(&mut self) {
        end(&mut self.child);
    }

    /// Restarts it on the same port and data.
    pub fn restart(&mut self) -> Result<(), RedisServerError> {
        self.child = spawn(self.port, self.folder.path().into(), &self.arguments)?;
        wait_until_ready(&mut self.child, self.port).map_err(RedisServerError::Start)
    }

    /// Kills it and restarts it.
    pub fn crash_and_restart(&mut self) -> Result<(), RedisServerError> {
        self.crash();
        self.restart()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn spawn(port: u16, folder: PathBuf, arguments: &[String]) -> Result<Child, RedisServerError> {
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--databases",
        "64",
        "--daemonize",
        "no",
    ]);
    command.args(arguments).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(
        |error| match error.kind() {
            ErrorKind::NotFound => RedisServerError::Missing,
            _ => error.into(),
        },
    )
}

fn end(child: &mut Child) {
    // Does nothing if the process has exited.
    let _ = child.kill();
    let _ = child.wait();
}

fn wait_until_ready(child: &mut Child, port: u16) -> Result<(), String> {
    let started = Instant::now();
    while started.elapsed() < READY_BOUND {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it exited with {status}"));
        }
        if answers(port).unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Err(format!("no response within {READY_BOUND:?}"))
}

fn answers(port: u16) -> io::Result<bool> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    connection.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG")
}
