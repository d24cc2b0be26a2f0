//! A damaged page: the stack names it, and the commands in its error message work.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    process::Command,
    time::Duration,
};

use harness::{
    client::{Accepted, ApiClient},
    receiver::Receiver,
};
use http::{Method, StatusCode};
use rusqlite::Connection;
use serde_json::json;
use shared::clock::{Clock, SystemClock};

use crate::{BOUND, launch, ledger, post};

const PAGE_BYTES: u64 = 4096;

const WEBHOOKS: usize = 60;

/// A page with unfinished webhooks is overwritten. The stack does not start, and logs the page and
/// two commands. Run unchanged, they restore all other webhooks and list the lost ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_named_and_the_suggested_commands_recover_the_stack() {
    let receiver = Receiver::start().await.unwrap();
    let launch = launch();
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut accepted = Vec::new();
    // At start, the stack reads each webhook that is due later.
    let later = SystemClock.now().plus(Duration::from_secs(3600)).to_string();
    for n in 0..WEBHOOKS {
        let body =
            json!({"url": receiver.url("/x"), "payload": n, "deliver_at": later}).to_string();
        let answer = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
        accepted.push(answer.expect::<Accepted>(StatusCode::ACCEPTED).unwrap().webhook_id);
    }
    stack.stop().unwrap();
    let page = break_a_page_of_webhooks(&launch.data_dir().join("posthaste.db"));

    let status = launch.run_to_its_end(0, 0).unwrap();
    let log = launch.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(
        log.contains("posthaste.db is damaged (") && log.contains(&format!("page {page}")),
        "page {page}: {log}"
    );
    let commands = log.lines().find_map(|line| line.split_once("start with that: ")).expect(&log).1;
    let shell = Command::new("sh").args(["-c", commands]).output().unwrap();
    let output = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(shell.status.success(), "{output}{}", String::from_utf8_lossy(&shell.stderr));
    assert!(output.contains("Not read completely: webhooks"), "{output}");

    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let task = |id: &String| id.rsplit_once('_').unwrap().1.to_owned();
    let (lost, saved): (Vec<String>, Vec<String>) =
        accepted.into_iter().partition(|id| output.contains(&task(id)));
    assert!(!lost.is_empty() && saved.len() > WEBHOOKS / 2, "{} lost: {output}", lost.len());
    for id in &saved {
        assert_eq!(api.webhook(id).await.unwrap().status, "pending");
        api.delete_webhook(id).await.unwrap();
    }
    for id in &lost {
        let error = api.webhook(id).await.unwrap_err();
        assert_eq!(
            error.status().map(|status| status.as_u16()),
            Some(404),
            "{id} is reported as lost"
        );
    }
    let next = [post(&api, &receiver.url("/x"), 10).await.unwrap()];
    let settled = ledger::settle(&api, &next, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), 1)].into());
    ledger::close(&api, stack, &launch).await;
}

/// Overwrites one leaf page of the webhooks table, neither its first nor its last, and returns its
/// number.
fn break_a_page_of_webhooks(path: &Path) -> i64 {
    let sql = "SELECT pageno FROM dbstat WHERE name = 'webhooks' AND pagetype = 'leaf' ORDER BY \
        pageno DESC LIMIT 1 OFFSET 1";
    let page: i64 = Connection::open(path).unwrap().query_row(sql, (), |row| row.get(0)).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start((page.unsigned_abs() - 1) * PAGE_BYTES)).unwrap();
    file.write_all(&[0xA5; PAGE_BYTES as usize]).unwrap();
    page
}
