//! What callers send: bodies, queries, cursors, whole requests.

use std::cell::RefCell;

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use shared::model::Function;
use url::form_urlencoded;

use crate::{
    api::{Answer, Api},
    engine,
};

const WORDS: [&str; 12] = [
    "\"url\":",
    "\"payload\":",
    "\"reference_id\":",
    "\"headers\":",
    "\"event_type\":",
    "\"deliver_at\":",
    "\"retry\":",
    "\"schedule_ms\":",
    "\"webhooks\":",
    "https://receiver.example/",
    "http://127.0.0.1/",
    "2026-12-31T23:59:60Z",
];

/// The two fields whose texts must not be changed, as a second parser sees them.
#[derive(Deserialize)]
struct Submitted<'a> {
    url: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Checks what was stored of an accepted webhook.
fn judge_stored(api: &Api, accepted: &Value, submitted: &Submitted<'_>) {
    let id = accepted["webhook_id"].as_str().unwrap().parse().unwrap();
    let (record, content) =
        api.wait(api.context.store.open(&id)).unwrap().expect("what is accepted is stored");
    assert_eq!(content.payload.get(), submitted.payload.get(), "the payload keeps its bytes");
    assert_eq!(content.url, submitted.url);
    assert!(api.context.guard.check_url(&content.url).is_ok() && !record.destination.is_empty());
}

/// Whether it is JSON: as strict as RFC 8259, and nothing but UTF-8.
fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

fn judge_malformed(answer: &Answer, body: &[u8]) {
    let said = answer.status == StatusCode::BAD_REQUEST
        && answer.json()["type"] == "urn:posthaste:malformed-json";
    assert!(said || is_json(body), "what is no JSON is said to be none: {}", answer.json());
    // Half a surrogate pair in a name is JSON by its grammar, and nothing by its meaning.
    assert!(
        !said || !is_json(body) || body.windows(2).any(|pair| pair == b"\\u"),
        "what is JSON is not: {}",
        answer.json()
    );
}

#[test]
fn webhooks() {
    let api = Api::start();
    engine::run(bolero::check!(), "requests__webhooks", &WORDS, |body| {
        let answer = api.post("/webhooks", body);
        if answer.status == StatusCode::ACCEPTED {
            let submitted: Submitted<'_> =
                serde_json::from_slice(body).expect("what is accepted has both fields");
            judge_stored(&api, &answer.json(), &submitted);
        } else if answer.status != StatusCode::PAYLOAD_TOO_LARGE {
            judge_malformed(&answer, body);
        }
    });
}

#[test]
fn batches() {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        webhooks: Vec<&'a RawValue>,
    }
    let api = Api::start();
    engine::run(bolero::check!(), "requests__batches", &WORDS, |body| {
        let answer = api.post("/webhooks/batch", body);
        if answer.status != StatusCode::ACCEPTED {
            return judge_malformed(&answer, body);
        }
        let batch: Batch<'_> = serde_json::from_slice(body).expect("what is accepted is a batch");
        let answer = answer.json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), batch.webhooks.len(), "each is judged");
        for (result, item) in results.iter().zip(batch.webhooks) {
            if result["error"].is_null() {
                judge_stored(
                    &api,
                    result,
                    &serde_json::from_str(item.get()).expect("it has both fields"),
                );
            } else {
                assert!(
                    result["error"]["status"]
                        .as_u64()
                        .is_some_and(|status| (400..500).contains(&status)),
                    "{result}"
                );
            }
        }
    });
}

/// The first line is the URL, the rest the payload.
#[test]
fn test_webhooks() {
    let api = Api::start();
    engine::run(bolero::check!(), "requests__test_webhooks", &WORDS, |input| {
        let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let (url, payload) = (&input[..line], input.get(line + 1..).unwrap_or_default());
        let url: String = form_urlencoded::byte_serialize(url).collect();
        // A longer request line is the server's business and not the router's: its limit is 64 KiB.
        let Ok(uri) = format!("/test-webhook?webhook_url={url}").parse::<Uri>() else { return };
        let answer = api.post(&uri.to_string(), payload);
        if answer.status == StatusCode::ACCEPTED {
            let url = String::from_utf8_lossy(&input[..line]).into_owned();
            judge_stored(
                &api,
                &answer.json(),
                &Submitted { url, payload: serde_json::from_slice(payload).unwrap() },
            );
        }
    });
}

