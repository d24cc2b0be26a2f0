//! Sentences that the documents quote from responses.

use std::fs;

use harness::binaries::workspace;
use regex::Regex;
use repository::page::Page;

use crate::names::rust_in;

/// The sentences that a page shows in responses are sentences of the code. Of each, the longest
/// part is looked up that holds no number, since numbers vary.
#[test]
fn every_sentence_that_a_page_quotes_is_one_of_the_code() {
    let pattern =
        Regex::new(r#""(?:why|what|detail|message)":"([^"]+)"|"warnings":\["([^\]]+)"\]"#);
    let pattern = pattern.unwrap();
    let time = Regex::new(r"\d{4}-\d{2}-\d{2}T[0-9:.]+Z").unwrap();
    let code: String = ["shared/src", "functions", "infra/local/src"]
        .into_iter()
        .flat_map(|folder| rust_in(&workspace().join(folder)))
        .map(|file| fs::read_to_string(file).unwrap())
        .map(|text| words(&text.replace("\\\n", " ").replace("{{", "{").replace("}}", "}")))
        .collect();
    let (mut checked, mut unknown) = (0, Vec::new());
    for page in ["docs/operating.md", "docs/tour.md", "README.md"] {
        let blocks = Page::read(&workspace().join(page)).blocks;
        for block in blocks.iter().filter(|block| block.info == "json" || block.info == "text") {
            let text = words(&time.replace_all(&block.text, "0"));
            for found in pattern.captures_iter(&text) {
                let quoted = found.get(1).or(found.get(2)).unwrap().as_str();
                let parts = quoted.split(|c: char| ".:;()\"…".contains(c) || c.is_ascii_digit());
                let longest = parts.map(str::trim).max_by_key(|part| part.len()).unwrap();
                checked += 1;
                // A message about a field may follow the field's name.
                let message = longest.split_once(' ').map_or(longest, |(_, message)| message);
                if !code.contains(longest) && !code.contains(message) {
                    unknown.push(format!("{page}: {longest}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "the code does not have:\n{}", unknown.join("\n"));
    assert!(checked > 15, "only {checked} sentences were found");
}

/// The text with a single space between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
