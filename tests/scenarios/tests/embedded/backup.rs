//! Backups of a running stack, and their restore.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use harness::{
    client::ApiClient,
    receiver::{Receiver, Reply},
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{BOUND, POLL_INTERVAL, launch, ledger, local, post, printed, refusal};

const CLIENTS: usize = 8;

/// The minimum number of webhooks that are accepted before the backup starts.
const LOAD: usize = 100;

/// Clients that post until they are stopped. Every second webhook goes to a path that fails until
/// the receiver recovers.
struct Load {
    stopping: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(Instant, String)>>>,
}

impl Load {
    fn start(api_url: &str, receiver_url: &str) -> Self {
        let (stopping, accepted) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (stopping, accepted) = (Arc::clone(&stopping), Arc::clone(&accepted));
            let (api, receiver) = (ApiClient::new(api_url, None).unwrap(), receiver_url.to_owned());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stopping.load(Ordering::SeqCst) {
                    let path = if ids.len() % 2 == 0 { "/now" } else { "/later" };
                    let id = post(&api, &format!("{receiver}{path}"), 2000)
                        .await
                        .expect("a backup blocks no request");
                    ids.push((Instant::now(), id));
                    accepted.fetch_add(1, Ordering::SeqCst);
                }
                ids
            })
        };
        let tasks = (0..CLIENTS).map(client).collect();
        Self { stopping, accepted, tasks }
    }

    async fn wait_for(&self, accepted: usize) {
        let started = Instant::now();
        while self.accepted.load(Ordering::SeqCst) < accepted {
            assert!(started.elapsed() < BOUND);
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The IDs, each with the time of its response.
    async fn stop(self) -> Vec<(Instant, String)> {
        self.stopping.store(true, Ordering::SeqCst);
        let mut ids = Vec::new();
        for task in self.tasks {
            ids.extend(task.await.unwrap());
        }
        ids
    }
}

/// The backup of a running stack under load contains everything that was accepted before it
/// started. A stack on the restored backup delivers the unfinished webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_complete_and_a_restored_stack_delivers_it() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let receiver = Receiver::builder().script(move |request| {
        let is_later = request.uri.path().ends_with("/later");
        Reply::status(if is_later && !well.load(Ordering::SeqCst) { 503 } else { 200 })
    });
    let receiver = receiver.start().await.unwrap();
    let (first, copies) = (launch().set("RETRY_BASE_DELAY_MS", "1000"), TempDir::new().unwrap());
    let stack = first.start().unwrap();
    let load = Load::start(&stack.url(), receiver.url("").trim_end_matches('/'));
    load.wait_for(LOAD).await;
    let file = copies.path().join("posthaste-backup.db");
    let (began, before) = (Instant::now(), load.accepted.load(Ordering::SeqCst));
    let (folder, target) = (first.data_dir(), file.display().to_string());
    let backup = tokio::task::spawn_blocking(move || local(&folder, &["backup", "--to", &target]))
        .await
        .unwrap();
    let output = printed(&backup);
    load.wait_for(load.accepted.load(Ordering::SeqCst) + CLIENTS).await;
    let ids = load.stop().await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 1, "no other file is left");
    println!("{before} accepted before, {} in all; {output}", ids.len());
    stack.crash().unwrap();

    let second = launch();
    printed(&local(&second.data_dir(), &["restore", "--from", file.to_str().unwrap()]));
    is_well.store(true, Ordering::SeqCst);
    let stack = second.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let accepted: Vec<String> =
        ids.into_iter().filter(|(at, _)| *at < began).map(|(_, id)| id).collect();
    assert!(accepted.len() >= LOAD - CLIENTS);
    let settled = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), accepted.len())].into());
    assert!(
        accepted
            .iter()
            .all(|id| receiver.received().iter().any(|request| request.webhook_id() == Some(id)))
    );
    ledger::end(&api, stack).await;
}

/// A restore is refused while a stack runs on the folder, and replaces a file only with
/// `--overwrite`.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_refused_while_a_stack_runs_and_replaces_only_with_overwrite() {
    let receiver = Receiver::start().await.unwrap();
    let (launch, copies) = (launch(), TempDir::new().unwrap());
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let id = post(&api, &receiver.url("/x"), 10).await.unwrap();
    ledger::settle(&api, std::slice::from_ref(&id), BOUND).await;
    let file = copies.path().join("copy.db").display().to_string();
    printed(&local(&launch.data_dir(), &["backup", "--to", &file]));
    let refused = local(&launch.data_dir(), &["restore", "--from", &file, "--overwrite"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refusal(&refused).contains("another stack is running on the data folder"),
        "{}",
        refusal(&refused)
    );
    let refused = local(&launch.data_dir(), &["recover", "--to", &format!("{file}.2")]);
    assert!(!refused.status.success() && refusal(&refused).contains("another stack is running"));
    let refused = local(&launch.data_dir(), &["backup", "--to", &file]);
    assert!(
        !refused.status.success() && refusal(&refused).contains("--overwrite"),
        "{}",
        refusal(&refused)
    );
    let later = post(&api, &receiver.url("/x"), 10).await.unwrap();
    stack.stop().unwrap();

    let refused = local(&launch.data_dir(), &["restore", "--from", &file]);
    assert!(
        !refused.status.success() && refusal(&refused).contains("--overwrite"),
        "{}",
        refusal(&refused)
    );
    let output = printed(&local(&launch.data_dir(), &["restore", "--from", &file, "--overwrite"]));
    assert!(output.contains("posthaste.db.replaced"), "{output}");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    assert_eq!(api.webhook(&id).await.unwrap().status, "delivered");
    assert_eq!(
        api.webhook(&later).await.unwrap_err().status().map(|status| status.as_u16()),
        Some(404),
        "it was accepted after the backup"
    );
    stack.stop().unwrap();
}