/// A place in a list: what is accepted leads to a page of that list and from there to its end; what
/// is not is a 400 that names the cursor. An input that begins with a brace is what stands within a
/// cursor, before it is encoded.
#[test]
fn cursors() {
    let api = Api::start();
    let accept = |n| {
        let id = api.accept(&format!("listed-{n}"));
        // A later one has a greater id only in a later millisecond.
        while api.context.clock.now() <= id.task.created_at() {
            std::hint::spin_loop();
        }
        id.to_string()
    };
    let ids: Vec<String> = (0..5).map(accept).collect();
    for id in &ids {
        bury(&api, id);
    }
    engine::run(
        bolero::check!(),
        "requests__cursors",
        &["\"v\":", "\"list\":", "\"after\":", "\"page\":", "\"w\"", "\"d\""],
        |input| {
            let encoded;
            let text = if input.starts_with(b"{") {
                encoded = URL_SAFE_NO_PAD.encode(input);
                encoded.as_bytes()
            } else {
                input
            };
            let cursor: String = form_urlencoded::byte_serialize(text).collect();
            for list in ["/webhook-statuses", "/dead-letters"] {
                walk(&api, list, &cursor, &ids);
            }
        },
    );
}

fn walk(api: &Api, list: &str, first: &str, ids: &[String]) {
    let mut cursor = first.to_owned();
    let mut newest: Option<String> = None;
    // An empty page may be the last.
    for _ in 0..=ids.len() + 1 {
        let Ok(uri) = format!("{list}?page_size=1&cursor={cursor}").parse::<Uri>() else { return };
        let answer = api.get(&uri.to_string());
        if answer.status != StatusCode::OK {
            assert!(cursor == first, "{list}: its own cursor {cursor} is refused");
            assert_eq!(
                (answer.status, &answer.json()["errors"][0]["field"]),
                (StatusCode::BAD_REQUEST, &"cursor".into())
            );
            return;
        }
        let page = answer.json();
        for item in page["items"].as_array().unwrap() {
            let id = item["webhook_id"].as_str().unwrap().to_owned();
            assert!(
                ids.contains(&id) && newest.as_ref().is_none_or(|newest| id < *newest),
                "{list}: {id} comes out of order"
            );
            newest = Some(id);
        }
        let Some(next) = page["next_cursor"].as_str() else { return };
        next.clone_into(&mut cursor);
    }
    panic!("{list}: a list of {} does not end, from {first}", ids.len());
}

/// Makes a dead letter of it.
fn bury(api: &Api, id: &str) {
    let (store, rules, now) = (&api.context.store, &api.context.rules, api.context.clock.now());
    api.wait(async {
        let webhook = store.get(&id.parse().unwrap()).await.unwrap().unwrap();
        let failed = rules
            .give_up(&webhook, shared::transition::GiveUp::Unreadable, Function::Dlq, now)
            .unwrap();
        store.write(&webhook, &failed).await.unwrap();
        let archived = rules.archive(&failed, now).unwrap();
        store.write(&failed, &archived).await.unwrap();
    });
}

/// Any request at all: `METHOD TARGET`, header lines, an empty line, the body; what is no such
/// request is not the router's to judge. No call without a filter deletes anything.
#[test]
fn whole() {
    let api = Api::start();
    let kept = RefCell::new(api.accept("kept"));
    let words = [
        "GET ",
        "DELETE ",
        "POST ",
        "/webhook-statuses",
        "/dead-letters",
        "?status=",
        "&page=",
        "&cursor=",
        "idempotency-key: ",
    ];
    engine::run(bolero::check!(), "requests__whole", &words, |input| {
        let Some(request) = request(input) else { return };
        let id = kept.borrow().clone();
        if api.wait(api.context.store.get(&id)).unwrap().is_none() {
            // An input that named it is gone with it.
            *kept.borrow_mut() = api.accept("kept");
        }
        let id = kept.borrow().clone();
        let names_it = String::from_utf8_lossy(input).contains("kept");
        let filtered = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("status") || query.contains("older_than_days"));
        api.call(request);
        if !names_it && !filtered {
            assert!(
                api.wait(api.context.store.get(&id)).unwrap().is_some(),
                "a webhook was deleted that the request does not name"
            );
        }
    });
}

fn request(input: &[u8]) -> Option<Request<Body>> {
    let end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&input[..end]).ok()?, input[end + 4..].to_vec());
    let mut lines = head.split("\r\n");
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).ok()?)
        .uri(target.parse::<Uri>().ok()?);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request = request.header(name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?);
    }
    request.body(Body::from(body)).ok()
}
