//! Operators' actions: delete, clean up, resend, redrive, explain.

use std::time::Duration;

use api::Access;
use serde_json::{json, value::RawValue};
use shared::{
    circuit::Settings,
    id::TaskId,
    model::{Content, Function},
    status::Status,
    traffic::{
        pace::{Pace, Refusal},
        target::{Target, TargetKey, path_hash},
    },
    transition::testing,
};

use crate::harness::{Stack, ids, parse};

#[tokio::test]
async fn a_deleted_webhook_is_gone_with_its_payload() {
    let stack = Stack::start().await;
    let (on_its_way, letter) = (stack.accept(json!({})).await, stack.accept(json!({})).await);
    stack.bury(&letter).await;
    for id in [&on_its_way, &letter] {
        let path = format!("/webhook-status/{id}");
        let deleted = stack.delete(&path).await;
        assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""));
        stack.get(&path).await.problem(404);
        stack.delete(&path).await.problem(404);
        stack.get(&format!("/webhooks/{id}/explain")).await.problem(404);
        stack.post(&format!("/webhooks/{id}/resend"), "").await.problem(404);
    }
    stack.get(&format!("/dead-letters/{letter}")).await.problem(404);
    assert!(ids(&stack.get("/dead-letters").await.json(200)).is_empty());
}

#[tokio::test]
async fn deleting_many_needs_a_filter() {
    let stack = Stack::start().await;
    let keep = stack.accept(json!({})).await;
    for query in ["", "?", "?status=&reference_id="] {
        stack.delete(&format!("/webhook-statuses{query}")).await.problem(400);
        stack.post(&format!("/webhook-cleanup{query}"), "").await.problem(400);
    }
    stack.delete("/webhook-statuses?refernce_id=a").await.problem(422);
    stack.delete("/webhook-statuses?older_than_days=1").await.problem(422);
    assert_eq!(ids(&stack.get("/webhook-statuses").await.json(200)), [keep]);
}

#[tokio::test]
async fn webhooks_of_every_status_are_deleted_by_reference_and_status() {
    let stack = Stack::start().await;
    let mut all = Vec::new();
    for reference in ["a", "a", "b"] {
        all.push(stack.accept(json!({"reference_id": reference})).await);
    }
    stack.conclude(&all[0], 200).await;
    let deleted = stack.delete("/webhook-statuses?reference_id=a&status=delivered").await.json(200);
    assert_eq!(deleted, json!({"deleted": 1, "more": false}));
    assert_eq!(stack.delete("/webhook-statuses?reference_id=a").await.json(200)["deleted"], 1);
    assert_eq!(ids(&stack.get("/webhook-statuses").await.json(200)), all[2..]);
}

#[tokio::test]
async fn a_cleanup_deletes_only_finished_and_old_webhooks_by_default() {
    let stack = Stack::start().await;
    let (old, old_pending) = (stack.accept(json!({})).await, stack.accept(json!({})).await);
    stack.conclude(&old, 200).await;
    stack.clock.advance(Duration::from_secs(24 * 3600));
    let young = stack.accept(json!({})).await;
    stack.conclude(&young, 200).await;
    let clean = async |query: &str| {
        stack.post(&format!("/webhook-cleanup?{query}"), "").await.json(200)["deleted"].clone()
    };
    assert_eq!(clean("older_than_days=2").await, 0);
    assert_eq!(clean("older_than_days=0.5").await, 1);
    stack.get(&format!("/webhook-status/{old}")).await.problem(404);
    assert_eq!(clean("older_than_days=0.5&status=pending").await, 1);
    stack.get(&format!("/webhook-status/{old_pending}")).await.problem(404);
    assert_eq!(clean("older_than_days=0").await, 1);
    assert!(ids(&stack.get("/webhook-statuses").await.json(200)).is_empty());
}

