//! Measures from exec to the first `/next`, with a Runtime API that never has an event.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, net::TcpListener, process::Command, time::timeout};

use super::{StartupError, cpu_ms};

/// Time limit of a start.
const START_BOUND: Duration = Duration::from_secs(10);

/// One start of a function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// User and system time until the first call.
    pub(super) cpu_ms: f64,
    /// Time until the first call.
    pub(super) wall_ms: f64,
}

pub(super) async fn measure(binary: &Path) -> Result<Start, StartupError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut command = Command::new(binary);
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string());
    for (variable, value) in environment() {
        command.env(variable, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let started = Instant::now();
    let mut child = command.spawn()?;
    let pid = child.id().ok_or_else(|| StartupError::new("the function exited at its start"))?;
    let first = timeout(START_BOUND, async {
        let (mut connection, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && connection.read_buf(&mut head).await? > 0 {}
        Ok::<_, std::io::Error>((head, connection))
    });
    let (head, _connection) = tokio::select! {
        first = first => first.map_err(|_| StartupError::new("the function did not call the \
            Runtime API in time"))??,
        status = child.wait() => return Err(StartupError(format!("{} exited at its start: {}",
            binary.display(), status?))),
    };
    let start = Start { wall_ms: started.elapsed().as_secs_f64() * 1000.0, cpu_ms: cpu_ms(pid)? };
    if !head.starts_with(b"GET /2018-06-01/runtime/invocation/next ") {
        return Err(StartupError(format!(
            "unexpected first call: {}",
            String::from_utf8_lossy(&head)
        )));
    }
    child.kill().await?;
    Ok(start)
}

/// The environment of every function, as on Lambda. No backend is called before the first event.
fn environment() -> [(&'static str, &'static str); 13] {
    [
        ("AWS_LAMBDA_FUNCTION_NAME", "startup"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("STATUS_BACKEND", "dynamodb"),
        ("QUEUE_BACKEND", "sqs"),
        ("TABLE_NAME", "posthaste"),
        ("QUEUE_URL", "http://127.0.0.1:1/0/webhooks"),
        ("DEAD_LETTER_QUEUE_URL", "http://127.0.0.1:1/0/dead-letters"),
        ("API_AUTH", "iam"),
        ("RUST_LOG", "info"),
    ]
}
