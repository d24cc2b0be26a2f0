//! Receives webhooks: verifies each, keeps it once, answers, and only then works on it.
//!
//! `WEBHOOK_SECRET`: the secret that the sender signs with (`whsec_…`); `INBOX`: the folder that
//! keeps them (`inbox`); `PORT`: where it listens, 0 takes a free port (9002).

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

/// The body is the bytes as they came: parsed and written anew, they would not verify.
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
    match spawn_blocking(move || keep(&inbox, &name, &body))
        .await
        .map_err(io::Error::other)
        .flatten()
    {
        Ok(true) => {
            // An error only says that the worker is gone; at the next start it is found in the
            // inbox.
            let _ = receiver.work.send(id);
            StatusCode::NO_CONTENT
        }
        Ok(false) => StatusCode::NO_CONTENT,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{id} cannot be kept: {error}");
            StatusCode::INTERNAL_SERVER_ERROR // it will be sent again
        }
    }
}

/// Keeps a webhook under its id, whole or not at all. False: it is there already.
fn keep(inbox: &Path, name: &str, body: &[u8]) -> io::Result<bool> {
    let mut part = tempfile::Builder::new().prefix(".").tempfile_in(inbox)?;
    part.write_all(body)?;
    match part.persist_noclobber(inbox.join(name)) {
        Ok(_) => Ok(true),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(refused) => Err(refused.error),
    }
}

/// Handles one of the inbox. After a crash in between, it may be handled again.
fn handle(inbox: &Path, id: &str) -> io::Result<()> {
    let body = fs::read(inbox.join(format!("{id}.json")))?;
    let _ = writeln!(io::stdout(), "handled {id}: {} bytes", body.len()); // your own code
    fs::write(inbox.join(format!("{id}.done")), "")
}

/// What is in the inbox and was not handled.
fn left_over(inbox: &Path) -> io::Result<Vec<String>> {
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
        return Err(
            "WEBHOOK_SECRET is not set; an empty key would verify what anybody signs".into()
        );
    }
    let inbox = PathBuf::from(env::var("INBOX").unwrap_or_else(|_| "inbox".to_owned()));
    let port: u16 = env::var("PORT").unwrap_or_else(|_| "9002".to_owned()).parse()?;
    fs::create_dir_all(&inbox)?;
    let (work, mut to_do) = tokio::sync::mpsc::unbounded_channel();
    for id in left_over(&inbox)? {
        work.send(id)?;
    }
    let receiver = Receiver { verifier: Webhook::new(&secret)?, inbox: inbox.clone(), work };
    let router =
        Router::new().route("/{*path}", post(receive)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let _ = writeln!(io::stdout(), "listens at http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        while let Some(id) = to_do.blocking_recv() {
            if let Err(error) = handle(&inbox, &id) {
                let _ =
                    writeln!(io::stderr(), "{id} cannot be handled, until the next start: {error}");
            }
        }
    });
    axum::serve(listener, router.with_state(Arc::new(receiver))).await?;
    Ok(())
}