/// There are more webhooks than one call reads. `more` is true, and the cursor continues after the
/// webhooks that the filter did not match.
#[tokio::test]
async fn a_long_cleanup_continues_with_its_cursor() {
    let stack = Stack::start().await;
    let start = stack.context.clock.now();
    let oldest = stack.accept(json!({})).await;
    stack.conclude(&oldest, 200).await;
    let (rules, store) = (&stack.context.rules, &stack.context.store);
    let payload = RawValue::from_string("1".to_owned()).unwrap();
    let content = Content { url: "https://example.com/".to_owned(), headers: Vec::new(), payload };
    for n in 0..1000 {
        let task = TaskId::mint(start.plus(Duration::from_millis(10 + n)), [1; 10]);
        let webhook = rules.create(testing::new_webhook(task), task.created_at());
        store.create(&webhook, &content).await.unwrap();
    }
    stack.clock.advance(Duration::from_secs(60));
    let first = stack.post("/webhook-cleanup?older_than_days=0", "").await.json(200);
    assert_eq!((&first["deleted"], &first["more"]), (&0.into(), &true.into()));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = stack
        .post(&format!("/webhook-cleanup?older_than_days=0&cursor={cursor}"), "")
        .await
        .json(200);
    assert_eq!(second, json!({"deleted": 1, "more": false}));
    let all = stack.delete("/webhook-statuses?status=pending").await.json(200);
    assert_eq!(all["deleted"], 1000);
}

#[tokio::test]
async fn only_a_finished_webhook_is_resent() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({"reference_id": "order-7"})).await;
    let path = format!("/webhooks/{id}/resend");
    stack.post(&path, "").await.problem(409);
    stack.conclude(&id, 500).await;
    stack.post(&path, "").await.problem(409);
    stack.delete(&format!("/webhook-status/{id}")).await;
    let id = stack.accept(json!({"reference_id": "order-7"})).await;
    stack.conclude(&id, 200).await;
    stack.take_messages().await;
    let answer = stack.post(&format!("/webhooks/{id}/resend"), "").await.json(202);
    assert_eq!(
        (&answer["webhook_id"], &answer["status"]),
        (&id.as_str().into(), &"pending".into())
    );
    assert_eq!(stack.take_messages().await, [id.as_str()]);
    let record = stack.record(&id).await;
    assert_eq!(
        (record.status, record.attempt_count, record.budget.attempts, record.expires_at),
        (Status::Pending, 1, 0, None)
    );
    assert!(record.due_at.is_some(), "should the message be lost");
    stack.post(&format!("/webhooks/{id}/resend"), "").await.problem(409);
}

#[tokio::test]
async fn a_dead_letter_is_redriven_or_deleted() {
    let stack = Stack::start().await;
    let (id, other) = (stack.accept(json!({})).await, stack.accept(json!({})).await);
    stack.post(&format!("/dead-letters/{id}/redrive"), "").await.problem(409);
    let failed = stack.conclude(&id, 410).await;
    stack.post(&format!("/dead-letters/{id}/redrive"), "").await.problem(409);
    let archived = stack.context.rules.archive(&failed, stack.context.clock.now()).unwrap();
    stack.context.store.write(&failed, &archived).await.unwrap();
    stack.take_messages().await;
    assert_eq!(
        stack.post(&format!("/dead-letters/{id}/redrive"), "").await.json(202)["status"],
        "pending"
    );
    assert_eq!(stack.take_messages().await, [id.as_str()]);
    stack.get(&format!("/dead-letters/{id}")).await.problem(404);
    stack.conclude(&id, 200).await;
    stack.post(&format!("/dead-letters/{id}/redrive"), "").await.problem(404);

    stack.delete(&format!("/dead-letters/{other}")).await.problem(404);
    stack.bury(&other).await;
    assert_eq!(stack.delete(&format!("/dead-letters/{other}")).await.status.as_u16(), 204);
    stack.get(&format!("/webhook-status/{other}")).await.problem(404);
}

#[tokio::test]
async fn many_dead_letters_are_redriven_in_one_call() {
    let stack = Stack::start().await;
    let mut all = Vec::new();
    for n in 0..25 {
        let id = stack.accept(json!({"reference_id": if n < 24 { "a" } else { "b" }})).await;
        stack.bury(&id).await;
        all.push(id);
    }
    stack.take_messages().await;
    stack.faults.take_calls();
    let answer = stack.post("/dead-letters/redrive?reference_id=a", "").await.json(202);
    assert_eq!(answer, json!({"redriven": 24, "more": false}));
    assert_eq!(stack.faults.take_calls(), [("dead_letters", 1), ("send", 3), ("write", 24)]);
    let mut queued = stack.take_messages().await;
    queued.sort_unstable();
    let mut expected = all[..24].to_vec();
    expected.sort_unstable();
    assert_eq!(queued, expected);
    assert_eq!(stack.post("/dead-letters/redrive", "").await.json(202)["redriven"], 1);
    assert_eq!(stack.post("/dead-letters/redrive", "").await.json(202)["redriven"], 0);
}

