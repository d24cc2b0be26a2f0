//! The tour and the README's example, typed in as printed: each `sh` block in one shell after the
//! other. What a block prints must be what the page shows below it.
//!
//! Three things are replaced: the commands that start the stack and the receiver, by the binaries
//! of this build; the three ports, by free ones; and the data directory, by a fresh one. On Redis
//! the tour is the same except for the line that names the backend. Times, ids and milliseconds may
//! differ from the page, and `…` stands for any text.

use std::{fs, path::Path, time::Instant};

use harness::{binaries::workspace, redis_server::RedisServer};
use regex::Regex;
use repository::page::{Block, Page};
use tempfile::TempDir;

use crate::shell::{BOUND, POLL_INTERVAL, Shell, Started, free_ports};

/// The sections that are typed in, by page.
const TOUR: (&str, &[&str]) = ("docs/tour.md", &["Five minutes with it"]);
const README: (&str, &[&str]) = ("README.md", &["Run it", "Send, fail, explain, redrive"]);

/// The commands that start a program, its name, and what it prints when it is ready.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("cargo run --release -p local", "local", "… API http://127.0.0.1:8000 …"),
    (
        "cargo run --release -p tools --bin webhook-receiver",
        "webhook-receiver",
        "webhook-receiver listens at http://127.0.0.1:9001/ …",
    ),
];

/// The ports that the pages print: the API's, the metrics', the receiver's.
const PORTS: [&str; 3] = ["8000", "8001", "9001"];

/// The one line of the stack's output that another backend changes.
const BACKEND: &str = "SQLite, one file: .posthaste/posthaste.db";

#[test]
fn the_tour_works_as_printed() {
    walk(TOUR, &[], BACKEND);
}

#[test]
fn the_readme_works_as_printed() {
    walk(README, &[], BACKEND);
}

#[test]
fn the_tour_is_the_same_on_redis() {
    let server = RedisServer::durable().unwrap();
    let port = server.port().to_string();
    let settings = [
        ("STATUS_BACKEND", "redis"),
        ("QUEUE_BACKEND", "redis"),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &port),
        // The embedded store makes one by itself.
        ("MASTER_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ];
    let [status, queue] =
        [2, 1].map(|database| format!("Redis, redis://127.0.0.1:{port}/{database}"));
    walk(TOUR, &settings, &format!("webhooks in {status}; messages in {queue}"));
}

/// Types the sections of a page in, with these settings of the stack.
fn walk((page, sections): (&str, &[&str]), settings: &[(&str, &str)], backend: &str) {
    let blocks: Vec<Block> = Page::read(&workspace().join(page))
        .blocks
        .into_iter()
        .filter(|block| sections.contains(&&*block.section))
        .collect();
    let folder = TempDir::new().unwrap();
    let shell = Shell::start(folder.path());
    let mut tour = Tour {
        ports: free_ports(),
        shell,
        started: Vec::new(),
        folder: folder.path(),
        settings,
        backend,
    };
    let mut typed = 0;
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.info == "sh") {
        let printed = blocks.get(index + 1).filter(|next| next.info != "sh");
        tour.type_in(&block.text, printed.map(|block| &*block.text));
        typed += 1;
        // A second block of output shows the receiver's log.
        if let Some(log) =
            blocks.get(index + 2).filter(|next| printed.is_some() && next.info == "text")
        {
            tour.expect_logged("webhook-receiver", &log.text);
        }
    }
    assert!(typed >= 6, "{page} has {typed} blocks to type in");
    assert_eq!(tour.started.len(), 2, "{page} starts the stack and a receiver");
}

struct Tour<'a> {
    ports: [String; 3],
    shell: Shell,
    /// Ended when the tour is dropped.
    started: Vec<Started>,
    folder: &'a Path,
    settings: &'a [(&'a str, &'a str)],
    backend: &'a str,
}

