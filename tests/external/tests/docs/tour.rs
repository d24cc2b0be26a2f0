//! The README's tour, typed in as it is printed: each `sh` block in one shell after the other, and
//! what it prints is what stands below it.
//!
//! Three things are replaced: what starts the stack and the receiver, by the binaries of this
//! build; the three ports, by free ones; and the data folder, by a fresh one. On Redis it is the
//! same tour, but for the line that names the backend. In what is printed, times, ids and
//! milliseconds may be others, and `…` stands for anything.

use std::{fs, path::Path, time::Instant};

use harness::{binaries::workspace, redis_server::RedisServer};
use regex::Regex;
use tempfile::TempDir;

use crate::{
    page::{Block, Page},
    shell::{BOUND, POLL_INTERVAL, Shell, Started, free_ports},
};

/// The part of the README that is the tour.
const SECTION: &str = "Five minutes with it";

/// The ports that the README prints: the API's, the metrics', the receiver's.
const PORTS: [&str; 3] = ["8000", "8001", "9001"];

/// What the stack prints of its backend, which is the one line that another backend changes.
const BACKEND: &str = "SQLite, one file: .posthaste/posthaste.db";

#[test]
fn the_tour_works_as_printed() {
    walk(&[], BACKEND);
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
    ];
    let [status, queue] =
        [2, 1].map(|database| format!("Redis, redis://127.0.0.1:{port}/{database}"));
    walk(&settings, &format!("webhooks in {status}; messages in {queue}"));
}

/// Types the tour in, with these settings of the stack.
fn walk(settings: &[(&str, &str)], backend: &str) {
    let blocks: Vec<Block> = Page::read(&workspace().join("README.md"))
        .blocks
        .into_iter()
        .filter(|block| block.section == SECTION)
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
        // A second block of output shows what the receiver has logged meanwhile.
        if let Some(log) =
            blocks.get(index + 2).filter(|next| printed.is_some() && next.info == "text")
        {
            tour.expect_logged("webhook-receiver", &log.text);
        }
    }
    assert!(typed >= 6, "the tour has {typed} blocks to type in");
    assert_eq!(tour.started.len(), 2, "the tour starts the stack and a receiver");
}

struct Tour<'a> {
    ports: [String; 3],
    shell: Shell,
    /// Dropped, and so ended, with it.
    started: Vec<Started>,
    folder: &'a Path,
    settings: &'a [(&'a str, &'a str)],
    backend: &'a str,
}

impl Tour<'_> {
    /// Types a block in and checks what it prints. Its last command only asks, if it is no POST; so
    /// it may be asked until it is so.
    fn type_in(&mut self, text: &str, printed: Option<&str>) {
        if let Some(program) = ["-p local", "--bin webhook-receiver"]
            .into_iter()
            .find(|program| text.contains(program))
        {
            let name = program.split(' ').nth(1).unwrap();
            assert_eq!(text.trim(), format!("cargo run --release {program}"));
            self.started.push(Started::start(name, &self.ports, self.folder, self.settings));
            self.expect_logged(
                name,
                printed.unwrap_or("webhook-receiver listens at http://127.0.0.1:9001/ …"),
            );
            return;
        }
        let text = self.ported(text);
        let output = self.shell.run(&text);
        let printed = printed.unwrap_or_else(|| panic!("nothing stands below:\n{text}"));
        let asks = text
            .lines()
            .last()
            .filter(|last| last.starts_with("curl ") && !last.contains("POST"))
            .map(str::to_owned);
        self.expect(printed, output, |tour| asks.as_ref().map(|asks| tour.shell.run(asks)));
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

/// What matches all that differs from `printed` only in times, ids, milliseconds, in how its lines
/// are broken, and where it says `…`.
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
        // White space: a line is broken in the README where it was too long, between tokens or
        // within a sentence.
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
