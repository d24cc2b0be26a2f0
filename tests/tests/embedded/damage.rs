//! A broken page under the stack: it says which, and its own next commands work.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use posthaste_tests::{
    client::ApiClient,
    receiver::{Receiver, Reply},
};
use rusqlite::Connection;

use crate::{BOUND, launch, ledger, post};

const PAGE_BYTES: u64 = 4096;

const WEBHOOKS: usize = 60;

/// A page with some of the waiting webhooks is overwritten. The stack does not start, and names the page and two commands. Run as they stand,
/// they bring it up with all but the webhooks of that page, which they have named.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_page_is_named_and_the_next_commands_bring_the_stack_up() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let script = move |_: &_| Reply::status(if up.load(Ordering::SeqCst) { 200 } else { 503 });
    let receiver = Receiver::builder().script(script).start().await.unwrap();
    let launch = launch().set("RETRY_BASE_DELAY_MS", "1000");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut accepted = Vec::new();
    for _ in 0..WEBHOOKS {
        accepted.push(post(&api, &receiver.url("/x"), 100).await.unwrap());
    }
    stack.stop().unwrap();
    let path = launch.data_dir().join("posthaste.db");
    let sql = "SELECT pageno FROM dbstat WHERE name = 'webhooks' AND pagetype = 'leaf' ORDER BY pageno DESC LIMIT 1 OFFSET 1";
    let page: u64 = Connection::open(&path).unwrap().query_row(sql, (), |row| row.get(0)).unwrap();
    let mut file = File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start((page - 1) * PAGE_BYTES)).unwrap();
    file.write_all(&[0xA5; PAGE_BYTES as usize]).unwrap();
    drop(file);

    let status = launch.run_to_its_end(0, 0).unwrap();
    let log = launch.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("posthaste.db is damaged (") && log.contains(&format!("page {page}")), "page {page}: {log}");
    let commands = log.lines().find_map(|line| line.split_once("start with that: ")).expect(&log).1;
    let shell = Command::new("sh").args(["-c", commands]).output().unwrap();
    let said = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(shell.status.success(), "{said}{}", String::from_utf8_lossy(&shell.stderr));
    assert!(said.contains("Not read to the end: webhooks"), "{said}");

    is_up.store(true, Ordering::SeqCst);
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let task = |id: &String| id.rsplit_once('_').unwrap().1.to_owned();
    let (lost, saved): (Vec<String>, Vec<String>) = accepted.into_iter().partition(|id| said.contains(&task(id)));
    assert!(!lost.is_empty() && saved.len() > WEBHOOKS / 2, "{} lost: {said}", lost.len());
    for id in &lost {
        let error = api.webhook(id).await.unwrap_err();
        assert_eq!(error.status().map(|status| status.as_u16()), Some(404), "{id} is told as lost");
    }
    let settled = ledger::settle(&api, &saved, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), saved.len())].into());
    ledger::end(&api, stack).await;
}
