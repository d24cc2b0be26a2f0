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
    assert_eq!(answer.error.is_none(), is_success, "a 2xx delivers, and nothing else does: {answer:?}");
    assert_eq!(answer.error == Some(ErrorKind::HttpStatus), answer.status_code.is_some() && !is_success, "{answer:?}");
    // It closes the connection at once, so nothing has to be waited for.
    assert!(!matches!(answer.error, Some(ErrorKind::Timeout | ErrorKind::RefusedAddress)), "{answer:?}");
    assert!(answer.message.as_ref().is_none_or(|text| text.len() <= MAX_ERROR_BYTES), "{answer:?}");
    assert!(answer.response_excerpt.as_ref().is_none_or(|text| text.len() <= MAX_EXCERPT_BYTES && !is_success), "{answer:?}");
    assert!(answer.retry_after.is_none() || matches!(answer.status_code, Some(429 | 503)), "{answer:?}");
    let outcome = Outcome { error: answer.error, status_code: answer.status_code, retry_after: answer.retry_after };
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
    engine::run(bolero::check!(), "answers__whole", &words, |bytes| judge(&wire.send_here(&[], bytes)));
}

/// `Retry-After` alone: a number of seconds or a date, and then no less is waited than is asked for; or it is as if it were not there.
#[test]
fn retry_after() {
    let wire = Wire::start(local());
    let words = ["Sun, 06 Nov 1994 08:49:37 GMT", "Nov", "GMT", "31536000", "  ", "2099"];
    engine::run(bolero::check!(), "answers__retry_after", &words, |value| {
        let is_value = value.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte) || *byte >= 0x80);
        // Longer ones are a matter of the library's limit for a whole answer.
        if !is_value || value.len() > 8000 {
            return;
        }
        let bytes =
            [b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: ", value, b"\r\n\r\n"].concat();
        let answer = wire.send_here(&[], &bytes);
        assert_eq!(answer.status_code, Some(503), "{answer:?}");
        judge(&answer);
        let text = std::str::from_utf8(value).unwrap_or_default().trim_matches([' ', '\t']);
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let seconds = text.parse().unwrap_or(u64::MAX).min(u32::MAX.into());
            assert_eq!(answer.retry_after, Some(Duration::from_secs(seconds)));
        } else if !text.ends_with("GMT") && !text.contains(':') {
            assert_eq!(answer.retry_after, None, "neither a number nor a date");
        }
    });
}
