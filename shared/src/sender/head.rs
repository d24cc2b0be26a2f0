//! Parses the status line and the header lines of a response, including those that violate RFC
//! 9112.
//!
//! Few headers matter: the framing of the body, whether the connection can be reused,
//! `Retry-After`, and `Location`. The parser skips invalid lines. After an invalid line the
//! connection is not reused, since the two sides may disagree about the end of the response.

use std::{borrow::Cow, time::Duration};

use super::body::Framing;

/// The maximum length of the status line and the blank lines before it.
pub(super) const MAX_STATUS_LINE_BYTES: usize = 8 * 1024;

/// The maximum length of the header lines. Header lines beyond it are ignored.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The beginning of every HTTP/1.x status line, compared without regard to case.
const VERSION: &[u8] = b"HTTP/1.";

/// A complete status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    /// Whether the version is HTTP/1.0.
    pub(super) is_http10: bool,
    /// 100 to 999.
    pub(super) code: u16,
}

impl StatusLine {
    /// Whether another status line follows. After 101, the connection no longer uses HTTP.
    pub(super) fn is_interim(self) -> bool {
        (100..200).contains(&self.code) && self.code != 101
    }
}

/// The beginning of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// More bytes are needed.
    Incomplete,
    /// Not HTTP/1.x.
    NotHttp,
    /// A status line, and its length with the blank lines before it.
    Status(StatusLine, usize),
}

/// Parses the status line. Accepts blank lines before it, several spaces, a missing reason phrase,
/// a line end without CR, and lower case, since the status is unambiguous.
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

/// Parses the text after `HTTP/1.`: the minor version, spaces, three digits, and a space or the
/// end.
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

/// The length of the header lines including the blank line at their end, or `None` if they are
/// incomplete. The search begins at `from`.
pub(super) fn end_of_lines(bytes: &[u8], from: usize) -> Option<usize> {
    let mut start = from;
    loop {
        let end = start + bytes.get(start..)?.iter().position(|byte| *byte == b'\n')?;
        // A blank line has no byte except CR.
        let line_start =
            bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
        if matches!(&bytes[line_start..end], b"" | b"\r") {
            return Some(end + 1);
        }
        start = end + 1;
    }
}

/// The relevant header lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// Whether the connection can be reused after the body.
    pub(super) is_reusable: bool,
    /// How long the server keeps an idle connection (`Keep-Alive: timeout=N`).
    pub(super) keep_alive: Option<Duration>,
    /// The unparsed values of `Retry-After`.
    pub(super) retry_after: Vec<String>,
    pub(super) location: Option<String>,
}

impl Head {
    /// Parses the header lines. Of an incomplete head, it parses the complete lines.
    pub(super) fn parse(status: StatusLine, lines: &[u8], is_complete: bool) -> Self {
        let mut seen = Seen::default();
        let is_sound = each_field(lines, |name, value| seen.note(name, value)) && is_complete;
        let framing = seen.framing(status);
        let is_persistent = (!status.is_http10 || seen.says_keep_alive) && !seen.says_close;
        let is_unambiguous = match framing {
            Framing::UntilClose => false,
            // RFC 9112, 6.1 and 6.3: HTTP/1.0 does not support chunks, and chunks together with a
            // length can be an attack.
            Framing::Chunked(_) => !status.is_http10 && seen.length == Length::Absent,
            // A status without a body, but with a length: the body may still follow.
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
            // The last coding decides. Further lines add codings.
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

/// Calls `note` with the name and the value of each field, with folded lines unfolded (RFC 9112,
/// 5.2). Returns whether all lines are valid.
fn each_field(lines: &[u8], mut note: impl FnMut(&[u8], &[u8])) -> bool {
    let mut is_sound = true;
    let mut current: Option<(&[u8], Cow<'_, [u8]>)> = None;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            // The line is incomplete.
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
                // A space before the colon is invalid, since implementations treat it differently
                // (RFC 9112, 5.1).
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

/// Whether a header value must not contain this byte: control characters except tabs.
fn is_forbidden(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}

/// The entries of a comma-separated list.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Parses `timeout=N`. Returns `None` for other parameters and for invalid numbers.
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
