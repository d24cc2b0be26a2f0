//! The length of lines, and of the README.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::binaries::workspace;

/// Characters of a line.
const MAX_COLUMNS: usize = 100;

/// Lines of the README.
const MAX_README_LINES: usize = 150;

/// Files that a program writes, that were written elsewhere, or whose bytes are test data.
const EXCEPTIONS: [&str; 9] = [
    "Cargo.lock",
    "LICENSE",
    "docs/examples/typescript/package-lock.json",
    "functions/api/openapi.json",
    "shared/golden",
    "tests/browser/package-lock.json",
    "tests/events",
    "tests/in-process/tests/fuzz/__fuzz__",
    "shared/tests/sender/certificates",
];

/// Folders that a build or a tool makes, besides those that begin with a dot.
const GENERATED: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// Folders of the repository that begin with a dot.
const HIDDEN: [&str; 2] = [".cargo", ".ci"];

#[test]
fn no_line_is_longer_than_100_columns() {
    let mut files = Vec::new();
    collect(workspace(), &mut files);
    assert!(files.len() > 300, "files of the repository: {}", files.len());
    let mut found = Vec::new();
    for file in files {
        // A file that is not text has no lines.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (index, line) in text.lines().enumerate().filter(|(_, line)| is_too_long(line)) {
            let name = file.strip_prefix(workspace()).unwrap().display();
            found.push(format!("{name}:{}: {} columns", index + 1, columns(line)));
        }
    }
    assert!(found.is_empty(), "lines of more than {MAX_COLUMNS} columns:\n{}", found.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} of {MAX_README_LINES} lines");
}

/// All files below a folder that belong to the repository.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_excepted = EXCEPTIONS.iter().any(|exception| path == workspace().join(exception));
        let is_generated = GENERATED.contains(&&*name)
            || (name.starts_with('.') && !HIDDEN.contains(&&*name))
            || is_output(&name);
        if is_excepted || is_generated {
            continue;
        }
        if kind.is_dir() {
            collect(&path, files);
        } else if kind.is_file() {
            files.push(path);
        }
    }
}

/// Whether a webhook receiver writes files of this name, as `.gitignore` lists them.
fn is_output(name: &str) -> bool {
    let is_payload = || name.strip_prefix("webhook_data_")?.strip_suffix(".json");
    name == "webhook_receiver.log" || is_payload().is_some()
}

#[test]
fn what_a_receiver_writes_is_skipped_and_sources_are_not() {
    for name in ["webhook_receiver.log", "webhook_data_20260102T030405.678Z_000007_x.json"] {
        assert!(is_output(name), "{name}");
    }
    for name in ["webhook_list.rs", "webhook_data.rs", "webhook_data_1.rs", "webhook.js"] {
        assert!(!is_output(name), "{name}");
    }
}

fn columns(line: &str) -> usize {
    line.chars().count()
}

/// A URL cannot be broken: a line may be longer by the length of its longest URL.
fn is_too_long(line: &str) -> bool {
    let url = line.split_whitespace().filter(|word| word.contains("://")).map(columns).max();
    columns(line) - url.unwrap_or_default() > MAX_COLUMNS
}

#[test]
fn a_url_does_not_count_and_characters_do() {
    let url = format!("https://example.com/{}", "x".repeat(100));
    assert!(!is_too_long(&format!("see {url}")));
    assert!(is_too_long(&format!("{} {url}", "x".repeat(101))));
    assert!(!is_too_long(&"ä".repeat(100)));
    assert!(is_too_long(&"ä".repeat(101)));
}
