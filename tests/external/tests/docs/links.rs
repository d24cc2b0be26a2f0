//! Links between the documents, and from them into the code.

use std::{fs, path::Path};

use harness::binaries::workspace;

use crate::page::{Page, documents};

/// The pages that have to be found from the README and from each other.
const PAGES: [&str; 4] =
    ["how-it-works.md", "operating.md", "receiving.md", "migrating-from-celery.md"];

/// Every relative link leads to a file or folder of this project, and every anchor to a heading of
/// its page.
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

/// Whoever has the README finds each page, and from each page the others.
#[test]
fn every_page_is_linked_from_the_readme_and_from_the_others() {
    let linked = |from: &Path| {
        Page::read(from)
            .links
            .into_iter()
            .map(|link| link.split('#').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let readme = linked(&workspace().join("README.md"));
    for page in PAGES {
        assert!(readme.contains(&format!("docs/{page}")), "README.md does not link docs/{page}");
        for other in PAGES.into_iter().filter(|other| *other != page) {
            let links = linked(&workspace().join("docs").join(other));
            assert!(links.iter().any(|link| link == page), "docs/{other} does not link {page}");
        }
    }
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

fn follow(from: &Path, page: &Page, link: &str) -> Result<(), String> {
    let (file, anchor) =
        link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() { from.to_owned() } else { from.parent().unwrap().join(file) };
    let target = target.canonicalize().map_err(|_| "there is no such file".to_owned())?;
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
