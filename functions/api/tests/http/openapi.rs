//! The OpenAPI document matches the code, and the router matches the document.

use std::{collections::BTreeSet, path::Path};

use reqwest::Method;
use serde_json::Value;

use crate::harness::Stack;

/// Routes for browsers, which the document does not describe.
const PAGES: [&str; 1] = ["/"];

/// Every error status of the API.
const ERRORS: [&str; 9] = ["400", "401", "404", "405", "409", "413", "422", "429", "503"];

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The checked-in document matches the code. If it does not, this test rewrites it and fails once.
#[tokio::test]
async fn the_document_is_what_the_code_says() {
    let document = api::document();
    let served: Value = Stack::start().await.get("/openapi.json").await.json(200);
    if served != document {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let mut text = serde_json::to_string_pretty(&document).unwrap();
        text.push('\n');
        std::fs::write(&file, text).unwrap();
        panic!(
            "{} did not match the code. This test has rewritten it. Review and commit the change.",
            file.display()
        );
    }
}

/// The function's binary contains the document, but not the code that generates it: that would make
/// its zip and its cold start larger. The document has the generator's texts too, but with escaped
/// line breaks.
#[test]
fn the_binary_does_not_contain_the_generator_of_the_document() {
    const GENERATOR_TEXT: &str = "JSON.\n\nEvery response has the header";
    let binary = std::fs::read(env!("CARGO_BIN_EXE_api")).unwrap();
    let contains = |text: &str| binary.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(contains(&GENERATOR_TEXT.escape_default().to_string()), "the document");
    assert!(!contains(GENERATOR_TEXT), "the generator");
}

/// Document and router have the same routes and methods.
#[tokio::test]
async fn document_and_router_have_the_same_routes() {
    let document = api::document();
    let paths = api::paths();
    let routes: BTreeSet<&str> =
        paths.iter().map(String::as_str).filter(|path| !PAGES.contains(path)).collect();
    assert_eq!(keys(&document["paths"]), routes);
    let stack = Stack::start().await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let mut described: BTreeSet<String> =
            keys(operations).iter().map(|method| method.to_uppercase()).collect();
        if described.contains("GET") {
            described.insert("HEAD".to_owned());
        }
        let answer =
            stack.call(stack.request(Method::TRACE, &path.replace("{webhook_id}", "a_b"))).await;
        answer.problem(405);
        let allowed: BTreeSet<String> = answer
            .header("allow")
            .unwrap()
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        assert_eq!(allowed, described, "{path}");
    }
}

/// Every error response is described as a problem with its headers, and every error status occurs.
#[test]
fn every_error_is_described() {
    let document = api::document();
    let mut seen = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let name = response["$ref"]
                    .as_str()
                    .and_then(|name| name.strip_prefix("#/components/responses/"));
                let response =
                    name.map_or(response, |name| &document["components"]["responses"][name]);
                let place = format!("{method} {path} {status}");
                assert!(response["headers"]["x-correlation-id"]["required"] == true, "{place}");
                if status.starts_with('2') {
                    continue;
                }
                seen.insert(status.as_str());
                assert!(
                    response["content"]["application/problem+json"]["examples"].is_object(),
                    "{place}"
                );
                for (name, of) in
                    [("retry-after", "429 503"), ("allow", "405"), ("www-authenticate", "401")]
                {
                    assert_eq!(
                        response["headers"][name].is_object(),
                        of.contains(status.as_str()),
                        "{place}: {name}"
                    );
                }
            }
        }
    }
    for status in ERRORS {
        assert!(seen.contains(status), "no operation has {status}");
    }
}
