//! Files that a page shows: a block whose fence names one (`` ```python examples/python/receive.py
//! ``) is that file.

use std::{collections::BTreeSet, fs, path::PathBuf};

use harness::binaries::workspace;

use crate::page::{Page, documents};

/// The files that `docs/receiving.md` has to show; `tests/tests/receiving` runs them.
const EXAMPLES: [&str; 3] = [
    "docs/examples/python/receive.py",
    "docs/examples/typescript/receive.ts",
    "docs/examples/rust/src/main.rs",
];

#[test]
fn every_file_that_is_shown_is_the_file() {
    let mut shown = BTreeSet::new();
    for document in documents() {
        for block in Page::read(&document).blocks {
            let Some(name) = block.info.split_whitespace().nth(1) else { continue };
            let file = document.parent().unwrap().join(name);
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(block.text, text, "{} does not show {name} as it is", document.display());
            shown.insert(file);
        }
    }
    let wanted: BTreeSet<PathBuf> =
        EXAMPLES.iter().map(|example| workspace().join(example)).collect();
    assert!(
        shown.is_superset(&wanted),
        "not shown: {:?}",
        wanted.difference(&shown).collect::<Vec<_>>()
    );
}
