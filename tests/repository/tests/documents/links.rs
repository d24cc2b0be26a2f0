//! Links between the documents, and from them into the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use harness::binaries::workspace;
use repository::page::{Page, documents};

/// Pages that link each other: a reader goes from how it works to receiving, to moving from Celery,
/// to operating, and back.
const LINKED: [&str; 4] =
    ["architecture.md", "operating.md", "receiving.md", "migrating-from-celery.md"];

/// Every relative link names a file or directory of this project, and every anchor a heading of its
/// page.
#[test]
fn every_relative_link_leads_somewhere() {
    let (mut checked, mut dead) = (0, Vec::new());
    for document in documents() {
        let page = Page::read(&document);
        for link in page.links.iter().filter(|link| !is_elsewhere(link)) {
            checked += 1;
            if let Err(why) = follow(&document, &page, link) {
                dead.push(format!(
                    "{}: {link}: {why}",
                    document.strip_prefix(workspace()).unwrap().display()
                ));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
    assert!(checked > 50, "only {checked} links were found to check");
}

/// The README links each page, each page links others, and the pages of [`LINKED`] link each other.
#[test]
fn every_page_is_linked_from_the_readme_and_links_others() {
    let root = workspace().canonicalize().unwrap();
    let linked = |from: &Path| -> BTreeSet<PathBuf> {
        let page = Page::read(from);
        let files = page.links.iter().filter_map(|link| link.split('#').next());
        let files = files.filter(|link| !link.is_empty() && !is_elsewhere(link));
        files.filter_map(|link| from.parent()?.join(link).canonicalize().ok()).collect()
    };
    let pages: BTreeSet<PathBuf> =
        documents().into_iter().map(|page| page.canonicalize().unwrap()).collect();
    let readme = root.join("README.md");
    let from_readme = linked(&readme);
    let unlinked: Vec<_> = pages.difference(&from_readme).filter(|page| **page != readme).collect();
    assert!(unlinked.is_empty(), "README.md does not link {unlinked:?}");
    for page in &pages {
        let others = linked(page).intersection(&pages).filter(|other| *other != page).count();
        assert!(others >= 2, "{} links only {others} other pages", page.display());
    }
    for page in LINKED.map(|page| root.join("docs").join(page)) {
        let links = linked(&page);
        let others = LINKED.map(|other| root.join("docs").join(other));
        let unlinked: Vec<_> =
            others.iter().filter(|other| **other != page && !links.contains(*other)).collect();
        assert!(unlinked.is_empty(), "{} does not link {unlinked:?}", page.display());
    }
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

fn follow(from: &Path, page: &Page, link: &str) -> Result<(), String> {
    let (file, anchor) =
        link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() { from.to_owned() } else { from.parent().unwrap().join(file) };
    let target = target.canonicalize().map_err(|_| "no such file".to_owned())?;
    if !target.starts_with(fs::canonicalize(workspace()).unwrap()) {
        return Err("it leads out of the project".to_owned());
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let anchors = if file.is_empty() { page.anchors.clone() } else { Page::read(&target).anchors };
    if anchors.iter().any(|known| known == anchor) {
        Ok(())
    } else {
        Err(format!("no heading has that anchor: {anchors:?}"))
    }
}
