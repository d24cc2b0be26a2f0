//! The address guard: the API refuses every spelling of a private address, and the sender opens no
//! connection for a name that resolves to one. A listener on both loopback addresses counts
//! connections. `resolvers.rs` tests hostile resolvers.

use std::{net::ToSocketAddrs, time::Duration};

use harness::{client::ApiClient, ledger, stack::Launch};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::listener::Listener;

const BOUND: Duration = Duration::from_secs(60);

/// Hosts that are refused without a lookup, by class. The test appends a port.
const REFUSED: [(&str, &[&str]); 18] = [
    (
        "loopback, in decimal, octal, hexadecimal and short",
        &[
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "127.255.255.254",
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0X7F000001",
            "0x7f.1",
            "0x7f.0x0.0x0.0x1",
            "0177.0.0.1",
            "0177.0.0.01",
            "0177.1",
            "127.0.0.0x1",
            "127.00.000.0001",
            "0x7f.0.0.01",
        ],
    ),
    (
        "loopback, with the root's dot",
        &["127.0.0.1.", "2130706433.", "0x7f.1.", "localhost.", "a.localhost."],
    ),
    (
        "loopback, in other digits and encoded",
        &[
            "１２７.０.０.１",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "127．0．0．1",
            "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
            "%31%32%37.0.0.1",
            "127%2e0%2e0%2e1",
            "0x７f.1",
            "ｌｏｃａｌｈｏｓｔ",
            "LOCALHOST",
            "%6cocalhost",
            "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
            "loca\u{ad}lhost",
        ],
    ),
    (
        "loopback, by name",
        &["localhost", "LocalHost", "x.localhost", "a.b.localhost", "127.0.0.1.localhost"],
    ),
    (
        "loopback, in IPv6",
        &[
            "[::1]",
            "[0::1]",
            "[0:0:0:0:0:0:0:1]",
            "[0000:0000:0000:0000:0000:0000:0000:0001]",
            "[::0001]",
        ],
    ),
    (
        "loopback, within IPv6",
        &[
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[::7f00:1]",
            "[::ffff:0:127.0.0.1]",
        ],
    ),
    (
        "translated",
        &[
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2001:0:7f00:1::]",
        ],
    ),
    (
        "ISATAP",
        &["[2606:4700::5efe:127.0.0.1]", "[2606:4700::200:5efe:7f00:1]", "[fe80::5efe:127.0.0.1]"],
    ),
    (
        "unspecified",
        &[
            "0",
            "0.0.0.0",
            "0x0",
            "00",
            "0.0",
            "0.0.0.0.",
            "[::]",
            "[0::0]",
            "[::ffff:0.0.0.0]",
            "0.1.2.3",
        ],
    ),
    (
        "metadata and link-local",
        &[
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[fd00:ec2::254]",
            "168.63.129.16",
            "169.254.170.2",
            "169。254。169。254",
        ],
    ),
    (
        "private",
        &[
            "10.0.0.1",
            "10.1",
            "012.0.0.1",
            "0xa.0.0.1",
            "167772161",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.257",
            "3232235521",
        ],
    ),
    (
        "private IPv6",
        &[
            "[fc00::1]",
            "[fd12:3456:789a::1]",
            "[fec0::1]",
            "[::ffff:10.0.0.1]",
            "[::ffff:192.168.1.1]",
        ],
    ),
    (
        "carrier-grade NAT",
        &["100.64.0.1", "100.127.255.255", "100.100.100.200", "[::ffff:100.64.0.1]", "1681915905"],
    ),
    (
        "multicast and broadcast",
        &[
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "4294967295",
            "[ff02::1]",
            "[ff0e::1]",
        ],
    ),
    (
        "documentation and benchmarking",
        &["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "[2001:db8::1]", "[3fff::1]"],
    ),
    (
        "reserved",
        &["240.0.0.1", "192.0.0.1", "192.88.99.1", "[1::1]", "[4000::1]", "[2001::1]", "[100::1]"],
    ),
    (
        "zone ids",
        &[
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[::1%25lo]",
            "[::1%lo]",
            "[::ffff:127.0.0.1%25lo]",
        ],
    ),
    (
        "no host at all",
        &[
            "",
            "256.0.0.1",
            "127.0.0.0.1",
            "0x7f.0.0.0.1",
            "4294967296",
            "127.0.0.08",
            "[::1",
            "::1",
            "[::g]",
            "127.0.0.1%00",
        ],
    ),
];

