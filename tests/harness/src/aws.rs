//! The AWS emulator that `tests/aws-stack` starts on loopback, alone or with the deployed
//! `infra/template.yaml`.
//!
//! The script stops the emulator when its standard input closes. So the emulator stops with the
//! process that started it, even after a crash.

mod parts;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};

pub use parts::QueueUrls;

use crate::{
    client::{ApiClient, ClientError, http_client_with},
    secrecy::{self, Leak},
};

/// The time limit for the script to stop the emulator.
const STOP_BOUND: Duration = Duration::from_secs(20);

/// The pause between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The number of lines of the emulator's log that an error shows. The log includes the output of
/// the functions.
const SHOWN_LOG_LINES: usize = 60;

/// Why the emulator is not available, or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// The script failed.
    #[error("tests/aws-stack {command}: {output}")]
    Script {
        /// The command of the script.
        command: String,
        /// Its standard error.
        output: String,
    },
    /// The script cannot be run, or a process cannot be inspected.
    #[error("{what}")]
    System {
        /// The operation.
        what: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A call returned an error.
    #[error("{call} returned {status}: {body}")]
    Refused {
        /// The call.
        call: String,
        /// The status code.
        status: u16,
        /// The body.
        body: String,
    },
    /// A call got no response.
    #[error("{0} got no response")]
    NoResponse(String, #[source] reqwest::Error),
    /// The client cannot be created.
    #[error(transparent)]
    Client(#[from] ClientError),
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> AwsError {
    let what = what.into();
    move |source| AwsError::System { what, source }
}

/// The description of the emulator that the script prints.
#[derive(Clone, Debug, Deserialize)]
struct Started {
    endpoint: String,
    region: String,
    pid: u32,
    log: PathBuf,
    #[serde(default)]
    api_url: String,
    #[serde(default)]
    api_key: String,
    #[serde(default)]
    signing_secret: String,
    #[serde(default)]
    outputs: BTreeMap<String, String>,
    #[serde(default)]
    zip_bytes: BTreeMap<String, u64>,
}

/// A running emulator, with its deployment. Dropping it stops it and all function processes.
#[derive(Debug)]
pub struct AwsStack {
    script: Child,
    started: Started,
    http: reqwest::Client,
}

impl AwsStack {
    /// Starts the emulator alone.
    pub fn emulator() -> Result<Self, AwsError> {
        Self::start(&["emulator"])
    }

    /// Starts the emulator and deploys the template with these parameters. The release build of the
    /// functions takes minutes the first time.
    pub fn deployed(parameters: &[(&str, &str)]) -> Result<Self, AwsError> {
        Self::deploy(parameters, &[])
    }

    /// Like [`deployed`](Self::deployed). The functions call AWS at this endpoint, which forwards
    /// their requests.
    pub fn deployed_behind(
        functions_endpoint: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Self, AwsError> {
        Self::deploy(parameters, &["--functions-endpoint", functions_endpoint])
    }

    fn deploy(parameters: &[(&str, &str)], options: &[&str]) -> Result<Self, AwsError> {
        let settings: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments = vec!["up"];
        arguments.extend(options);
        for setting in &settings {
            arguments.extend(["--set", setting]);
        }
        Self::start(&arguments)
    }

    fn start(arguments: &[&str]) -> Result<Self, AwsError> {
        let errors = tempfile::tempfile().map_err(system("cannot make a temporary file"))?;
        let mut stderr = errors.try_clone().map_err(system("cannot share a temporary file"))?;
        let mut script = Command::new(script())
            .args(arguments)
            .arg("--attached")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(system(format!("cannot start {}; it needs python3", script().display())))?;
        let mut line = String::new();
        if let Some(output) = script.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(system("cannot read the output of tests/aws-stack"))?;
        }
        if let Ok(started) = serde_json::from_str(&line) {
            return Ok(Self { script, started, http: http_client_with(0)? });
        }
        drop(script.stdin.take());
        let _ = script.wait();
        let mut output = String::new();
        let read = stderr.seek(SeekFrom::Start(0)).and_then(|_| stderr.read_to_string(&mut output));
        read.map_err(system("cannot read the errors of tests/aws-stack"))?;
        Err(AwsError::Script { command: arguments.join(" "), output })
    }

    /// The URL of the emulator.
    pub fn endpoint(&self) -> &str {
        &self.started.endpoint
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.started.region
    }

    /// An output of the deployed template. Empty if there is no such output.
    pub fn output(&self, name: &str) -> &str {
        self.started.outputs.get(name).map_or("", String::as_str)
    }

    /// A client of the deployed API with its key. It uses the public URL.
    pub fn client(&self) -> Result<ApiClient, AwsError> {
        Ok(ApiClient::new(&self.started.api_url, Some(&self.started.api_key))?)
    }

    /// A client of the deployed API with another key, or without a key.
    pub fn client_with(&self, key: Option<&str>) -> Result<ApiClient, AwsError> {
        Ok(ApiClient::new(&self.started.api_url, key)?)
    }

    /// The API key.
    pub fn api_key(&self) -> &str {
        &self.started.api_key
    }

    /// The secret that signs webhooks.
    pub fn signing_secret(&self) -> &str {
        &self.started.signing_secret
    }

    /// The size of each function's zip file.
    pub fn zip_bytes(&self) -> &BTreeMap<String, u64> {
        &self.started.zip_bytes
    }

    /// Makes a call of a JSON protocol as the root user: `AmazonSQS.SendMessage`,
    /// `DynamoDB_20120810.Scan`, …
    pub async fn call(&self, target: &str, body: Value) -> Result<Value, AwsError> {
        let service = match target.split('.').next().unwrap_or_default() {
            "AmazonSQS" => "sqs",
            "DynamoDB_20120810" => "dynamodb",
            "Logs_20140328" => "logs",
            "GraniteServiceVersion20100801" => "monitoring",
            other => other,
        };
        let request = self.http.post(self.endpoint()).header("x-amz-target", target);
        let request =
            request.header("content-type", "application/x-amz-json-1.0").body(body.to_string());
        self.answer(target, request.header("authorization", self.root(service))).await
    }

    /// Makes a call of Lambda's REST API. The path has no version prefix.
    pub async fn lambda(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, AwsError> {
        self.rest("lambda", method, &format!("2015-03-31/{path}"), body).await
    }

    /// Makes a call of a service's REST API as the root user.
    pub async fn rest(
        &self,
        service: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, AwsError> {
        let call = format!("{method} {path}");
        let url = format!("{}/{path}", self.endpoint());
        let request = self.http.request(method, url).header("authorization", self.root(service));
        self.answer(&call, request.body(body.to_string())).await
    }

    async fn answer(
        &self,
        call: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Value, AwsError> {
        let answer =
            request.send().await.map_err(|error| AwsError::NoResponse(call.to_owned(), error))?;
        let status = answer.status();
        let body =
            answer.text().await.map_err(|error| AwsError::NoResponse(call.to_owned(), error))?;
        if !status.is_success() {
            return Err(AwsError::Refused { call: call.to_owned(), status: status.as_u16(), body });
        }
        Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// The authorization of the root user. The emulator does not check its signature.
    fn root(&self, service: &str) -> String {
        let scope = format!("20260101/{}/{service}/aws4_request", self.region());
        format!("AWS4-HMAC-SHA256 Credential=test/{scope}, SignedHeaders=host, Signature=0")
    }

    /// Sends a message with any body to a queue.
    pub async fn send_message(&self, queue_url: &str, body: &str) -> Result<(), AwsError> {
        self.call("AmazonSQS.SendMessage", json!({ "QueueUrl": queue_url, "MessageBody": body }))
            .await
            .map(drop)
    }

    /// Sets the visibility timeout of a queue.
    pub async fn set_visibility(&self, queue_url: &str, seconds: u32) -> Result<(), AwsError> {
        let attributes = json!({ "VisibilityTimeout": seconds.to_string() });
        self.call(
            "AmazonSQS.SetQueueAttributes",
            json!({ "QueueUrl": queue_url, "Attributes": attributes }),
        )
        .await
        .map(drop)
    }

    /// The process IDs of the instances of a function.
    pub fn processes(&self, function: &str) -> Result<Vec<u32>, AwsError> {
        let wanted = format!("AWS_LAMBDA_FUNCTION_NAME={function}");
        let mut found = Vec::new();
        for entry in
            std::fs::read_dir("/proc").map_err(system("cannot list the processes"))?.flatten()
        {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // The process may have exited since.
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let runs_it =
                environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
            if runs_it && parent(&entry.path()) == Some(self.started.pid) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Kills the instances of a function with SIGKILL. Returns their number.
    pub fn kill(&self, function: &str) -> Result<usize, AwsError> {
        let pids = self.processes(function)?;
        for pid in &pids {
            if let Some(pid) = Pid::from_raw(*pid as i32) {
                kill_process(pid, Signal::KILL).map_err(|error| {
                    system(format!("cannot kill process {pid:?}"))(error.into())
                })?;
            }
        }
        Ok(pids.len())
    }

    /// Secrets in the emulator's log: those of the deployment, and private parts of requests. The
    /// log includes the output of the functions.
    pub fn leaks(&self) -> Vec<Leak> {
        let secrets =
            [("API_KEYS", self.api_key()), ("WEBHOOK_HMAC_SECRET", self.signing_secret())];
        let secrets = secrets.map(|(variable, secret)| (variable.to_owned(), secret.to_owned()));
        self.started.log.parent().map_or_else(Vec::new, |folder| secrecy::leaks(folder, &secrets))
    }

    /// The end of the emulator's log, which includes the output of the functions.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.started.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
    }
}

impl Drop for AwsStack {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let deadline = Instant::now() + STOP_BOUND;
        while Instant::now() < deadline {
            if !matches!(self.script.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        // The emulator stops when the script exits.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// Runs a command of the script to its end. Returns its output.
pub fn run_script(command: &str) -> Result<String, AwsError> {
    let done = Command::new(script()).arg(command).stdin(Stdio::null()).output();
    let done =
        done.map_err(system(format!("cannot start {}; it needs python3", script().display())))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let output = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(AwsError::Script { command: command.to_owned(), output })
}

fn script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../aws-stack"))
}

fn parent(process: &Path) -> Option<u32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The process name, in parentheses, can contain any character. The state and the parent follow.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
