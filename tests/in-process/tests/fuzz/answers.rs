//! What destinations answer, over a real connection.

use std::time::Duration;

use shared::{
    model::{ErrorKind, MAX_ERROR_BYTES, MAX_EXCERPT_BYTES},
    retry::{Outcome, RetryPolicy, Verdict},
    sender::{Answer, GuardSettings},
};

use crate::{engine, server::Wire};

fn local() -> GuardSettings {
    GuardSettings { allow_private: true, ..GuardSettings::default() }
}

/// What holds of every answer, and what the retry policy makes of it.
fn judge(answer: &Answer) {
    let is_success = answer.status_code.is_some_and(|code| (200..300).contains(&code));
    assert_eq!(
        answer.error.is_none(),
        is_success,
        "a 2xx delivers, and nothing else does: {answer:?}"
    );
    assert_eq!(
        answer.error == Some(ErrorKind::HttpStatus),
        answer.status_code.is_some() && !is_success,
        "{answer:?}"
    );
    // It closes the connection at once, so nothing has to be waited for.
    assert!(
        !matches!(answer.error, Some(ErrorKind::Timeout | ErrorKind::RefusedAddress)),
        "{answer:?}"
    );
    assert!(answer.message.as_ref().is_none_or(|text| text.len() <= MAX_ERROR_BYTES), "{answer:?}");
    assert!(
        answer
            .response_excerpt
            .as_ref()
            .is_none_or(|text| text.len() <= MAX_EXCERPT_BYTES && !is_success),
        "{answer:?}"
    );
    assert!(
        answer.retry_after.is_none() || answer.error == Some(ErrorKind::HttpStatus),
        "{answer:?}"
    );
    let outcome = Outcome {
        error: answer.error,
        status_code: answer.status_code,
        retry_after: answer.retry_after,
    };
    let policy = RetryPolicy::default();
    if let Verdict::Retry { wait, .. } = policy.verdict(&outcome, 1, 0.5) {
        let asked = answer.retry_after.unwrap_or_default().min(policy.retry_after_cap);
        assert!(wait >= asked && wait <= policy.retry_after_cap, "{wait:?} after {answer:?}");
    }
}

/// The whole answer.
#[test]
fn whole() {
    let wire = Wire::start(local());
    let words = [
        "HTTP/1.1 ",
        "200 OK\r\n",
        "503 x\r\n",
        "100 Continue\r\n\r\n",
        "101 x\r\n",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
    ];
    engine::run(bolero::check!(), "answers__whole", &words, |bytes| {
        let answer = wire.send_here(&[], bytes);
        judge(&answer);
        if let Some(code) = plain_status(bytes) {
            assert_eq!(
                answer.status_code,
                Some(code),
                "a complete status line decides: {answer:?}"
            );
        }
    });
}

/// The status of a line as RFC 9112 has it, if the answer begins with one that is not interim.
fn plain_status(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let line = rest
        .split(|byte| *byte == b'\n')
        .next()
        .filter(|line| line.len() < rest.len() && line.len() < 8000)?;
    let code: u16 = std::str::from_utf8(line.get(..3)?)
        .ok()?
        .parse()
        .ok()
        .filter(|code| (200..1000).contains(code))?;
    matches!(line.get(3), Some(b' ' | b'\r')).then_some(code)
}

/// `Retry-After` alone: a number of seconds or a date, and then no less is waited than is asked
/// for; or it is as if it were not there.
#[test]
fn retry_after() {
    let wire = Wire::start(local());
    let words =
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Nov", "GMT", "31536000", "  ", "2099", ", ", ".5", ".0"];
    engine::run(bolero::check!(), "answers__retry_after", &words, |value| {
        let is_value = value
            .iter()
            .all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte) || *byte >= 0x80);
        // Longer ones are a matter of the library's limit for a whole answer.
        if !is_value || value.len() > 8000 {
            return;
        }
        let bytes = [
            b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: ",
            value,
            b"\r\n\r\n",
        ]
        .concat();
        let answer = wire.send_here(&[], &bytes);
        assert_eq!(answer.status_code, Some(503), "{answer:?}");
        judge(&answer);
        let text = String::from_utf8_lossy(value);
        let longest = text.split(',').filter_map(seconds).max().map(Duration::from_secs);
        // Every date has colons.
        if text.contains(':') {
            assert!(answer.retry_after >= longest, "{text:?}: {answer:?}");
        } else {
            assert_eq!(answer.retry_after, longest, "{text:?}");
        }
    });
}

/// A number of seconds, rounded up.
fn seconds(entry: &str) -> Option<u64> {
    let entry = entry.trim_matches([' ', '\t']);
    let (whole, fraction) = entry.split_once('.').unwrap_or((entry, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    let ceiling = whole
        .parse()
        .unwrap_or(u64::MAX)
        .saturating_add(u64::from(fraction.contains(|c| c != '0')));
    (is_number(whole) && is_number(fraction)).then_some(ceiling.min(u32::MAX.into()))
}
