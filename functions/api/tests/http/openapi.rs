//! The OpenAPI document: that it is what the code says, and that the router has what it says.

use std::{collections::BTreeSet, path::Path};

use reqwest::Method;
use serde_json::Value;

use crate::harness::Stack;

/// Routes for browsers, which are no part of the API.
const PAGES: [&str; 1] = ["/"];

/// Every answer that contract.md names for what goes wrong.
const ERRORS: [&str; 8] = ["400", "401", "404", "405", "409", "413", "422", "503"];

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The document that is compiled in follows from the code: where it does not, this test writes it
/// anew and fails once.
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
            "{} was not what the code says; it is now: look at the difference and commit it",
            file.display()
        );
    }
}

/// No route is missing in the document, and none is in it that the router does not have.
#[tokio::test]
async fn each_route_is_in_the_document_and_the_other_way_round() {
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
            stack.call(stack.request(Method::PATCH, &path.replace("{webhook_id}", "a_b"))).await;
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

/// Every error is described as a problem, with the headers that it carries; each that the contract
/// names is there.
#[test]
fn every_error_of_the_contract_is_described() {
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
                    [("retry-after", "503"), ("allow", "405"), ("www-authenticate", "401")]
                {
                    assert_eq!(
                        response["headers"][name].is_object(),
                        status == of,
                        "{place}: {name}"
                    );
                }
            }
        }
    }
    for status in ERRORS {
        assert!(seen.contains(status), "{status} is nowhere");
    }
}
