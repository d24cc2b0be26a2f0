//! Deliveries over TLS by new processes. `api` accepts the webhooks. This module reads their
//! messages from the queue, passes them to `deliver` one at a time, and receives the webhooks.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::json;
use shared::{
    clock::SystemClock,
    config::RedisUrl,
    queue::{Lane, Queue, Received, redis::RedisQueue},
    redis::Connection,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{StartupError, cpu_ms};
use harness::{
    client::{ApiClient, NewWebhook},
    lambda::{Function, Lambda},
    redis_server::RedisServer,
};

/// Deliveries per process.
pub(super) const DELIVERIES: usize = 3;

/// Time for work after the response, which is part of the delivery.
const SETTLE: Duration = Duration::from_millis(20);

/// Time limit for a process to exit or a message to arrive.
const BOUND: Duration = Duration::from_secs(10);

/// Measures the CPU time in milliseconds of the first, second, … delivery of each process.
pub(super) async fn measure(
    api: &Path,
    deliver: &Path,
    processes: u32,
) -> Result<[Vec<f64>; DELIVERIES], StartupError> {
    let folder = TempDir::with_prefix("posthaste-startup-")?;
    let server = RedisServer::start().map_err(StartupError::new)?;
    let receiver = Receiver::start(folder.path()).await?;
    let environment: Vec<(String, String)> = [
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &server.port().to_string()),
        ("API_AUTH", "iam"),
        ("ALLOW_PRIVATE_DESTINATIONS", "true"),
        ("WEBHOOK_CA_FILE", &folder.path().join(CA_FILE).to_string_lossy()),
    ]
    .map(|(variable, value)| (variable.to_owned(), value.to_owned()))
    .to_vec();
    let function = |name, binary: &Path| Function {
        name,
        binary: binary.to_owned(),
        environment: environment.clone(),
        concurrency: 1,
    };
    let lambda =
        Lambda::start(vec![function("api", api), function("deliver", deliver)], folder.path())
            .await?;
    let client = ApiClient::new(&format!("{}/lambda-url/api", lambda.endpoint()), None)
        .map_err(StartupError::new)?;
    let url = RedisUrl::parse(&server.url(1)).map_err(StartupError::new)?;
    let connection = Connection::new(&url, "posthaste", "queue").map_err(StartupError::new)?;
    let queue = RedisQueue::new(connection, Arc::new(SystemClock));

    let mut samples = [const { Vec::new() }; DELIVERIES];
    for _ in 0..processes {
        // Starts the process, without work.
        lambda.call("deliver", r#"{"Records":[]}"#).await.map_err(StartupError::new)?;
        let pid = *lambda
            .pids("deliver")
            .first()
            .ok_or_else(|| StartupError::new("deliver is not running"))?;
        for samples in &mut samples {
            let webhook = NewWebhook {
                url: &receiver.url,
                payload: &json!({"hello": "world"}),
                reference_id: None,
            };
            client.submit(&webhook).await.map_err(StartupError::new)?;
            let messages =
                queue.receive(Lane::Webhooks, 1, BOUND, BOUND).await.map_err(StartupError::new)?;
            let [message] = messages.as_slice() else {
                return Err(StartupError::new("the webhook was not queued"));
            };
            let (arrived, before) = (receiver.count(), cpu_ms(pid)?);
            let answer = lambda.call("deliver", event(message)).await.map_err(StartupError::new)?;
            tokio::time::sleep(SETTLE).await;
            samples.push(cpu_ms(pid)? - before);
            if answer != r#"{"batchItemFailures":[]}"# || receiver.count() != arrived + 1 {
                return Err(StartupError(format!(
                    "nothing was delivered; deliver returned {}",
                    String::from_utf8_lossy(&answer)
                )));
            }
            queue
                .acknowledge(Lane::Webhooks, std::slice::from_ref(&message.receipt))
                .await
                .map_err(StartupError::new)?;
        }
        lambda.crash("deliver");
        let gone = async {
            while !lambda.pids("deliver").is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(BOUND, gone)
            .await
            .map_err(|_| StartupError::new("deliver does not exit"))?;
    }
    Ok(samples)
}

fn event(message: &Received) -> String {
    let attributes = json!({"ApproximateReceiveCount": "1",
        "SentTimestamp": message.sent_at.as_millis().to_string()});
    json!({"Records": [{
        "messageId": message.id, "receiptHandle": message.receipt, "body": message.body,
        "attributes": attributes,
        "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:local:000000000000:webhooks",
        "awsRegion": "local",
    }]})
    .to_string()
}

/// The CA certificate, in the folder of the stack.
const CA_FILE: &str = "ca.pem";

/// An HTTPS server that returns 200 to every request.
struct Receiver {
    url: String,
    count: Arc<AtomicU64>,
}

impl Receiver {
    async fn start(folder: &Path) -> Result<Self, StartupError> {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(StartupError::new)?;
        std::fs::write(folder.join(CA_FILE), certified.cert.pem())?;
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())
            .map_err(StartupError::new)?;
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|config| {
                    config
                        .with_no_client_auth()
                        .with_single_cert(vec![certified.cert.der().clone()], key)
                })
                .map_err(StartupError::new)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://localhost:{}/", listener.local_addr()?.port());
        let count = Arc::new(AtomicU64::new(0));
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&count)));
        Ok(Self { url, count })
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, count: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, count) = (tls.clone(), Arc::clone(&count));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = service_fn(|request: Request<Incoming>| {
                let count = Arc::clone(&count);
                async move {
                    let _ = request.into_body().collect().await;
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            // The client closes the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
