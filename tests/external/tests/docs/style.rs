//! The form of the documents: their lines are at most 100 columns long, and the README is short.

use std::fs;

use harness::binaries::workspace;

use crate::page::{Page, documents};

const MAX_COLUMNS: usize = 100;

const MAX_README_LINES: usize = 150;

/// Lines that hold a URL may be longer. A file that a page shows keeps its own lines.
#[test]
fn no_line_is_longer_than_100_columns() {
    let mut long = Vec::new();
    for document in documents() {
        let mut text = fs::read_to_string(&document).unwrap();
        for block in Page::read(&document).blocks {
            if block.info.contains(' ') {
                text = text.replace(&block.text, &"\n".repeat(block.text.lines().count()));
            }
        }
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.chars().count() > MAX_COLUMNS && !line.contains("://"));
        long.extend(lines.map(|(index, _)| format!("{}:{}", document.display(), index + 1)));
    }
    assert!(long.is_empty(), "longer than {MAX_COLUMNS} columns:\n{}", long.join("\n"));
}

#[test]
fn the_readme_fits_on_three_screens() {
    let lines = fs::read_to_string(workspace().join("README.md")).unwrap().lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines");
}
