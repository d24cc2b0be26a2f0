//! Reads a response's status line and header lines, as receivers send them and not as RFC 9112 has
//! them.
//!
//! Only few of them matter: how the body is framed, whether the connection may serve again,
//! `Retry-After` and `Location`. A line that cannot be read is skipped, and marks the head as
//! broken, so that the connection is not used again: after such a line the two sides may not agree
//! on where the response ends.

use std::{borrow::Cow, time::Duration};

use super::body::Framing;

/// The longest status line, with the blank lines before it. A longer one is not waited for.
pub(super) const MAX_STATUS_LINE_BYTES: usize = 8 * 1024;

/// The most that is read of the header lines. If there are more, the ones within count.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What every status line of HTTP/1.x begins with, in upper case or lower.
const VERSION: &[u8] = b"HTTP/1.";

/// A complete status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    /// `HTTP/1.0` and no later version.
    pub(super) is_http10: bool,
    /// 100 to 999.
    pub(super) code: u16,
}

impl StatusLine {
    /// Whether another status line follows. 101 is the last one: what follows it is not HTTP.
    pub(super) fn is_interim(self) -> bool {
        (100..200).contains(&self.code) && self.code != 101
    }
}

/// What a response begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Too little to say.
    Incomplete,
    /// Nothing of HTTP/1.x.
    NotHttp,
    /// A status line, and how many bytes it and what stood before it take.
    Status(StatusLine, usize),
}

/// Reads the status line. Blank lines before it, more blanks than one, a missing reason phrase, a
/// line end without CR and lower case are accepted: none of them leaves a doubt about the status.
pub(super) fn status_line(bytes: &[u8]) -> Beginning {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
    let rest = &bytes[start..];
    let compared = rest.len().min(VERSION.len());
    if !rest[..compared].eq_ignore_ascii_case(&VERSION[..compared]) {
        return Beginning::NotHttp;
    }
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        return Beginning::Incomplete;
    };
    match parse_status_line(&rest[VERSION.len().min(end)..end]) {
        Some(line) => Beginning::Status(line, start + end + 1),
        None => Beginning::NotHttp,
    }
}

/// What follows `HTTP/1.`: the minor version, blanks, three digits, and blanks or the end after
/// them.
fn parse_status_line(rest: &[u8]) -> Option<StatusLine> {
    let (minor, rest) = rest.split_first()?;
    if !minor.is_ascii_digit() || !rest.first().is_some_and(u8::is_ascii_whitespace) {
        return None;
    }
    let (digits, rest) = rest.trim_ascii_start().split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !rest.first().is_none_or(u8::is_ascii_whitespace) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (code >= 100).then_some(StatusLine { is_http10: *minor == b'0', code })
}

/// How many bytes the header lines take with the blank line that ends them; `None` if that has not
/// come. What is before `from` was looked through before.
pub(super) fn end_of_lines(bytes: &[u8], from: usize) -> Option<usize> {
    let mut start = from;
    loop {
        let end = start + bytes.get(start..)?.iter().position(|byte| *byte == b'\n')?;
        // A line is blank if nothing but CR stands between two LFs, or before the first.
        let line_start =
            bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
        if matches!(&bytes[line_start..end], b"" | b"\r") {
            return Some(end + 1);
        }
        start = end + 1;
    }
}

/// What the header lines say, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// Whether the connection may serve another request once the body has ended.
    pub(super) is_reusable: bool,
    /// How long the server keeps an idle connection (`Keep-Alive: timeout=N`).
    pub(super) keep_alive: Option<Duration>,
    /// The values of `Retry-After`, each as it came.
    pub(super) retry_after: Vec<String>,
    pub(super) location: Option<String>,
}

impl Head {
    /// Reads the header lines; those of a head that broke off as far as they are whole.
    pub(super) fn parse(status: StatusLine, lines: &[u8], is_complete: bool) -> Self {
        let mut seen = Seen::default();
        let is_sound = each_field(lines, |name, value| seen.note(name, value)) && is_complete;
        let framing = seen.framing(status);
        let is_persistent = (!status.is_http10 || seen.says_keep_alive) && !seen.says_close;
        let is_unambiguous = match framing {
            Framing::UntilClose => false,
            // RFC 9112, 6.1 and 6.3: HTTP/1.0 does not know it, and with a length beside it, it may
            // be an attack.
            Framing::Chunked(_) => !status.is_http10 && seen.length == Length::Absent,
            // The body that its length announces, although its status has none, may still come.
            Framing::Length(0) => {
                matches!(seen.length, Length::Absent | Length::Known(0))
                    && seen.coding == Coding::Absent
            }
            Framing::Length(_) => true,
        };
        let is_reusable = is_sound && is_persistent && is_unambiguous && status.code != 101;
        let Seen { keep_alive, retry_after, location, .. } = seen;
        Self { framing, is_reusable, keep_alive, retry_after, location }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    Absent,
    Known(u64),
    Contradictory,
}

/// The last transfer coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    Absent,
    Chunked,
    Other,
}

