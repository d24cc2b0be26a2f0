//! Lists: filters, pages, cursors.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Stack, URL, ids};

async fn some(stack: &Stack, count: usize) -> Vec<String> {
    let mut newest_first = Vec::new();
    for n in 0..count {
        newest_first.insert(
            0,
            stack.accept(json!({"reference_id": if n % 2 == 0 { "even" } else { "odd" }})).await,
        );
    }
    newest_first
}

#[tokio::test]
async fn pages_by_number_and_by_cursor_are_the_same() {
    let stack = Stack::start().await;
    let all = some(&stack, 7).await;
    let first = stack.get("/webhook-statuses?page_size=3").await.json(200);
    assert_eq!(
        (&first["page"], &first["page_size"], ids(&first)),
        (&1.into(), &3.into(), all[..3].to_vec())
    );
    let mut cursor = first["next_cursor"].as_str().map(str::to_owned);
    for page in 2..=3 {
        let by_number =
            stack.get(&format!("/webhook-statuses?page_size=3&page={page}")).await.json(200);
        let by_cursor = stack
            .get(&format!("/webhook-statuses?page_size=3&cursor={}", cursor.unwrap()))
            .await
            .json(200);
        assert_eq!(by_number, by_cursor);
        assert_eq!(ids(&by_number), all[3 * (page - 1)..(3 * page).min(7)]);
        cursor = by_cursor["next_cursor"].as_str().map(str::to_owned);
    }
    assert_eq!(cursor, None);
    let beyond = stack.get("/webhook-statuses?page_size=3&page=9").await.json(200);
    assert_eq!((ids(&beyond).len(), &beyond["next_cursor"]), (0, &Value::Null));
    assert_eq!(stack.get("/webhook-statuses").await.json(200)["page_size"], 20);
    stack.get("/webhook-statuses?page=10&page_size=100").await.json(200);
}

/// The clock of this stack stands still unless a test advances it.
#[tokio::test]
async fn webhooks_of_one_millisecond_list_in_the_order_in_which_they_were_accepted() {
    let stack = Stack::start().await;
    let webhook = |id: &str| json!({"url": URL, "payload": 1, "reference_id": id});
    let mut expected = Vec::new();
    for round in 0..10 {
        let single = stack.post("/webhooks", webhook(&format!("s{round}")).to_string()).await;
        expected.push(single.json(202)["webhook_id"].as_str().unwrap().to_owned());
        let items: Vec<_> = (0..3).map(|item| webhook(&format!("b{round}-{item}"))).collect();
        let batch = json!({"webhooks": items}).to_string();
        let results = stack.post("/webhooks/batch", batch).await.json(202);
        let results = results["results"].as_array().unwrap();
        expected.extend(results.iter().map(|one| one["webhook_id"].as_str().unwrap().to_owned()));
    }
    expected.reverse();
    let list = stack.get("/webhook-statuses?page_size=100").await.json(200);
    assert_eq!(ids(&list), expected);
}

#[tokio::test]
async fn filters_narrow_the_list() {
    let stack = Stack::start().await;
    let all = some(&stack, 4).await;
    stack.conclude(&all[0], 200).await;
    stack.conclude(&all[1], 410).await;
    let list =
        async |query: &str| ids(&stack.get(&format!("/webhook-statuses?{query}")).await.json(200));
    assert_eq!(list("status=delivered").await, all[..1]);
    assert_eq!(list("status=failed&reference_id=even").await, all[1..2]);
    assert_eq!(list("reference_id=odd").await, [all[0].clone(), all[2].clone()]);
    assert_eq!(list("status=&reference_id=&page=&page_size=&cursor=").await, all);
    assert!(list("status=retrying").await.is_empty());
}

#[tokio::test]
async fn a_cursor_that_is_not_of_this_list_is_a_400() {
    let stack = Stack::start().await;
    let all = some(&stack, 3).await;
    for id in &all[..2] {
        stack.bury(id).await;
    }
    let cursor = async |path: &str| {
        let list = stack.get(path).await.json(200);
        list["next_cursor"].as_str().unwrap().to_owned()
    };
    let webhooks = cursor("/webhook-statuses?page_size=1").await;
    let letters = cursor("/dead-letters?page_size=1").await;
    for bad in ["x", "e30", letters.as_str()] {
        assert_eq!(
            stack.get(&format!("/webhook-statuses?cursor={bad}")).await.problem(400),
            ["cursor"]
        );
    }
    assert_eq!(
        stack.get(&format!("/dead-letters?cursor={webhooks}")).await.problem(400),
        ["cursor"]
    );
    assert_eq!(
        stack.get(&format!("/webhook-statuses?page=1&cursor={webhooks}")).await.problem(422),
        ["page"]
    );
    let too_far = stack.get("/webhook-statuses?page=100&page_size=11").await;
    assert_eq!(too_far.problem(422), ["page"]);
    assert!(too_far.text.contains("next_cursor"));
}