/// An unreadable queue message is kept as a dead letter without a URL, which can be read and
/// deleted.
#[tokio::test]
async fn an_unreadable_message_cannot_be_sent_again() {
    let stack = Stack::start().await;
    let (rules, now) = (&stack.context.rules, stack.context.clock.now());
    let new = rules.create(testing::new_webhook(TaskId::mint(now, [9; 10])), now);
    let failed =
        rules.give_up(&new, shared::transition::GiveUp::Unreadable, Function::Dlq, now).unwrap();
    let archived = rules.archive(&failed, now).unwrap();
    let payload = RawValue::from_string(r#""garbage""#.to_owned()).unwrap();
    let content = Content { url: String::new(), headers: Vec::new(), payload };
    stack.context.store.create(&archived, &content).await.unwrap();
    let id = archived.id.to_string();
    assert_eq!(stack.get(&format!("/dead-letters/{id}")).await.json(200)["payload"], "garbage");
    stack.post(&format!("/webhooks/{id}/resend"), "").await.problem(409);
    stack.post(&format!("/dead-letters/{id}/redrive"), "").await.problem(409);
    assert_eq!(stack.post("/dead-letters/redrive", "").await.json(202)["redriven"], 0);
    assert_eq!(stack.delete(&format!("/dead-letters/{id}")).await.status.as_u16(), 204);
}

#[tokio::test]
async fn explain_returns_every_step_and_the_next_one() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({})).await;
    stack.conclude(&id, 500).await;
    let told = stack.get(&format!("/webhooks/{id}/explain")).await.json(200);
    assert_eq!((&told["webhook_id"], &told["status"]), (&id.as_str().into(), &"retrying".into()));
    let steps: Vec<_> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["transition"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["create", "claim", "retry"]);
    let last = &told["steps"][2];
    assert_eq!(
        (&last["function"], &last["from"], &last["to"]),
        (&"deliver".into(), &"in_progress".into(), &"retrying".into())
    );
    let next_at = stack.record(&id).await.allowed_at.unwrap().to_string();
    assert_eq!(
        (&last["next_attempt_at"], &told["next"]["at"]),
        (&next_at.as_str().into(), &next_at.as_str().into())
    );
    assert_eq!(
        (&told["next"]["by"], &told["budget"]["attempts"]),
        (&"deliver".into(), &json!({"used": 1, "of": 3}))
    );
    assert_eq!(parse(&id).to_string(), id);
}

