//! Reads what a destination answered, as much of it as is of use.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use reqwest::Response;

use super::{Answer, deadline::Deadline};
use crate::model::{ErrorKind, MAX_EXCERPT_BYTES, truncated};

/// Bytes read of a response's body; then the connection is closed rather than read on.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// How long the rest of a body, of no interest by itself, is read so that the connection can serve again. No webhook's outcome
/// waits longer for it.
pub const MAX_DRAIN: Duration = Duration::from_millis(500);

/// How long the beginning of a failed attempt's body may take. The status has already decided, so the slot is worth more.
pub const MAX_EXCERPT_WAIT: Duration = Duration::from_secs(2);

/// The longest `Retry-After` told apart from longer ones; 136 years. Sums with it stay within range.
const MAX_RETRY_AFTER_SECONDS: u64 = u32::MAX as u64;

/// What came of an attempt that got a status code. It decides; trouble with the body changes nothing.
pub(super) async fn read(response: Response, deadline: Deadline) -> Answer {
    let status = response.status();
    let status_code = Some(status.as_u16());
    let retry_after = retry_after(status, response.headers(), SystemTime::now());
    let mut body = Body { response, left: MAX_RESPONSE_BYTES };
    if status.is_success() {
        body.drain(deadline).await;
        return Answer { status_code, ..Answer::default() };
    }
    let response_excerpt = body.excerpt(deadline).await;
    Answer {
        error: Some(ErrorKind::HttpStatus),
        status_code,
        retry_after,
        message: Some(describe(status)),
        response_excerpt,
        ..Answer::default()
    }
}

fn describe(status: StatusCode) -> String {
    // The name from the registry; the one on the wire may be anything.
    let name = status.canonical_reason().map(|name| format!(" {name}")).unwrap_or_default();
    let note = if status.is_redirection() { "; redirects are not followed" } else { "" };
    format!("the destination answered {}{name}{note}", status.as_u16())
}

struct Body {
    response: Response,
    left: usize,
}

impl Body {
    /// The next piece; `None` at the end, at the limit, at the deadline, and when it breaks off.
    async fn chunk(&mut self, deadline: Deadline) -> Option<bytes::Bytes> {
        if self.left == 0 {
            return None;
        }
        let chunk = deadline.run(self.response.chunk()).await?.ok()??;
        self.left = self.left.saturating_sub(chunk.len());
        Some(chunk)
    }

    /// The beginning of the body as text, if there is any.
    async fn excerpt(&mut self, deadline: Deadline) -> Option<String> {
        // A character may be cut at the end of what is read; 3 bytes more, and it is beyond the end of what is kept.
        const ENOUGH: usize = MAX_EXCERPT_BYTES + 3;
        let until = deadline.or_after(MAX_EXCERPT_WAIT);
        let mut beginning = Vec::with_capacity(ENOUGH);
        while beginning.len() < ENOUGH {
            let Some(chunk) = self.chunk(until).await else { break };
            beginning.extend_from_slice(&chunk[..chunk.len().min(ENOUGH - beginning.len())]);
        }
        if beginning.len() == ENOUGH {
            self.drain(deadline).await;
        }
        let text = String::from_utf8_lossy(&beginning);
        (!text.is_empty()).then(|| truncated(&text, MAX_EXCERPT_BYTES).to_owned())
    }

    /// Reads on to the end, so that the connection goes back to the pool, if the end is near.
    async fn drain(&mut self, deadline: Deadline) {
        let until = deadline.or_after(MAX_DRAIN);
        while self.chunk(until).await.is_some() {}
    }
}

/// `Retry-After` of a 429 or 503; ignored on any other answer.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// How long `Retry-After` asks to wait from `now` on: whole seconds or an HTTP date (RFC 9110, 10.2.3). A date that has passed
/// is no wait; what is neither is `None`.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 has are still a number, and mean "not soon".
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER_SECONDS)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let wait = date.duration_since(now).unwrap_or_default();
    Some(wait.min(Duration::from_secs(MAX_RETRY_AFTER_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW_SECONDS: u64 = 784_111_777;

    fn parse(value: &str) -> Option<u64> {
        parse_retry_after(value, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("31536000", 31_536_000),
            ("99999999999999999999999", MAX_RETRY_AFTER_SECONDS),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Mon, 06 Nov 1995 08:49:37 GMT", 31_536_000),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
        ] {
            assert_eq!(parse(value), Some(seconds), "{value}");
        }
    }

    #[test]
    fn what_is_neither_is_ignored() {
        for value in ["", " ", "-1", "+1", "1.5", "1e3", "0x10", "soon", "1 2", "Sun, 06 Nov 1994", "2026-01-01T00:00:00Z", "٣"]
        {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn only_429_and_503_may_ask() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static("5"))]);
        for code in [200, 301, 400, 408, 410, 425, 500, 502, 504] {
            assert_eq!(retry_after(StatusCode::from_u16(code).unwrap(), &headers, SystemTime::now()), None, "{code}");
        }
        for code in [429, 503] {
            let wait = retry_after(StatusCode::from_u16(code).unwrap(), &headers, SystemTime::now());
            assert_eq!(wait, Some(Duration::from_secs(5)), "{code}");
        }
    }

    #[test]
    fn a_status_is_described_by_the_registry() {
        let described = |code| describe(StatusCode::from_u16(code).unwrap());
        assert_eq!(described(503), "the destination answered 503 Service Unavailable");
        assert_eq!(described(302), "the destination answered 302 Found; redirects are not followed");
        assert_eq!(described(799), "the destination answered 799");
    }
}