#[tokio::test]
async fn dead_letters_are_listed_latest_first_without_payload_and_attempts() {
    let stack = Stack::start().await;
    let all = some(&stack, 3).await;
    for id in &all {
        stack.bury(id).await;
    }
    // Failed but not archived, so not a dead letter yet.
    let young = stack.accept(json!({})).await;
    stack.conclude(&young, 410).await;
    stack.get(&format!("/dead-letters/{young}")).await.problem(404);
    let first = stack.get("/dead-letters?page_size=2").await.json(200);
    assert_eq!(ids(&first), [all[2].clone(), all[1].clone()]);
    let next = stack
        .get(&format!(
            "/dead-letters?page_size=2&cursor={}",
            first["next_cursor"].as_str().unwrap()
        ))
        .await
        .json(200);
    assert_eq!((ids(&next), &next["next_cursor"]), (vec![all[0].clone()], &Value::Null));
    assert_eq!(ids(&stack.get("/dead-letters?reference_id=odd").await.json(200)), [all[1].clone()]);
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = [
        "application_id",
        "attempt_count",
        "correlation_id",
        "endpoint_id",
        "expires_at",
        "failed_at",
        "last_error",
        "reference_id",
        "url",
        "webhook_id",
    ]
    .to_vec();
    assert_eq!(members(&first["items"][0]), expected);
    let whole = stack.get(&format!("/dead-letters/{}", all[0])).await;
    expected.extend(["attempts", "payload"]);
    expected.sort_unstable();
    let letter = whole.json(200);
    assert_eq!(members(&letter), expected);
    assert_eq!(
        (&letter["payload"], &letter["attempts"][0]["status_code"]),
        (&json!({"n": 1}), &410.into())
    );
    assert_eq!(
        letter["last_error"],
        json!({"kind": "http_status", "status_code": 410, "message": ""})
    );
    stack.clock.advance(Duration::from_secs(31 * 24 * 3600));
    assert!(ids(&stack.get("/dead-letters").await.json(200)).is_empty());
    stack.get(&format!("/dead-letters/{}", all[0])).await.problem(404);
}

/// The most bytes of a page's items, as the API's document states it.
const PAGE_BYTES: usize = 5 * 512 * 1024;

/// A record of maximum length is shorter.
const RECORD_BYTES: usize = 200_000;

/// The largest response of Lambda, in which the body is a JSON string.
const LAMBDA_ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// With records of maximum length, a page ends before it would be too large. Neither page numbers
/// nor cursors skip an item.
#[tokio::test]
async fn pages_are_limited_in_bytes_and_skip_nothing() {
    let stack = Stack::start().await;
    let mut all = Vec::new();
    for _ in 0..100 {
        all.insert(0, stack.accept_with_long_excerpts().await);
    }
    for filter in ["", "&reference_id=long", "&status=failed"] {
        let (mut shown, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            pages += 1;
            let place = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            let by_cursor =
                stack.get(&format!("/webhook-statuses?page_size=100{filter}{place}")).await;
            let escaped = serde_json::to_string(&by_cursor.text).unwrap();
            assert!(escaped.len() < LAMBDA_ANSWER_BYTES, "{} bytes", escaped.len());
            let bytes = by_cursor.text.len();
            assert!(bytes < PAGE_BYTES + 1024, "{bytes} bytes");
            let by_cursor = by_cursor.json(200);
            let is_full = by_cursor["next_cursor"].is_null() || bytes > PAGE_BYTES - RECORD_BYTES;
            assert!(is_full, "one more item fits on page {pages} of {bytes} bytes");
            let by_number = stack
                .get(&format!("/webhook-statuses?page_size=100&page={pages}{filter}"))
                .await
                .json(200);
            assert_eq!(by_number, by_cursor, "page {pages}");
            shown.extend(ids(&by_cursor));
            cursor = by_cursor["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(shown, all, "with {filter:?}");
        assert!((2..=6).contains(&pages), "{pages} pages");
    }
    let one = stack.get(&format!("/webhook-status/{}", all[0])).await;
    assert!(one.text.len() > 70_000 && one.text.len() < RECORD_BYTES, "{} bytes", one.text.len());
    let explained = stack.get(&format!("/webhooks/{}/explain", all[0])).await;
    assert!(explained.text.len() < RECORD_BYTES, "{} bytes", explained.text.len());
}
