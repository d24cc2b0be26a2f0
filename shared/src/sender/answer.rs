//! Reads a response and turns it into an [`Answer`].

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::io::AsyncRead;
use url::Url;

use super::{Answer, Excerpts, deadline::Deadline, exchange::Response, pool};
use crate::model::{ErrorKind, MAX_ERROR_BYTES, MAX_EXCERPT_BYTES, truncated};

/// How long the rest of a response is read, so that the connection can be reused. The outcome of a
/// webhook waits no longer for it.
pub const MAX_DRAIN: Duration = Duration::from_millis(500);

/// The time limit for the header lines and the excerpt of a failed attempt. The status has already
/// decided, so the attempt should free its slot.
pub const MAX_EXCERPT_WAIT: Duration = Duration::from_secs(2);

/// The number of body bytes read for an excerpt. The last character can be incomplete, so 3
/// additional bytes keep it out of the excerpt.
const EXCERPT_READ_BYTES: usize = MAX_EXCERPT_BYTES + 3;

/// The maximum value of `Retry-After`: 136 years. It keeps sums of times within range.
const MAX_RETRY_AFTER_SECONDS: u64 = u32::MAX as u64;

/// Reads the rest of a response. Returns the answer and, if the connection can be reused, the
/// connection and how long to keep it.
pub(super) async fn read<S: AsyncRead + Unpin>(
    mut response: Response<S>,
    url: &Url,
    excerpts: Excerpts,
    deadline: Deadline,
) -> (Answer, Option<(S, Duration)>) {
    let status_code = response.status.code;
    let is_success = (200..300).contains(&status_code);
    let mut until = deadline.or_after(if is_success { MAX_DRAIN } else { MAX_EXCERPT_WAIT });
    let mut head = response.head(until).await;
    let mut beginning = Vec::new();
    if !is_success || excerpts == Excerpts::All {
        let keep = |part: &[u8]| {
            let wanted = part.len().min(EXCERPT_READ_BYTES - beginning.len());
            beginning.extend_from_slice(&part[..wanted]);
        };
        response.body(&mut head, until, keep, EXCERPT_READ_BYTES).await;
        if !is_success && beginning.len() == EXCERPT_READ_BYTES {
            until = deadline.or_after(MAX_DRAIN);
        }
    }
    response.body(&mut head, until, |_| (), usize::MAX).await;
    let text = String::from_utf8_lossy(&beginning);
    let response_excerpt =
        (!text.is_empty()).then(|| truncated(&text, MAX_EXCERPT_BYTES).to_owned());
    let answer = Answer { status_code: Some(status_code), response_excerpt, ..Answer::default() };
    let answer = if is_success {
        answer
    } else {
        let values = head.retry_after.iter().map(String::as_str);
        let retry_after = retry_after(values, SystemTime::now());
        let message = Some(describe(status_code, head.location.as_deref(), url));
        Answer { error: Some(ErrorKind::HttpStatus), retry_after, message, ..answer }
    };
    let keep_for = pool::keep_for(head.keep_alive);
    (answer, response.into_kept(&head).zip(keep_for))
}

fn describe(status_code: u16, location: Option<&str>, url: &Url) -> String {
    // The reason phrase in the response can be any text.
    let status = StatusCode::from_u16(status_code).ok();
    let name = status
        .and_then(|status| status.canonical_reason())
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    let mut message = format!("the destination answered {status_code}{name}");
    if (300..400).contains(&status_code) {
        if let Some(origin) = location.and_then(|location| origin(location, url)) {
            message.push_str(" with a redirect to ");
            message.push_str(&origin);
        }
        message.push_str(". Posthaste does not follow redirects");
    }
    truncated(&message, MAX_ERROR_BYTES).to_owned()
}

/// The scheme, host, and port of `Location`, relative to `url`. Path, query, and user information
/// can be secret and are left out.
fn origin(location: &str, url: &Url) -> Option<String> {
    let target = url.join(location).ok()?;
    matches!(target.scheme(), "http" | "https").then(|| target.origin().ascii_serialization())
}

/// The wait that `Retry-After` requests, from `now`. Of several values, in one line or in several,
/// the longest counts.
fn retry_after<'a>(values: impl Iterator<Item = &'a str>, now: SystemTime) -> Option<Duration> {
    values.flat_map(|value| waits(value, now)).max()
}

/// The waits in one header line. Dates contain a comma after the name of the day.
fn waits(value: &str, now: SystemTime) -> impl Iterator<Item = Duration> {
    let commas = value.match_indices(',').map(|(index, _)| index).chain([value.len()]);
    let entries =
        std::iter::once(0).chain(value.match_indices(',').map(|(index, _)| index + 1)).zip(commas);
    entries.filter_map(move |(start, end)| {
        let entry = &value[start..end];
        let with_day = value[..start].trim_end_matches(',').rfind(',').map_or(0, |comma| comma + 1);
        seconds(entry).or_else(|| date(entry, now)).or_else(|| date(&value[with_day..end], now))
    })
}

