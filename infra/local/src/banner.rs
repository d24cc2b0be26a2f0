//! The text that a started stack prints.

use std::net::SocketAddr;

use shared::config::{Config, QueueBackend, StoreBackend};

use crate::functions::Endpoint;

/// The facts in the text.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The API's address.
    pub address: SocketAddr,
    /// The address of the metrics, if they are on.
    pub metrics_address: Option<SocketAddr>,
    /// The endpoint of the functions, if they do not run in this process.
    pub functions: Option<&'a Endpoint>,
    /// Webhooks and messages of the last run that were in flight.
    pub recovered: u64,
}

/// Prints the text to standard output. Its `curl` line works as printed.
pub fn print(facts: &Facts<'_>) {
    shared::say!("{}", text(facts));
}

fn text(facts: &Facts<'_>) -> String {
    let Facts { config, address, metrics_address, functions, recovered } = facts;
    let metrics = metrics_address.map_or("off (ENABLE_PROMETHEUS=false)".to_owned(), |address| {
        format!("http://{address}/metrics")
    });
    let (key, keys) = if config.access.key_hashes.is_empty() {
        ("", "not required: the API listens on this machine only")
    } else {
        (" -H \"x-api-key: $API_KEY\"", "one of API_KEYS")
    };
    let signed = if config.secrets.is_empty() {
        "not signed (WEBHOOK_HMAC_SECRET is not set)"
    } else {
        "signed"
    };
    let functions =
        functions.map_or(String::new(), |endpoint| format!("\n  functions invoked at {endpoint}"));
    let resumed = match recovered {
        0 => String::new(),
        count => {
            format!("\n  resumed   {count} webhooks and messages of the last run")
        }
    };
    format!(
        "Posthaste {version}: webhooks, delivered.\n\
         \x20 API       http://{address}\n\
         \x20 metrics   {metrics}\n\
         \x20 backend   {backend}{functions}\n\
         \x20 webhooks  {signed}\n\
         \x20 keys      {keys}{resumed}\n\
         \n\
         Send one (a receiver is `cargo run --release -p tools --bin webhook-receiver`):\n\
         \x20 curl -X POST http://{address}/webhooks{key} -H 'content-type: application/json' \
         -d '{{\"url\":\"http://127.0.0.1:9001/hello\",\"payload\":{{\"hello\":\"world\"}}}}'\n\
         \n\
         Press Ctrl-C to stop. Accepted webhooks are kept.",
        version = env!("CARGO_PKG_VERSION"),
        backend = backend(config),
    )
}

fn backend(config: &Config) -> String {
    let file = || {
        let path = config.data_dir.join(shared::sqlite::DATABASE_FILE);
        format!("SQLite, one file: {}", path.display())
    };
    let status = match config.status_backend {
        StoreBackend::Sqlite => file(),
        StoreBackend::Redis => format!("Redis, {}", config.redis.status),
        StoreBackend::DynamoDb => format!("DynamoDB, table {}", config.aws.table_name),
    };
    let queue = match config.queue_backend {
        QueueBackend::Sqlite if config.status_backend == StoreBackend::Sqlite => return status,
        QueueBackend::Sqlite => file(),
        QueueBackend::Redis => format!("Redis, {}", config.redis.queue),
        QueueBackend::Sqs => format!("SQS, {}", config.aws.queue_url),
    };
    format!("webhooks in {status}; messages in {queue}")
}
