//! The bounds of each field of an endpoint.

use super::*;

const MAX_TIMEOUT_MS: u64 = 30_000;

fn url(text: &str) -> EndpointInput {
    EndpointInput { url: Given::Value(text.to_owned()), ..EndpointInput::default() }
}

/// The names of the wrong fields. Nothing is sealed if one is wrong.
fn wrong(input: EndpointInput) -> Vec<String> {
    let mut sealed = 0;
    let checked = input.check(MAX_TIMEOUT_MS, |_| {
        sealed += 1;
        String::new().into()
    });
    match checked {
        Ok(_) => Vec::new(),
        Err(errors) => {
            assert_eq!(sealed, 0, "nothing is sealed in vain");
            errors.into_iter().map(|error| error.field).collect()
        }
    }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn values_at_their_bounds_are_valid() {
    let most_types: Vec<String> = (0..MAX_EVENT_TYPES).map(|n| format!("a.{n}")).collect();
    let most_headers: Vec<_> = (0..MAX_HEADERS).map(|n| header(&format!("x-{n}"), "1")).collect();
    let longest = vec![header("x", &"v".repeat(MAX_HEADERS_BYTES - 1))];
    let metadata = |bytes: usize| {
        let frame = r#"{"k":""}"#.len();
        Metadata::from([("k".to_owned(), "v".repeat(bytes - frame))])
    };
    for input in [
        EndpointInput::default(),
        url("https://example.com/hook"),
        url(&"u".repeat(MAX_URL_BYTES)),
        EndpointInput { event_types: Given::Value(most_types), ..Default::default() },
        EndpointInput { headers: Given::Value(most_headers), ..Default::default() },
        EndpointInput { headers: Given::Value(longest), ..Default::default() },
        EndpointInput { timeout_ms: Given::Value(MIN_TIMEOUT_MS), ..Default::default() },
        EndpointInput { timeout_ms: Given::Value(MAX_TIMEOUT_MS), ..Default::default() },
        EndpointInput {
            description: Given::Value("d".repeat(MAX_DESCRIPTION_BYTES)),
            ..Default::default()
        },
        EndpointInput {
            metadata: Given::Value(metadata(MAX_METADATA_BYTES)),
            ..Default::default()
        },
        EndpointInput {
            event_types: Given::Null,
            headers: Given::Null,
            retry: Given::Null,
            timeout_ms: Given::Null,
            description: Given::Null,
            metadata: Given::Null,
            enabled: Given::Null,
            ..Default::default()
        },
    ] {
        assert_eq!(wrong(input.clone()), Vec::<String>::new(), "{input:?}");
    }
    let beyond = EndpointInput {
        metadata: Given::Value(metadata(MAX_METADATA_BYTES + 1)),
        ..Default::default()
    };
    assert_eq!(wrong(beyond), ["metadata"]);
}

#[test]
fn a_value_out_of_bounds_names_its_field() {
    let types = |texts: &[&str]| EndpointInput {
        event_types: Given::Value(texts.iter().map(|text| (*text).to_owned()).collect()),
        ..Default::default()
    };
    let headers = |headers: Vec<(String, String)>| EndpointInput {
        headers: Given::Value(headers),
        ..Default::default()
    };
    let timeout = |ms| EndpointInput { timeout_ms: Given::Value(ms), ..EndpointInput::default() };
    let many: Vec<_> = (0..=MAX_HEADERS).map(|n| header(&format!("x-{n}"), "1")).collect();
    let retry = RetryOverride { max_attempts: Some(51), ..RetryOverride::default() };
    for (input, field) in [
        (EndpointInput { url: Given::Null, ..Default::default() }, "url"),
        (url(""), "url"),
        (url(&"u".repeat(MAX_URL_BYTES + 1)), "url"),
        (types(&[]), "event_types"),
        (types(&["a"; MAX_EVENT_TYPES + 1]), "event_types"),
        (types(&["a", "*.b"]), "event_types[1]"),
        (headers(many), "headers"),
        (headers(vec![header("x", &"v".repeat(MAX_HEADERS_BYTES))]), "headers"),
        (headers(vec![header("webhook-id", "1")]), "headers.webhook-id"),
        (headers(vec![header("x-a", "1"), header("X-A", "2")]), "headers.X-A"),
        (headers(vec![header("x-a", "secret\n")]), "headers.x-a"),
        (EndpointInput { retry: Given::Value(retry), ..Default::default() }, "retry.max_attempts"),
        (timeout(MIN_TIMEOUT_MS - 1), "timeout_ms"),
        (timeout(MAX_TIMEOUT_MS + 1), "timeout_ms"),
        (
            EndpointInput {
                description: Given::Value("d".repeat(MAX_DESCRIPTION_BYTES + 1)),
                ..Default::default()
            },
            "description",
        ),
    ] {
        assert_eq!(wrong(input.clone()), [field], "{input:?}");
    }
}

#[test]
fn every_wrong_field_is_named_at_once_and_no_value_of_a_header_is() {
    let input = EndpointInput {
        event_types: Given::Value(vec!["a b".to_owned()]),
        headers: Given::Value(vec![header("x-token", "s3cret\u{7}")]),
        timeout_ms: Given::Value(0),
        ..url("")
    };
    let errors = input.check(MAX_TIMEOUT_MS, |value| value.to_owned().into()).unwrap_err();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(errors.iter().all(|error| !error.message.contains("s3cret")), "{errors:?}");
    assert!(errors.iter().all(|error| !error.message.is_empty()));
}

#[test]
fn header_values_are_sealed_one_by_one() {
    let input = EndpointInput {
        headers: Given::Value(vec![header("X-Token", "abc"), header("x-other", "")]),
        ..Default::default()
    };
    let patch = input.check(MAX_TIMEOUT_MS, |value| format!("sealed({value})").into()).unwrap();
    let sealed = |name: &str, sealed: &str| SealedHeader {
        name: name.to_owned(),
        sealed: sealed.to_owned().into(),
    };
    let expected = vec![sealed("X-Token", "sealed(abc)"), sealed("x-other", "sealed()")];
    assert_eq!(patch.headers, Given::Value(expected));
    assert_eq!(patch.fields(), ["headers"]);
}
