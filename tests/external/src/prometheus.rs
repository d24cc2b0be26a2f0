//! A private Prometheus server, which scrapes the given targets each second; and `promtool`,
//! which judges the text that it scrapes.

use std::{
    io::{self, ErrorKind, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use harness::{client::http_client_with, process::free_ports};

/// How long it may take to start, or to answer as is wanted.
const BOUND: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is no server, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// It is not installed.
    #[error(
        "{0} is not installed; install it with: apt-get install prometheus (and stop the service \
         that comes with it)"
    )]
    Missing(&'static str),
    /// It ended, or did not answer.
    #[error("prometheus did not start; it said:\n{0}")]
    Start(String),
    /// The query has no answer of that kind in time.
    #[error("{query} was not answered as wanted within {BOUND:?}; the last answer is {last}")]
    Query {
        /// What was asked.
        query: String,
        /// The last answer.
        last: Value,
    },
    /// promtool finds fault with the text.
    #[error("promtool check metrics: {0}")]
    Check(String),
    /// The system refused a port, a folder or a process.
    #[error("prometheus cannot be run")]
    System(#[from] io::Error),
    /// No HTTP client, or no answer.
    #[error("prometheus cannot be asked: {0}")]
    Http(String),
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Series {
    /// Its labels, its name among them.
    pub metric: std::collections::BTreeMap<String, String>,
    /// When, and its value as text.
    pub value: (serde_json::Number, String),
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    url: String,
    http: reqwest::Client,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes each of these: a job's name and the URL of its metrics.
    pub async fn start(jobs: &[(&str, &str)]) -> Result<Self, PrometheusError> {
        let folder = TempDir::with_prefix("posthaste-prometheus-")?;
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, configuration(jobs))?;
        let log = folder.path().join("log");
        let errors = std::fs::File::create(&log)?;
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(missing("prometheus"))?;
        let http = http_client_with(0).map_err(|error| PrometheusError::Http(error.to_string()))?;
        let url = format!("http://{address}");
        let started = Instant::now();
        while !is_ready(&http, &url).await {
            if child.try_wait()?.is_some() || started.elapsed() > BOUND {
                let _ = child.kill();
                let _ = child.wait();
                return Err(PrometheusError::Start(
                    std::fs::read_to_string(&log).unwrap_or_default(),
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(Self { child, url, http, _folder: folder })
    }

    /// Asks again and again until the answer is as wanted.
    pub async fn wait_for(
        &self,
        query: &str,
        wanted: impl Fn(&[Series]) -> bool,
    ) -> Result<Vec<Series>, PrometheusError> {
        let started = Instant::now();
        loop {
            let answer = self.get("/api/v1/query", &[("query", query)]).await?;
            let series: Vec<Series> =
                serde_json::from_value(answer["data"]["result"].clone()).unwrap_or_default();
            if wanted(&series) {
                return Ok(series);
            }
            if started.elapsed() > BOUND {
                return Err(PrometheusError::Query { query: query.to_owned(), last: answer });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The type that it scraped for this metric, such as `counter`.
    pub async fn kind(&self, metric: &str) -> Result<Option<String>, PrometheusError> {
        let answer = self.get("/api/v1/metadata", &[("metric", metric)]).await?;
        Ok(answer["data"][metric][0]["type"].as_str().map(str::to_owned))
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, PrometheusError> {
        let mut url: url::Url =
            self.url.parse().map_err(|error| PrometheusError::Http(format!("{error}")))?;
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        let text = async { self.http.get(url).send().await?.text().await };
        let text = text.await.map_err(|error| PrometheusError::Http(error.to_string()))?;
        serde_json::from_str(&text)
            .map_err(|error| PrometheusError::Http(format!("{error}: {text}")))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has `promtool` judge a text of metrics; what it is not content with, down to a name that is
/// unusual, is an error.
pub fn check_metrics(text: &str) -> Result<(), PrometheusError> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing("promtool"))?;
    if let Some(mut input) = promtool.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let done = promtool.wait_with_output()?;
    let said = [done.stdout, done.stderr].concat();
    if done.status.success() && said.is_empty() {
        return Ok(());
    }
    Err(PrometheusError::Check(format!("{}: {}", done.status, String::from_utf8_lossy(&said))))
}

async fn is_ready(http: &reqwest::Client, url: &str) -> bool {
    http.get(format!("{url}/-/ready")).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// JSON is YAML too.
fn configuration(jobs: &[(&str, &str)]) -> String {
    let job = |&(name, url): &(&str, &str)| {
        let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((url, ""));
        serde_json::json!({"job_name": name, "metrics_path": format!("/{path}"),
            "static_configs": [{"targets": [host]}]})
    };
    let jobs: Vec<Value> = jobs.iter().map(job).collect();
    serde_json::json!({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": jobs})
    .to_string()
}

fn missing(program: &'static str) -> impl Fn(io::Error) -> PrometheusError {
    move |error| match error.kind() {
        ErrorKind::NotFound => PrometheusError::Missing(program),
        _ => error.into(),
    }
}
