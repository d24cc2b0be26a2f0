//! A webhook's own headers: what is accepted arrives as it was given, beside ours, and nothing else
//! does.

use serde::Deserialize;
use shared::sender::{GuardSettings, check_header};

use crate::{
    engine,
    server::{DONE, Wire},
};

/// Ours and the connection's, with the values that this request has.
const OURS: [(&str, &str); 8] = [
    ("webhook-id", "order-7_01890a5d-ac96-774b-bcce-b302099a8057"),
    ("webhook-timestamp", "1800000000"),
    ("x-correlation-id", "cor-1"),
    ("x-webhook-attempt", "3"),
    ("x-webhook-event", "order.created"),
    ("content-length", "8"),
    ("user-agent", concat!("Posthaste/", env!("CARGO_PKG_VERSION"))),
    ("accept", "*/*"),
];

/// Pairs as JSON: `[["name", "value"], …]`.
#[derive(Deserialize)]
struct Pairs(Vec<(String, String)>);

#[test]
fn own() {
    let wire = Wire::start(GuardSettings { allow_private: true, ..GuardSettings::default() });
    let words = [
        "x-a",
        "webhook-signature",
        "Transfer-Encoding",
        "chunked",
        "Content-Type",
        "\\r\\nx-b: c",
        "\\u0000",
        "\\t",
        ":",
    ];
    engine::run(bolero::check!(), "headers__own", &words, |json| {
        let Ok(Pairs(given)) = serde_json::from_slice(json) else { return };
        // The API's limits; see functions/api/src/submission.rs.
        if given.len() > 32
            || given.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 8 * 1024
        {
            return;
        }
        let answer = wire.send_here(&given, DONE);
        assert_eq!(answer.status_code, Some(204), "{answer:?}");
        let accepted: Vec<&(String, String)> =
            given.iter().filter(|(name, value)| check_header(name, value).is_ok()).collect();
        judge(&wire.request(), &accepted, wire.port);
    });
}

fn judge(request: &[u8], accepted: &[&(String, String)], port: u16) {
    let mut space = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut space);
    let length = parsed.parse(request).unwrap().unwrap();
    assert_eq!(
        (parsed.method, parsed.path, &request[length..]),
        (Some("POST"), Some("/hook"), &b"{\"n\": 1}"[..])
    );
    let mut arrived: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| {
            (
                header.name.to_ascii_lowercase(),
                std::str::from_utf8(header.value).unwrap().to_owned(),
            )
        })
        .collect();
    let mut take = |name: &str| {
        let found: Vec<String> = arrived
            .extract_if(.., |(given, _)| given.as_str() == name)
            .map(|(_, value)| value)
            .collect();
        found
    };
    let trimmed = |value: &str| value.trim_matches([' ', '\t']).to_owned();
    assert_eq!(take("host"), [format!("127.0.0.1:{port}")]);
    assert!(matches!(&take("webhook-signature")[..], [signature] if signature.starts_with("v1,")));
    for (name, value) in OURS {
        let given: Vec<String> = accepted
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| trimmed(value))
            .collect();
        // Only what is not reserved can have been given: `accept`, which the library sends if
        // nobody else says it.
        let expected = if given.is_empty() { vec![value.to_owned()] } else { given };
        assert_eq!(take(name), expected, "{name}");
    }
    // A caller's content type replaces ours; of several, the last one does.
    let given = accepted.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    assert_eq!(
        take("content-type"),
        [given.map_or("application/json".to_owned(), |(_, value)| trimmed(value))]
    );
    let mut expected: Vec<(String, String)> = accepted
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), trimmed(value)))
        .filter(|(name, _)| name != "content-type" && name != "accept")
        .collect();
    expected.sort();
    arrived.sort();
    assert_eq!(arrived, expected);
}
