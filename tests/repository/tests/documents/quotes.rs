//! Files that a page shows: a block is that file if its fence names one, as in
//! `` ```python examples/python/receive.py ``.

use std::{collections::BTreeSet, fs, path::PathBuf};

use harness::binaries::workspace;
use repository::page::{Page, documents};

/// The files that `docs/receiving.md` must show. The tests of `receiving` run them.
const EXAMPLES: [&str; 3] = [
    "docs/examples/python/receive.py",
    "docs/examples/typescript/receive.ts",
    "docs/examples/rust/src/main.rs",
];

/// A page that shows an outdated file is rewritten before the test fails, so that the fix is a
/// commit.
#[test]
fn every_file_that_is_shown_is_the_file() {
    let (mut shown, mut outdated) = (BTreeSet::new(), Vec::new());
    for document in documents() {
        let mut page = fs::read_to_string(&document).unwrap();
        for block in Page::read(&document).blocks {
            let Some(name) = block.info.split_whitespace().nth(1) else { continue };
            let file = document.parent().unwrap().join(name);
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if block.text != text {
                let fence = format!("```{}\n", block.info);
                page = page.replace(&(fence.clone() + &block.text), &(fence + &text));
                outdated.push(format!("{}: {name}", document.display()));
                fs::write(&document, &page).unwrap();
            }
            shown.insert(file);
        }
    }
    assert!(outdated.is_empty(), "rewritten; commit the pages: {outdated:?}");
    let wanted: BTreeSet<PathBuf> =
        EXAMPLES.iter().map(|example| workspace().join(example)).collect();
    let missing: Vec<_> = wanted.difference(&shown).collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
}
