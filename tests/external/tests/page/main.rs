//! The operator's page in a real browser: a local stack as a real process, a receiver that answers
//! as each path says, and a scenario of `tests/browser` that does what an operator does.
//!
//! `PAGE_SCREENSHOTS=docs/images cargo test -p external --test page -- --ignored` makes the
//! pictures of the README; with `PAGE_SCREENSHOTS_OF=http://127.0.0.1:8000` they show that stack,
//! which may have an hour behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use external::browser;
use harness::{
    binaries::workspace,
    receiver::{Received, Receiver, Reply},
    stack::{Launch, Stack},
};

/// What `/markup` answers; tests/browser/markup.mjs sends the same.
const MARKUP: &str = concat!(
    r#"<img src=x onerror="window.hit=1"></script>"#,
    r#"<script>window.hit=2</script><svg onload="window.hit=3">"#,
);

/// Each path in its own way, so that one receiver serves every scenario.
fn reply(request: &Received) -> Reply {
    match request.path() {
        // Until it was redriven after its three attempts.
        "/mended-later" if request.attempt() < Some(4) => {
            Reply::status(503).body("the stockroom is closed")
        }
        "/down" => Reply::status(503),
        "/gone" => Reply::status(410),
        "/busy" => Reply::status(429).header("retry-after", "600"),
        "/markup" => Reply::status(410).body(MARKUP),
        _ => Reply::status(200),
    }
}

/// A stack of its own for each scenario. Circuits stay closed unless it is about them: failures are
/// what most are about.
fn start(settings: &[(&str, &str)]) -> (Launch, Stack) {
    let launch =
        Launch::fresh().unwrap().set("CIRCUIT_FAILURES", "0").set("RETRY_BASE_DELAY_MS", "300");
    let launch =
        settings.iter().fold(launch, |launch, (variable, value)| launch.set(variable, value));
    let stack = launch.start().unwrap();
    (launch, stack)
}

async fn run(scenario: &str, settings: &[(&str, &str)], variables: &[(&str, &str)]) {
    let receiver = Receiver::builder().script(reply).start().await.unwrap();
    let (launch, stack) = start(settings);
    let (api, to) = (stack.url(), receiver.url("").trim_end_matches('/').to_owned());
    let variables: Vec<(&str, &str)> =
        [("API", &*api), ("RECEIVER", &*to)].into_iter().chain(variables.iter().copied()).collect();
    if let Err(error) = browser::run(scenario, &variables).await {
        panic!("{error}\nthe stack's log:\n{}", launch.log());
    }
    stack.stop().unwrap();
}

/// Sends a test, sees it delivered; sees the list live; sees one fail after its waits, finds it
/// among the dead letters and redrives it; redrives several; deletes one; reads the figures of all
/// that; sees that a receiver asked for a pause, and what waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sends_follows_redrives_and_deletes() {
    run("flow", &[("RATE_LIMITS", "127.0.0.1=500/1s")], &[]).await;
}

/// Finds a customer's endpoints and messages, follows a delivery, disables and enables an endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_at_an_application() {
    run("applications", &[("ENDPOINT_CACHE_MS", "0")], &[]).await;
}

/// The page comes without a key, its calls need one: it is asked for once, kept in the tab's
/// session storage only, and forgotten when told.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_once_and_kept_in_the_tab() {
    run("keys", &[("API_KEYS", "first-key")], &[("KEY", "first-key")]).await;
}

/// Response, payload, URL, address and problem, full of markup: shown as text, with the content
/// security policy and without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_outside_is_shown_as_text() {
    run("markup", &[], &[]).await;
}

/// Sends, resends and deletes without a pointer; the focus is always visible, and is where it
/// should be after each step.
#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_is_enough() {
    run("keyboard", &[], &[]).await;
}

/// axe-core on each view and dialog, in light and dark, at 375 and 1440 pixels; nothing is wider
/// than the screen.
#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_in_any_view() {
    let settings = [("CIRCUIT_FAILURES", "3"), ("RATE_LIMITS", "127.0.0.1=500/1s")];
    run("axe", &settings, &[]).await;
}

/// Behind a gateway that has the API below a path, with a slash at its end or without.
#[tokio::test(flavor = "multi_thread")]
async fn it_works_below_the_stage_of_a_gateway() {
    run("stage", &[], &[]).await;
}

/// Not a test, but a tool that has all that tests have: it takes pictures of each view into the
/// folder that `PAGE_SCREENSHOTS` names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the pictures of the README, when PAGE_SCREENSHOTS says where"]
async fn screenshots() {
    let folder = std::env::var("PAGE_SCREENSHOTS")
        .expect("PAGE_SCREENSHOTS must name a folder, seen from the root of the workspace");
    let folder = workspace().join(folder);
    let of = std::env::var("PAGE_SCREENSHOTS_OF").unwrap_or_default();
    run(
        "screenshots",
        &[("CIRCUIT_FAILURES", "3")],
        &[("FOLDER", folder.to_str().unwrap()), ("OF", &of)],
    )
    .await;
}
