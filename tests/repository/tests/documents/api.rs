//! `docs/api.md`, held against the OpenAPI document: every call and every field of a request or of
//! a webhook is on the page.

use std::{collections::BTreeSet, fs};

use harness::binaries::workspace;
use regex::Regex;
use repository::page::Page;
use serde_json::Value;

const PAGE: &str = "docs/api.md";

/// The operator's page, which the OpenAPI document leaves out.
const OPERATORS_PAGE: &str = "GET /";

/// The schemas whose members the page lists.
const SCHEMAS: [&str; 4] = ["NewWebhook", "Retry", "Webhook", "Attempt"];

fn openapi() -> Value {
    let file = workspace().join("functions/api/openapi.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_page_lists_every_call_and_no_other() {
    let openapi = openapi();
    let mut calls = BTreeSet::from([OPERATORS_PAGE.to_owned()]);
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        calls.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let row = Regex::new(r"(?m)^\| `((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)").unwrap();
    let page = fs::read_to_string(workspace().join(PAGE)).unwrap();
    let listed: BTreeSet<String> =
        row.captures_iter(&page).map(|found| found[1].to_owned()).collect();
    let differences: Vec<_> = calls.symmetric_difference(&listed).collect();
    assert!(differences.is_empty(), "in only one of {PAGE} and openapi.json: {differences:?}");
}

#[test]
fn the_page_names_every_field() {
    let openapi = openapi();
    let codes = Page::read(&workspace().join(PAGE)).codes;
    let mut missing = Vec::new();
    for schema in SCHEMAS {
        let members = openapi["components"]["schemas"][schema]["properties"].as_object().unwrap();
        missing.extend(members.keys().filter(|member| !codes.contains(member)));
    }
    assert!(missing.is_empty(), "{PAGE} does not name {missing:?}");
}

#[test]
fn the_page_names_every_error_type() {
    let urn = Regex::new("urn:posthaste:([a-z-]+)").unwrap();
    let source = fs::read_to_string(workspace().join("functions/api/src/problem.rs")).unwrap();
    let types: BTreeSet<&str> =
        urn.captures_iter(&source).map(|found| found.get(1).unwrap().as_str()).collect();
    let codes = Page::read(&workspace().join(PAGE)).codes;
    let missing: Vec<_> =
        types.iter().filter(|name| !codes.iter().any(|code| code == *name)).collect();
    assert!(missing.is_empty(), "{PAGE} does not name {missing:?}");
    assert!(types.len() > 10, "only {} types were found", types.len());
}
