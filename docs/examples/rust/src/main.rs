//! Receives webhooks: verifies and stores each one, responds, and then processes it.
//!
//! - `WEBHOOK_SECRET`: the signing secret of the sender (`whsec_…`)
//! - `INBOX`: the folder for the webhooks (default `inbox`)
//! - `PORT`: the port to listen on, or 0 for a free port (default 9002)

use std::{
    env, fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::{net::TcpListener, sync::mpsc::UnboundedSender, task::spawn_blocking};

const MAX_BODY_BYTES: usize = 1024 * 1024;

struct Receiver {
    verifier: Webhook,
    inbox: PathBuf,
    work: UnboundedSender<String>,
}

/// Verifies the raw bytes. The signature does not match reserialized JSON.
async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if receiver.verifier.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let Some(id) =
        headers.get(HEADER_WEBHOOK_ID).and_then(|id| id.to_str().ok()).map(str::to_owned)
    else {
        return StatusCode::UNAUTHORIZED;
    };
    let (inbox, name) = (receiver.inbox.clone(), format!("{id}.json"));
    match spawn_blocking(move || store(&inbox, &name, &body))
        .await
        .map_err(io::Error::other)
        .flatten()
    {
        Ok(true) => {
            // If the worker is gone, the next start finds the webhook in the inbox.
            let _ = receiver.work.send(id);
            StatusCode::NO_CONTENT
        }
        Ok(false) => StatusCode::NO_CONTENT,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot store {id}: {error}");
            StatusCode::INTERNAL_SERVER_ERROR // the sender retries
        }
    }
}

/// Stores a webhook atomically. Returns false for a duplicate.
fn store(inbox: &Path, name: &str, body: &[u8]) -> io::Result<bool> {
    let mut part = tempfile::Builder::new().prefix(".").tempfile_in(inbox)?;
    part.write_all(body)?;
    match part.persist_noclobber(inbox.join(name)) {
        Ok(_) => Ok(true),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(refused) => Err(refused.error),
    }
}

/// Processes a webhook. After a crash, it can be processed again.
fn handle(inbox: &Path, id: &str) -> io::Result<()> {
    let body = fs::read(inbox.join(format!("{id}.json")))?;
    let _ = writeln!(io::stdout(), "handled {id}: {} bytes", body.len()); // your code
    fs::write(inbox.join(format!("{id}.done")), "")
}

/// The webhooks in the inbox that were not processed.
fn unprocessed(inbox: &Path) -> io::Result<Vec<String>> {
    let names =
        fs::read_dir(inbox)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<io::Result<_>>()?;
    let ids = names.iter().filter_map(|name| name.strip_suffix(".json"));
    Ok(ids.filter(|id| !inbox.join(format!("{id}.done")).exists()).map(str::to_owned).collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = env::var("WEBHOOK_SECRET").unwrap_or_default();
    if secret.trim_start_matches("whsec_").is_empty() {
        return Err("WEBHOOK_SECRET is not set".into());
    }
    let inbox = PathBuf::from(env::var("INBOX").unwrap_or_else(|_| "inbox".to_owned()));
    let port: u16 = env::var("PORT").unwrap_or_else(|_| "9002".to_owned()).parse()?;
    fs::create_dir_all(&inbox)?;
    let (work, mut to_do) = tokio::sync::mpsc::unbounded_channel();
    for id in unprocessed(&inbox)? {
        work.send(id)?;
    }
    let receiver = Receiver { verifier: Webhook::new(&secret)?, inbox: inbox.clone(), work };
    let router =
        Router::new().route("/{*path}", post(receive)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let _ = writeln!(io::stdout(), "listening at http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        while let Some(id) = to_do.blocking_recv() {
            if let Err(error) = handle(&inbox, &id) {
                let _ =
                    writeln!(io::stderr(), "cannot process {id} before the next start: {error}");
            }
        }
    });
    axum::serve(listener, router.with_state(Arc::new(receiver))).await?;
    Ok(())
}
