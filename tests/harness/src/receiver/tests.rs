//! Tests of the receiver over real sockets.

use std::{
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use super::{journal::JournalOptions, *};

const BOUND: Duration = Duration::from_secs(30);
const BODY: &str = r#"{"a":1.0, "b":"\u00e9"}"#;

fn client() -> reqwest::Client {
    crate::client::http_client().unwrap()
}

async fn post(url: &str, id: &str) -> Result<u16, reqwest::Error> {
    let request =
        client().post(url).header("webhook-id", id).header("x-webhook-attempt", "2").body(BODY);
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn requests_are_kept_unchanged() {
    let receiver = Receiver::start().await.unwrap();
    assert_eq!(post(&receiver.url("/any/path?x=1"), "A_1").await.unwrap(), 200);
    let requests = receiver.wait_for(1, BOUND).await.unwrap();
    assert_eq!((requests[0].path(), requests[0].uri.query()), ("/any/path", Some("x=1")));
    assert_eq!((requests[0].webhook_id(), requests[0].attempt()), (Some("A_1"), Some(2)));
    assert_eq!(requests[0].body, BODY);
}

/// The wait starts before the request is sent, so the request must end it. After the time limit,
/// the error has the number of requests that arrived.
#[tokio::test]
async fn waiting_ends_with_the_request_or_with_the_time_limit() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("/");
    let (waited, _) = tokio::join!(receiver.wait_for_webhook("B", 1, BOUND), async {
        post(&url, "A").await.unwrap();
        post(&url, "B").await.unwrap()
    });
    assert_eq!(waited.unwrap().len(), 1);
    let error = receiver.wait_for(3, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, ReceiverError::Missing { expected: 3, arrived: 2, .. }), "{error}");
}

/// Only requests that have arrived are affected, and one is as soon as it is kept.
#[tokio::test]
async fn hanging_up_ends_the_delays_of_earlier_requests() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_secs(3600)))
        .start()
        .await
        .unwrap();
    let url = receiver.url("/");
    let (answers, ()) =
        tokio::join!(async { tokio::join!(post(&url, "A"), post(&url, "B")) }, async {
            receiver.wait_for(2, BOUND).await.unwrap();
            receiver.answer_with(|_| Reply::status(200).after(Duration::from_millis(1)));
            receiver.hang_up();
        });
    assert!(answers.0.is_err() && answers.1.is_err(), "{answers:?}");
    assert_eq!(post(&url, "C").await.unwrap(), 200);
}

#[tokio::test]
async fn a_script_determines_responses_and_can_be_replaced() {
    let code = Arc::new(AtomicU16::new(503));
    let scripted = Arc::clone(&code);
    let receiver = Receiver::builder()
        .script(move |_| Reply::status(scripted.load(Relaxed)))
        .start()
        .await
        .unwrap();
    assert_eq!(post(&receiver.url("/"), "A").await.unwrap(), 503);
    code.store(204, Relaxed);
    assert_eq!(post(&receiver.url("/"), "A").await.unwrap(), 204);
    receiver.answer_with(|request| Reply::status(410).body(request.body.clone()));
    assert_eq!(post(&receiver.url("/"), "A").await.unwrap(), 410);
    let counts = receiver.counts();
    assert_eq!(
        (counts.received, counts.distinct_webhook_ids, counts.repeated, counts.duplicates),
        (3, 1, 2, 0)
    );
}

#[tokio::test]
async fn a_slow_response_delays_no_other() {
    let receiver = Receiver::start().await.unwrap();
    let slow = receiver.url("/delay/30");
    let waiting = tokio::spawn(async move { post(&slow, "slow").await });
    receiver.wait_for(1, BOUND).await.unwrap();
    assert_eq!(post(&receiver.url("/status-code/418"), "quick").await.unwrap(), 418);
    assert_eq!(receiver.counts().in_flight, 1);
    waiting.abort();
    let _ = waiting.await;
    let abandoned = async {
        while receiver.counts().abandoned == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, abandoned).await.unwrap();
}

#[tokio::test]
async fn hanging_up_sends_no_response_and_a_dribbled_body_arrives_complete() {
    let receiver = Receiver::builder().script(|_| Reply::hang_up()).start().await.unwrap();
    assert!(post(&receiver.url("/"), "A").await.is_err());
    receiver.answer_with(|_| {
        Reply::status(200).header("x-a", "b").dribble("ab", Duration::from_millis(1), 3)
    });
    let response = client().post(receiver.url("/")).send().await.unwrap();
    assert_eq!(response.headers()["x-a"], "b");
    assert_eq!(response.text().await.unwrap(), "ababab");
}

#[tokio::test]
async fn status_shows_counts_and_behaviour_and_other_methods_and_paths_fail() {
    let receiver = Receiver::builder().secrets(Secrets::parse("secret-key")).start().await.unwrap();
    post(&receiver.url("/"), "A").await.unwrap();
    post(&receiver.url("/"), "A").await.unwrap();
    for path in ["/", "/status"] {
        let text = client().get(receiver.url(path)).send().await.unwrap().text().await.unwrap();
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&page["received"], &page["answered"]["200"], &page["duplicates"]),
            (&2.into(), &2.into(), &1.into())
        );
        assert_eq!(
            (&page["signatures"]["missing"], &page["answers"]["response_code"]),
            (&2.into(), &200.into())
        );
    }
    assert_eq!(client().get(receiver.url("/x")).send().await.unwrap().status(), 404);
    assert_eq!(client().put(receiver.url("/")).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn payloads_are_saved_before_the_response_and_lines_are_flushed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (log_file, save_dir) = (folder.path().join("log"), folder.path().join("saved"));
    let options = JournalOptions {
        log_file: Some(log_file.clone()),
        save_dir: Some(save_dir.clone()),
        ..JournalOptions::default()
    };
    let receiver = Receiver::builder()
        .keep(false)
        .journal(Journal::open(options).unwrap())
        .start()
        .await
        .unwrap();
    post(&receiver.url("/orders"), "../A").await.unwrap();
    let files: Vec<_> =
        std::fs::read_dir(&save_dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert!(files[0].file_name().unwrap().to_str().unwrap().starts_with("webhook_data_"));
    assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), BODY);
    receiver.stop().await;
    let log = std::fs::read_to_string(log_file).unwrap();
    assert!(
        log.trim_end().ends_with(
            "POST /orders webhook-id=../A attempt=2 bytes=23 signature=unchecked -> 200"
        ),
        "{log}"
    );
}

#[tokio::test]
async fn a_stopped_or_dropped_receiver_refuses_connections_and_its_port_is_free() {
    for drop_it in [true, false] {
        let receiver = Receiver::start().await.unwrap();
        let (url, address) = (receiver.url("/"), receiver.address());
        post(&url, "A").await.unwrap();
        if drop_it {
            drop(receiver);
            // The aborted task ends when the runtime polls it.
            tokio::task::yield_now().await;
        } else {
            receiver.stop().await;
        }
        assert!(post(&url, "A").await.is_err());
        Receiver::builder().listen(address).start().await.unwrap();
    }
}