/// Complete URLs. `PORT` is the listener's port.
const REFUSED_URLS: [&str; 24] = [
    "http://example.com@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT@example.com/",
    "http://example.com:80@127.0.0.1:PORT/",
    "http://example.com%40127.0.0.1:PORT/",
    "http://@127.0.0.1:PORT/",
    "http://:@127.0.0.1:PORT/",
    "http://example.com#@127.0.0.1:PORT\\",
    "http://example.com\\@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.com/",
    "http://127.0.0.1:PORT\\.example.com/",
    "http:\\\\127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http:127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "127.0.0.1:PORT/",
    "ht\ttp://127.0.0.1:PORT/",
    "http://127.0.\n0.1:PORT/",
    " http://127.0.0.1:PORT/",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_x",
    "file://127.0.0.1/etc/passwd",
    "unix:/var/run/docker.sock",
    "jar:http://127.0.0.1:PORT!/",
];

/// The API's response to each URL: the error's status, or `None` if it was accepted.
async fn statuses(api: &ApiClient, urls: &[String]) -> Vec<Option<u64>> {
    let mut found = Vec::new();
    for urls in urls.chunks(100) {
        let webhooks: Vec<Value> =
            urls.iter().map(|url| json!({"url": url, "payload": 1})).collect();
        let body = json!({"webhooks": webhooks}).to_string();
        let answer = api.call(Method::POST, &["webhooks", "batch"], &[], Some(body)).await.unwrap();
        let answer: Value = answer.expect(StatusCode::ACCEPTED).unwrap();
        found.extend(
            answer["results"]
                .as_array()
                .unwrap()
                .iter()
                .map(|result| result["error"]["status"].as_u64()),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_private_address_is_accepted() {
    let _turn = crate::turn().await;
    let listener = Listener::start().await;
    let launch =
        Launch::fresh().unwrap().set("ALLOW_PRIVATE_DESTINATIONS", "false").set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let port = listener.port;
    let hosts = REFUSED.iter().flat_map(|(_, hosts)| hosts.iter());
    let mut urls: Vec<String> = hosts
        .clone()
        .flat_map(|host| [format!("http://{host}:{port}/"), format!("https://{host}/x")])
        .collect();
    urls.extend(REFUSED_URLS.iter().map(|url| url.replace("PORT", &port.to_string())));
    let statuses = statuses(&api, &urls).await;
    let accepted: Vec<_> =
        urls.iter().zip(&statuses).filter(|(_, status)| **status != Some(422)).collect();
    assert!(accepted.is_empty(), "{accepted:#?}");
    // The same URLs one by one, through the two other routes.
    for url in urls.iter().step_by(7) {
        let body = json!({"url": url, "payload": 1}).to_string();
        let one = api.call(Method::POST, &["webhooks"], &[], Some(body)).await.unwrap();
        assert_eq!(one.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
        let test = api
            .call(Method::POST, &["test-webhook"], &[("webhook_url", url)], Some("{}".to_owned()))
            .await
            .unwrap();
        assert_eq!(test.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
    }
    println!("{} URLs of {} classes refused", urls.len(), REFUSED.len() + 1);
    listener.assert_no_connection().await;
    ledger::close(&api, stack, &launch).await;
}

/// Names besides localhost that this machine resolves to itself: its host name and the names in its
/// hosts file.
fn names_of_this_machine() -> Vec<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names: Vec<String> = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter(|line| line.starts_with("127.") || line.starts_with("::1"))
        .flat_map(|line| line.split_whitespace().skip(1).map(str::to_owned))
        .chain([own.trim().to_owned()])
        .filter(|name| !name.is_empty() && !name.starts_with("localhost"))
        .collect();
    names.sort();
    names.dedup();
    // Only names that the machine resolves to its own addresses, so no connection can leave the
    // machine.
    names.retain(|name| {
        (name.as_str(), 0)
            .to_socket_addrs()
            .is_ok_and(|mut found| found.all(|address| address.ip().is_loopback()))
    });
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_a_private_address_is_accepted_and_gets_no_connection() {
    let _turn = crate::turn().await;
    let names = names_of_this_machine();
    assert!(
        !names.is_empty(),
        "this machine has no name besides localhost that resolves to loopback; add one to \
         /etc/hosts"
    );
    let listener = Listener::start().await;
    let launch = Launch::fresh()
        .unwrap()
        .set("ALLOW_PRIVATE_DESTINATIONS", "false")
        .set("RETRY_BASE_DELAY_MS", "10");
    let launch = launch.set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let mut ids = Vec::new();
    for name in &names {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{name}:{}/", listener.port);
            ids.push(api.test_webhook(&url, &json!({})).await.unwrap().webhook_id);
        }
    }
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("failed".to_owned(), ids.len())].into()
    );
    for id in &ids {
        let webhook = api.webhook(id).await.unwrap();
        assert_eq!(
            (webhook.error_kind(), webhook.attempts.len()),
            (Some("refused_address"), 2),
            "{webhook:?}"
        );
        let shown = api.explain(id).await.unwrap().to_string();
        assert!(
            !shown.contains("127.0.0.1") && !shown.contains("::1"),
            "an internal address is shown: {shown}"
        );
    }
    listener.assert_no_connection().await;
    ledger::close(&api, stack, &launch).await;
}
