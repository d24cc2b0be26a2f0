//! Files that are deleted or replaced under a running stack, and file permissions.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness::{
    client::ApiClient,
    receiver::{Receiver, Reply},
};
use http::StatusCode;

use crate::{BOUND, fresh_health, launch, ledger, local, post, printed, runbook_block, warnings};

/// After the data folder's files are deleted, the stack accepts no webhook that would be lost, and
/// health says why. The runbook's commands save earlier webhooks from the running process.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_files_are_reported_and_the_runbook_saves_their_content() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let script = move |_: &_| Reply::status(if up.load(Ordering::SeqCst) { 200 } else { 503 });
    let receiver = Receiver::builder().script(script).start().await.unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut accepted = Vec::new();
    for _ in 0..20 {
        accepted.push(post(&api, &receiver.url("/x"), 1000).await.unwrap());
    }
    fs::remove_dir_all(launch.data_dir()).unwrap();
    assert_eq!(post(&api, &receiver.url("/x"), 1000).await, Err(StatusCode::SERVICE_UNAVAILABLE));
    let (status, health) = fresh_health(&api).await;
    assert_eq!((status.as_u16(), &health["status"]), (503, &"unhealthy".into()), "{health}");
    assert!(warnings(&health).contains("posthaste.db was deleted while it was open"), "{health}");

    let commands = runbook_block("/proc/$PID/fd");
    let saved = launch.folder().join("saved");
    let mut shell = Command::new("sh");
    shell.args(["-c", &commands]).current_dir(launch.folder()).env("PID", stack.pid().to_string());
    let shell = shell.output().unwrap();
    assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
    stack.crash().unwrap();
    printed(&local(
        &launch.data_dir(),
        &["restore", "--from", saved.join("posthaste.db").to_str().unwrap()],
    ));
    is_up.store(true, Ordering::SeqCst);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let settled = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), accepted.len())].into());
    ledger::end(&api, stack).await;
}

/// Only the database is replaced by another one, as by a careless copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_database_is_reported() {
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let file = launch.data_dir().join("posthaste.db");
    fs::copy(&file, launch.folder().join("copy.db")).unwrap();
    fs::rename(launch.folder().join("copy.db"), &file).unwrap();
    assert_eq!(post(&api, "http://127.0.0.1:9/x", 10).await, Err(StatusCode::SERVICE_UNAVAILABLE));
    let (status, health) = fresh_health(&api).await;
    assert!(
        status == StatusCode::SERVICE_UNAVAILABLE
            && warnings(&health).contains("was replaced while it was open"),
        "{health}"
    );
    stack.stop().unwrap();
}

/// In an existing folder that other users can enter, the files are readable by their owner only,
/// and the log explains the folder's mode.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_folder_that_others_can_enter_files_are_private_and_a_warning_is_logged() {
    let launch = launch();
    fs::DirBuilder::new().mode(0o755).create(launch.data_dir()).unwrap();
    let stack = launch.start().unwrap();
    for file in fs::read_dir(launch.data_dir()).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.path().display()
        );
    }
    let log = launch.log();
    assert!(
        log.contains("Other users of this machine can enter the data folder")
            && log.contains("chmod 700"),
        "{log}"
    );
    stack.stop().unwrap();
}
