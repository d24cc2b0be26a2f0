//! The journal of a receiver: a log line and a payload file for each request.
//!
//! A separate thread writes the lines, so a slow terminal or disk does not delay responses.
//! Payloads are written before the response, so the file exists when the response arrives.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::answer::Received;

/// The maximum number of queued lines. When the queue is full, requests wait.
const MAX_QUEUED_LINES: usize = 65_536;

/// The maximum number of characters of a webhook-id in a file name.
const MAX_ID_CHARS: usize = 80;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    lines: Option<Lines>,
    save_dir: Option<PathBuf>,
    saved: AtomicU64,
}

#[derive(Debug)]
struct Lines {
    json: bool,
    queue: SyncSender<Option<String>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The outputs of a journal.
#[derive(Clone, Debug, Default)]
pub struct JournalOptions {
    /// Whether to write lines to standard output.
    pub stdout: bool,
    /// Whether lines are JSON objects.
    pub json: bool,
    /// The file to which lines are appended.
    pub log_file: Option<PathBuf>,
    /// The folder for payloads. It is created if it does not exist.
    pub save_dir: Option<PathBuf>,
}

impl Journal {
    /// Opens the outputs. `None` if there is no output.
    pub fn open(options: JournalOptions) -> Result<Option<Self>, JournalError> {
        let open = |path: &PathBuf| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|source| JournalError::Log { path: path.clone(), source })
        };
        let file = options.log_file.as_ref().map(open).transpose()?;
        if let Some(path) = &options.save_dir {
            std::fs::create_dir_all(path)
                .map_err(|source| JournalError::Folder { path: path.clone(), source })?;
        }
        let lines = if options.stdout || file.is_some() {
            Some(Lines::start(options.stdout, options.json, file)?)
        } else {
            None
        };
        let has_output = lines.is_some() || options.save_dir.is_some();
        Ok(has_output.then_some(Self {
            lines,
            save_dir: options.save_dir,
            saved: AtomicU64::new(0),
        }))
    }

    /// Writes the line of a request. `code` is `None` if there was no response.
    pub(super) fn line(&self, request: &Received, code: Option<u16>, took: Duration) {
        let Some(lines) = &self.lines else { return };
        let line = Line {
            time: format!("{:.3}", Timestamp::now()),
            method: request.method.as_str(),
            path: request.uri.path_and_query().map_or("", |path| path.as_str()),
            webhook_id: request.webhook_id(),
            attempt: request.attempt(),
            bytes: request.body.len(),
            signature: request.verdict.as_str(),
            code,
            took_ms: took.as_millis(),
        };
        let text = if lines.json {
            serde_json::to_string(&line).unwrap_or_default()
        } else {
            line.to_string()
        };
        let _ = lines.queue.send(Some(text));
    }

    /// The file for the payload of a request, if payloads are saved.
    pub(super) fn file_for(&self, request: &Received) -> Option<PathBuf> {
        let folder = self.save_dir.as_deref()?;
        let number = self.saved.fetch_add(1, Relaxed) + 1;
        Some(folder.join(file_name(
            Timestamp::now(),
            number,
            request.webhook_id().unwrap_or("no-id"),
        )))
    }

    /// Writes the queued lines and stops the writing thread.
    pub fn close(&self) {
        if let Some(lines) = &self.lines {
            let _ = lines.queue.send(None);
            let writer = lines.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let _ = writer.map(JoinHandle::join);
        }
    }
}

/// Writes a payload to a new file, unchanged.
pub(super) fn save(path: &Path, body: &Bytes) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(body)
}

fn file_name(now: Timestamp, number: u64, webhook_id: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let id: String = webhook_id.chars().take(MAX_ID_CHARS).map(safe).collect();
    format!("webhook_data_{}_{number:06}_{id}.json", now.strftime("%Y%m%dT%H%M%S%.3fZ"))
}

impl Lines {
    fn start(stdout: bool, json: bool, file: Option<File>) -> Result<Self, JournalError> {
        let (queue, waiting) = sync_channel(MAX_QUEUED_LINES);
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_lines(&waiting, stdout, file));
        Ok(Self { json, queue, writer: Mutex::new(Some(writer.map_err(JournalError::Thread)?)) })
    }
}

/// Writes lines, and flushes when the queue is empty. After an error, reports it and stops writing
/// to that output.
fn write_lines(waiting: &Receiver<Option<String>>, stdout: bool, file: Option<File>) {
    let mut outputs: Vec<(&str, Box<dyn Write>)> = Vec::new();
    if stdout {
        outputs.push(("standard output", Box::new(io::BufWriter::new(io::stdout()))));
    }
    if let Some(file) = file {
        outputs.push(("the log file", Box::new(io::BufWriter::new(file))));
    }
    let mut write = |text: Option<&str>| {
        outputs.retain_mut(|(name, output)| {
            let written = match text {
                Some(text) => writeln!(output, "{text}"),
                None => output.flush(),
            };
            if let Err(error) = &written {
                shared::complain!(
                    "webhook-receiver: cannot write to {name}: {error}. Logging to it has stopped."
                );
            }
            written.is_ok()
        });
    };
    while let Ok(Some(first)) = waiting.recv() {
        write(Some(&first));
        while let Ok(next) = waiting.try_recv() {
            let Some(next) = next else {
                write(None);
                return;
            };
            write(Some(&next));
        }
        write(None);
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    method: &'a str,
    path: &'a str,
    webhook_id: Option<&'a str>,
    attempt: Option<u32>,
    bytes: usize,
    signature: &'a str,
    code: Option<u16>,
    took_ms: u128,
}

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} webhook-id={}",
            self.time,
            self.method,
            self.path,
            self.webhook_id.unwrap_or("-")
        )?;
        match self.attempt {
            Some(attempt) => write!(f, " attempt={attempt}")?,
            None => write!(f, " attempt=-")?,
        }
        write!(f, " bytes={} signature={} ", self.bytes, self.signature)?;
        match self.code {
            Some(code) => write!(f, "-> {code}"),
            None => write!(f, "-> no response, the sender disconnected after {} ms", self.took_ms),
        }
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log file cannot be opened.
    #[error("cannot open the log file {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The folder cannot be created.
    #[error("cannot create the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The writing thread cannot be started.
    #[error("cannot start the journal's thread: {0}")]
    Thread(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_has_no_path_separators() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(
            file_name(at, 7, "../../etc/x y"),
            "webhook_data_20260102T030405.678Z_000007_------etc-x-y.json"
        );
        assert!(file_name(at, 7, &"a".repeat(4000)).len() < 200);
    }

    #[test]
    fn a_line_shows_the_response_or_that_the_sender_disconnected() {
        let line = |code| Line {
            time: "2026-01-02T03:04:05.678Z".into(),
            method: "POST",
            path: "/orders?x=1",
            webhook_id: Some("A_1"),
            attempt: Some(2),
            bytes: 17,
            signature: "valid",
            code,
            took_ms: 30_001,
        };
        let start = "2026-01-02T03:04:05.678Z POST /orders?x=1 webhook-id=A_1 attempt=2 bytes=17 \
            signature=valid ";
        assert_eq!(line(Some(200)).to_string(), format!("{start}-> 200"));
        assert_eq!(
            line(None).to_string(),
            format!("{start}-> no response, the sender disconnected after 30001 ms")
        );
    }
}