#[derive(Debug, Default)]
struct Seen {
    length: Length,
    coding: Coding,
    says_close: bool,
    says_keep_alive: bool,
    keep_alive: Option<Duration>,
    retry_after: Vec<String>,
    location: Option<String>,
}

impl Seen {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("content-length") {
            list(value).for_each(|length| self.note_length(length));
        } else if is("transfer-encoding") {
            // The last coding decides; each further line adds some.
            let is_chunked =
                list(value).last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
            self.coding = if is_chunked { Coding::Chunked } else { Coding::Other };
        } else if is("connection") {
            self.says_close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
            self.says_keep_alive |=
                list(value).any(|option| option.eq_ignore_ascii_case(b"keep-alive"));
        } else if is("keep-alive") {
            let timeout = list(value).filter_map(keep_alive_timeout).min();
            self.keep_alive = self.keep_alive.into_iter().chain(timeout).min();
        } else if is("retry-after") {
            self.retry_after.push(String::from_utf8_lossy(value).into_owned());
        } else if is("location") && self.location.is_none() {
            self.location = Some(String::from_utf8_lossy(value).into_owned());
        }
    }

    fn note_length(&mut self, digits: &[u8]) {
        self.length = match (self.length, decimal(digits)) {
            (Length::Absent, Some(length)) => Length::Known(length),
            (Length::Known(known), Some(length)) if known == length => self.length,
            _ => Length::Contradictory,
        }
    }

    /// RFC 9112, 6.3.
    fn framing(&self, status: StatusLine) -> Framing {
        match (self.coding, self.length) {
            _ if matches!(status.code, 204 | 304) => Framing::Length(0),
            (Coding::Chunked, _) => Framing::chunked(),
            (Coding::Absent, Length::Known(length)) => Framing::Length(length),
            (Coding::Absent | Coding::Other, _) => Framing::UntilClose,
        }
    }
}

/// Calls `note` with each field's name and value, with folded lines unfolded (RFC 9112, 5.2).
/// Whether all lines could be read.
fn each_field(lines: &[u8], mut note: impl FnMut(&[u8], &[u8])) -> bool {
    let mut is_sound = true;
    let mut current: Option<(&[u8], Cow<'_, [u8]>)> = None;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            // It broke off.
            is_sound = false;
            break;
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if matches!(line.first(), Some(b' ' | b'\t')) {
            match &mut current {
                Some((_, value)) => {
                    let value = value.to_mut();
                    value.push(b' ');
                    value.extend_from_slice(line.trim_ascii());
                }
                None => is_sound = false,
            }
            continue;
        }
        if let Some((name, value)) = current.take() {
            note(name, &value);
        }
        if line.is_empty() {
            break;
        }
        match field(line) {
            Some((name, value)) => {
                // A blank before the colon is forbidden, since some read another name (RFC 9112,
                // 5.1).
                is_sound &= !name.ends_with(b" ")
                    && !name.ends_with(b"\t")
                    && !value.iter().any(|byte| is_forbidden(*byte));
                current = Some((name.trim_ascii_end(), Cow::Borrowed(value)));
            }
            None => is_sound = false,
        }
    }
    if let Some((name, value)) = current {
        note(name, &value);
    }
    is_sound
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = &line[..colon];
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let bare = name.trim_ascii_end();
    (!bare.is_empty() && bare.iter().all(is_token)).then(|| (name, line[colon + 1..].trim_ascii()))
}

/// What no header's value may hold: control characters other than the tab.
fn is_forbidden(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}

/// The entries of a list with commas.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// `timeout=N`; `None` for any other parameter, and for what is no number.
fn keep_alive_timeout(parameter: &[u8]) -> Option<Duration> {
    let equals = parameter.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
    if !name.eq_ignore_ascii_case(b"timeout") {
        return None;
    }
    decimal(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
        .map(Duration::from_secs)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    // `str::parse` would accept a sign.
    digits
        .iter()
        .all(u8::is_ascii_digit)
        .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests;