/// Reads both targets of an unfinished webhook by their keys, and none of a finished one.
#[tokio::test]
async fn explain_shows_what_holds_an_unfinished_webhook_back() {
    let limits = [("RATE_LIMITS", "*.example=100/60s")];
    let stack = Stack::with(&limits, Access::Loopback).await;
    let id = stack.accept(json!({})).await;
    let (store, now) = (&stack.context.store, stack.context.clock.now());
    let origin = "https://receiver.example:443";
    let settings = Settings { failures: 1, ..Settings::default() };
    let open = Target::idle(TargetKey::origin(origin)).failed(1, &settings, now);
    let refusal = Refusal { attempt_started_at: now, status_code: 503, retry_after: None };
    let pace = Pace::after_refusal(None, &refusal, Duration::from_secs(60), None, now).unwrap();
    let url = TargetKey::url(origin, &path_hash("/hooks"));
    let paused = Target::idle(url.clone()).paused(pace, now);
    // Another URL of the destination has nothing to do with the webhook.
    let other = Target::idle(TargetKey::url(origin, &path_hash("/other"))).paused(pace, now);
    for target in [&open, &paused, &other] {
        store.write_target(None, target).await.unwrap();
    }
    stack.faults.take_calls();
    let path = format!("/webhooks/{id}/explain");
    let told = stack.get(&path).await.json(200);
    let reads = || -> usize {
        let calls = stack.faults.take_calls();
        calls.iter().filter(|(call, _)| *call == "target").map(|(_, made)| made).sum()
    };
    assert_eq!(reads(), 2);
    let traffic = &told["traffic"];
    assert_eq!(
        (&traffic["rate_limit"], &traffic["slot_opens_at"]),
        (&"100/60s".into(), &json!(null))
    );
    let until = now.plus(Duration::from_secs(1)).to_string();
    let shown: Vec<_> = traffic["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| (&target["target"], &target["circuit"], &target["paused_until"]))
        .collect();
    assert_eq!(
        shown,
        [
            (&json!(origin), &json!("open"), &json!(null)),
            (&json!(url), &json!("closed"), &json!(until)),
        ]
    );
    let what = told["next"]["what"].as_str().unwrap();
    assert!(what.contains("The circuit of its destination is open until"), "{what}");
    assert!(what.contains("because the destination answered 503"), "{what}");
    assert_eq!(told["next"]["at"], now.plus(Duration::from_secs(30)).to_string());

    stack.conclude(&id, 200).await;
    let told = stack.get(&path).await.json(200);
    assert_eq!((reads(), &told["traffic"]["targets"]), (0, &json!([])));
    assert_eq!(told["traffic"]["rate_limit"], json!(null));
}

/// `/destinations` and `/metrics` show a pause, and the learned rate within the configured one. For
/// `/health`, a pause is no open circuit, and a half-open circuit is one.
#[tokio::test]
async fn pauses_and_half_open_circuits_are_shown() {
    let stack = Stack::with(&[("RATE_LIMITS", "*.example=1/10s")], Access::Loopback).await;
    let (store, now) = (&stack.context.store, stack.context.clock.now());
    let (minute, down) = (Duration::from_secs(60), "https://down.example:443");
    let settings = Settings { failures: 1, ..Settings::default() };
    let open = Target::idle(TargetKey::origin(down)).failed(1, &settings, now);
    let retry_after = Some(minute);
    let refusal = Refusal { attempt_started_at: now, status_code: 429, retry_after };
    let pace = Pace::after_refusal(None, &refusal, minute, None, now).unwrap();
    let url = TargetKey::url("https://receiver.example:443", "hash");
    for target in [&open, &Target::idle(url.clone()).paused(pace, now)] {
        store.write_target(None, target).await.unwrap();
    }
    stack.clock.advance(Duration::from_secs(31));
    let until = |seconds| now.plus(Duration::from_secs(seconds)).to_string();
    let circuits = json!([{"destination": down, "state": "half_open", "open_until": until(30)}]);
    assert_eq!(stack.get("/health").await.json(200)["circuits"], circuits);
    let listed = stack.get("/destinations").await.json(200);
    let target = &listed["items"][1]["targets"][0];
    assert_eq!(
        (&target["target"], &target["paused_until"], &target["learned_rate"]),
        (&json!(url), &json!(until(60)), &json!(0.1))
    );
    let metrics = stack.get("/metrics").await.text;
    for (name, service, value) in [
        ("circuit_breaker_status", down, "1"),
        ("webhook_target_paused", url.as_str(), "1"),
        ("webhook_target_rate", url.as_str(), "0.1"),
        ("webhook_target_waiting", url.as_str(), "0"),
    ] {
        let line = format!("{name}{{service=\"{service}\"}} {value}");
        assert!(metrics.lines().any(|have| have == line), "{line} is missing in\n{metrics}");
    }
}

/// A circuit that opened for retries holds back only webhooks whose latest attempt got a 5xx. An
/// attempt before the webhook was resent does not count.
#[tokio::test]
async fn explain_shows_a_circuit_for_retries_only_to_retries() {
    let stack = Stack::start().await;
    let (new, retry) = (stack.accept(json!({})).await, stack.accept(json!({})).await);
    stack.conclude(&retry, 500).await;
    let resent = stack.accept(json!({"retry": {"max_attempts": 1}})).await;
    stack.conclude(&resent, 500).await;
    stack.post(&format!("/webhooks/{resent}/resend"), "").await.json(202);
    let (store, now) = (&stack.context.store, stack.context.clock.now());
    let origin = Target::idle(TargetKey::origin("https://receiver.example:443"));
    let open = origin.opened_for_retries(&Settings::default(), now);
    store.write_target(None, &open).await.unwrap();
    for (id, targets) in [(new, 0), (retry, 1), (resent, 0)] {
        let told = stack.get(&format!("/webhooks/{id}/explain")).await.json(200);
        let shown = told["traffic"]["targets"].as_array().unwrap();
        assert_eq!(shown.len(), targets, "{told}");
        assert!(shown.iter().all(|target| target["retries_only"] == true), "{told}");
    }
}
