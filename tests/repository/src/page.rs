//! A document, read as Markdown.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use harness::binaries::workspace;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The parts of a document that the tests read.
#[derive(Debug, Default)]
pub struct Page {
    /// The targets of links and images, as written.
    pub links: Vec<String>,
    /// The anchors of its headings, as GitHub makes them.
    pub anchors: Vec<String>,
    /// The texts of its code spans.
    pub codes: Vec<String>,
    /// Its fenced blocks, in order.
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The heading above it.
    pub section: String,
    /// What follows the fence: the language, perhaps more.
    pub info: String,
    /// Its text.
    pub text: String,
}

impl Page {
    /// Reads a file.
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    pub fn read(path: &Path) -> Self {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text)
    }

    /// Parses a text.
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        let (mut heading, mut section): (Option<String>, String) = (None, String::new());
        let mut block: Option<Block> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    section = heading.take().unwrap_or_default();
                    let anchor = anchor(&section);
                    let again = taken.entry(anchor.clone()).or_default();
                    page.anchors.push(if *again == 0 {
                        anchor
                    } else {
                        format!("{anchor}-{again}")
                    });
                    *again += 1;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    block = Some(Block {
                        section: section.clone(),
                        info: info.to_string(),
                        text: String::new(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Code(text) if heading.is_none() => page.codes.push(text.to_string()),
                Event::Text(text) | Event::Code(text) => match (&mut block, &mut heading) {
                    (Some(block), _) => block.text += &text,
                    (None, Some(heading)) => *heading += &text,
                    (None, None) => {}
                },
                _ => {}
            }
        }
        page
    }
}

/// GitHub's rule: lower case, no punctuation but hyphens and underscores, a hyphen for each space.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// The documents of this project: those at its root, infra's, and `docs/`.
///
/// # Panics
///
/// If a folder cannot be read.
pub fn documents() -> Vec<PathBuf> {
    let markdown = |folder: &str| -> Vec<PathBuf> {
        let entries =
            fs::read_dir(workspace().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    };
    let mut found = [markdown("."), markdown("infra"), markdown("docs")].concat();
    found.sort();
    found
}

#[test]
fn a_page_is_read_as_github_shows_it() {
    let page = Page::parse(
        "# A `b`, c & d\n\n[`x`](y.md#z) ![i](i.png)\n\n## A\n\n```sh more\nls\n```\n\n## A\n",
    );
    assert_eq!(page.anchors, ["a-b-c--d", "a", "a-1"]);
    assert_eq!(page.links, ["y.md#z", "i.png"]);
    assert_eq!(page.codes, ["x"]);
    assert_eq!(
        page.blocks,
        [Block { section: "A".into(), info: "sh more".into(), text: "ls\n".into() }]
    );
}