/// A number of seconds (RFC 9110, 10.2.3). Fractions, which some servers send, are rounded up.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim_ascii();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    // A number that exceeds u64 is valid and means a long wait.
    let seconds: u64 = whole.parse().unwrap_or(u64::MAX);
    let begun = u64::from(fraction.bytes().any(|byte| byte != b'0'));
    Some(Duration::from_secs(seconds.saturating_add(begun).min(MAX_RETRY_AFTER_SECONDS)))
}

/// An HTTP date. A date in the past is a wait of zero.
fn date(text: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(text.trim_ascii()).ok()?;
    let wait = date.duration_since(now).unwrap_or_default();
    Some(wait.min(Duration::from_secs(MAX_RETRY_AFTER_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW_SECONDS: u64 = 784_111_777;

    fn parse(values: &[&str]) -> Option<u64> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS);
        retry_after(values.iter().copied(), now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("1.5", 2),
            ("2.0", 2),
            ("28.0000001", 29),
            ("0.1", 1),
            ("31536000", 31_536_000),
            ("99999999999999999999999", MAX_RETRY_AFTER_SECONDS),
            ("99999999999999999999999.9", MAX_RETRY_AFTER_SECONDS),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Mon, 06 Nov 1995 08:49:37 GMT", 31_536_000),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
        ] {
            assert_eq!(parse(&[value]), Some(seconds), "{value}");
        }
    }

    #[test]
    fn of_several_waits_the_longest_counts() {
        for (values, seconds) in [
            (&["28, 2"][..], 28),
            (&["2,28"], 28),
            (&["2", "28"], 28),
            (&["2", "soon"], 2),
            (&["soon, 2, , -7"], 2),
            (&["5, Sun, 06 Nov 1994 08:50:37 GMT"], 60),
            (&["Sun, 06 Nov 1994 08:50:37 GMT, 5"], 60),
            (&["Sun, 06 Nov 1994 08:49:39 GMT, Sunday, 06-Nov-94 08:50:37 GMT"], 60),
            (&["Sun Nov  6 08:50:37 1994,7"], 60),
        ] {
            assert_eq!(parse(values), Some(seconds), "{values:?}");
        }
    }

    #[test]
    fn other_values_are_ignored() {
        for value in [
            "",
            " ",
            ",",
            "-1",
            "+1",
            "1.",
            ".5",
            "1.2.3",
            "1e3",
            "0x10",
            "soon",
            "1 2",
            "Sun, 06 Nov 1994",
            "2026-01-01T00:00:00Z",
            "\u{663}",
        ] {
            assert_eq!(parse(&[value]), None, "{value:?}");
        }
    }

    #[test]
    fn a_status_is_described_by_the_registry() {
        let url = Url::parse("https://example.com/secret?token=t").unwrap();
        let described = |code, location| describe(code, location, &url);
        assert_eq!(described(503, None), "the destination answered 503 Service Unavailable");
        assert_eq!(described(503, Some("/a")), "the destination answered 503 Service Unavailable");
        assert_eq!(
            described(302, None),
            "the destination answered 302 Found. Posthaste does not follow redirects"
        );
        assert_eq!(described(799, None), "the destination answered 799");
    }

    #[test]
    fn a_redirect_message_contains_only_the_origin() {
        let url = Url::parse("http://example.com:8080/secret?token=t").unwrap();
        for (location, origin) in [
            ("https://www.example.com/secret?token=t#x", Some("https://www.example.com")),
            ("HTTPS://user:pass@WWW.example.com:8443/", Some("https://www.example.com:8443")),
            ("//other.example/a", Some("http://other.example")),
            ("/login", Some("http://example.com:8080")),
            ("?a=b", Some("http://example.com:8080")),
            ("", Some("http://example.com:8080")),
            ("http://[::1]:80/", Some("http://[::1]")),
            ("file:///etc/passwd", None),
            ("javascript:alert(1)", None),
            ("http://", None),
            ("https://exa mple.com/", None),
        ] {
            let target =
                origin.map(|origin| format!(" with a redirect to {origin}")).unwrap_or_default();
            let expected = format!(
                "the destination answered 307 Temporary Redirect{target}. Posthaste does not \
                 follow redirects"
            );
            assert_eq!(describe(307, Some(location), &url), expected, "{location}");
        }
        let long = describe(307, Some(&format!("https://{}.example/", "a.".repeat(9000))), &url);
        assert!(long.len() <= MAX_ERROR_BYTES);
    }
}