impl Tour<'_> {
    /// Types a block in and checks what it prints. If its last command is a GET, the command is
    /// repeated until it prints what the page shows.
    fn type_in(&mut self, text: &str, printed: Option<&str>) {
        let program = PROGRAMS.into_iter().find(|(command, ..)| text.trim() == *command);
        if let Some((_, name, ready)) = program {
            self.started.push(Started::start(name, &self.ports, self.folder, self.settings));
            self.expect_logged(name, printed.unwrap_or(ready));
            return;
        }
        let text = self.ported(text);
        let output = self.shell.run(&text);
        let printed = printed.unwrap_or_else(|| panic!("the page shows no output of:\n{text}"));
        let get = text
            .lines()
            .last()
            .filter(|last| last.starts_with("curl ") && !last.contains("POST"))
            .map(str::to_owned);
        self.expect(printed, output, |tour| get.as_ref().map(|get| tour.shell.run(get)));
    }

    fn expect_logged(&mut self, name: &str, printed: &str) {
        let log = self.folder.join(format!("{name}.log"));
        self.expect(printed, String::new(), |_| Some(fs::read_to_string(&log).unwrap_or_default()));
    }

    fn expect(
        &mut self,
        printed: &str,
        mut output: String,
        mut again: impl FnMut(&mut Self) -> Option<String>,
    ) {
        let wanted = pattern(&self.ported(printed));
        let deadline = Instant::now() + BOUND;
        while !wanted.is_match(&output) {
            assert!(
                Instant::now() < deadline,
                "printed:\n{output}\n\ninstead of:\n{printed}\n\nas a pattern:\n{wanted}"
            );
            std::thread::sleep(POLL_INTERVAL);
            output = again(self).unwrap_or(output);
        }
    }

    fn ported(&self, text: &str) -> String {
        PORTS.iter().zip(&self.ports).fold(
            text.replace(BACKEND, self.backend),
            |text, (printed, ours)| {
                text.replace(&format!("127.0.0.1:{printed}"), &format!("127.0.0.1:{ours}"))
            },
        )
    }
}

/// A pattern for `printed` in which times, ids, milliseconds and line breaks may differ, and `…`
/// matches any text.
fn pattern(printed: &str) -> Regex {
    let varying = Regex::new(concat!(
        r"(?P<time>\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z)",
        r"|(?P<id>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})",
        r"|(?P<ms>\b\d+ ms\b)|(?P<space>\s+)|(?P<rest>\s*…\s*)"
    ))
    .unwrap();
    let (mut pattern, mut end) = (String::new(), 0);
    let printed = printed.trim();
    for found in varying.captures_iter(printed) {
        let whole = found.get(0).unwrap();
        pattern += &regex::escape(&printed[end..whole.start()]);
        let anew = [
            ("time", r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z"),
            ("id", "[0-9a-f-]{36}"),
            ("ms", r"\d+ ms"),
            ("rest", "(?s:.*)"),
        ];
        // White space: the pages break long lines between tokens or within a sentence.
        pattern += anew
            .into_iter()
            .find(|(name, _)| found.name(name).is_some())
            .map_or(r"\s*", |(_, pattern)| pattern);
        end = whole.end();
    }
    pattern += &regex::escape(&printed[end..]);
    Regex::new(&pattern).unwrap()
}

#[test]
fn a_pattern_matches_what_was_printed_at_another_time_and_nothing_else() {
    let wanted = pattern(
        "… {\"at\":\"2026-11-22T06:30:25.570Z\",\"why\":\"503 after 0 ms\",\n   \"next\": \"at\n   \
         noon\"}, …",
    );
    assert!(wanted.is_match(
        "[{\"at\":\"2027-01-01T00:00:00.001Z\",\"why\":\"503 after 17 \
        ms\",\"next\":\"at noon\"}, 1]"
    ));
    assert!(!wanted.is_match(
        "[{\"at\":\"2027-01-01T00:00:00.001Z\",\"why\":\"500 after 17 \
        ms\",\"next\":\"at noon\"}, 1]"
    ));
}
