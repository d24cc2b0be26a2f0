//! A received request and its response.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;

use super::signature::SignatureStatus;

/// The maximum delay before a response.
pub const MAX_DELAY_SECONDS: f64 = 3600.0;

/// Returns the response to a request. It is called once for each complete request.
pub type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A complete request.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its last byte was read.
    pub at: std::time::Instant,
    /// The method, which is always POST.
    pub method: Method,
    /// The target of the request line.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The unchanged body.
    pub body: Bytes,
    /// The result of the check of its signature.
    pub verdict: SignatureStatus,
}

impl Received {
    /// The value of a header, if it exists and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `webhook-id` header, which is the same in all attempts of a webhook.
    pub fn webhook_id(&self) -> Option<&str> {
        self.header("webhook-id")
    }

    /// The `x-webhook-attempt` header.
    pub fn attempt(&self) -> Option<u32> {
        self.header("x-webhook-attempt")?.parse().ok()
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.uri.path()
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) delay: Duration,
    pub(super) body: ReplyBody,
    pub(super) hang_up: bool,
}

/// The body of a response.
#[derive(Clone, Debug)]
pub(super) enum ReplyBody {
    /// Complete, with a length.
    Whole(Bytes),
    /// In chunks, without a length.
    Dribble { chunk: Bytes, pause: Duration, chunks: u64 },
}

impl Reply {
    /// Responds with this status code and a short JSON body, without a delay. An invalid code (not
    /// 100 to 999) becomes 500.
    pub fn status(code: u16) -> Self {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body: &'static [u8] = match status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => b"",
            _ if status.is_success() => b"{\"status\":\"received\"}\n",
            _ => b"{\"status\":\"refused\",\"reason\":\"this receiver is configured to fail\"}\n",
        };
        let body = ReplyBody::Whole(Bytes::from_static(body));
        Self { status, headers: HeaderMap::new(), delay: Duration::ZERO, body, hang_up: false }
    }

    /// Its status code.
    pub fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Closes the connection without a response when the request is complete.
    pub fn hang_up() -> Self {
        Self { hang_up: true, ..Self::status(500) }
    }

    /// Adds a header. Ignores an invalid header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
        self
    }

    /// Delays the response. Other requests are not delayed.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = ReplyBody::Whole(body.into());
        self
    }

    /// Sends the body in parts: `chunk`, then a pause, `chunks` times.
    #[must_use]
    pub fn dribble(mut self, chunk: impl Into<Bytes>, pause: Duration, chunks: u64) -> Self {
        self.body = ReplyBody::Dribble { chunk: chunk.into(), pause, chunks };
        self
    }
}

/// The rules of the command line, for a receiver without a script.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Behaviour {
    /// The status code of successful requests.
    pub response_code: u16,
    /// The percentage of requests that fail, chosen at random.
    pub failure_rate: u8,
    /// The status code of failed requests.
    pub failure_code: u16,
    /// The delay before every response.
    pub delay_seconds: f64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { response_code: 200, failure_rate: 0, failure_code: 500, delay_seconds: 0.0 }
    }
}

impl Behaviour {
    /// The response to a request. The paths `/status-code/{code}` and `/delay/{seconds}` override
    /// the rules.
    pub fn reply(&self, request: &Received) -> Reply {
        match PathRequest::parse(request.path()) {
            Ok(None) => Reply::status(self.code()).after(seconds(self.delay_seconds)),
            Ok(Some(requested)) => {
                Reply::status(requested.code.unwrap_or(200)).after(requested.delay)
            }
            Err(reason) => Reply::status(400).body(format!("{reason}\n")),
        }
    }

    /// The status code of all requests without a special path, if it is always the same.
    pub fn constant_code(&self) -> Option<u16> {
        match self.failure_rate {
            0 => Some(self.response_code),
            100.. => Some(self.failure_code),
            _ => None,
        }
    }

    fn code(&self) -> u16 {
        self.constant_code().unwrap_or_else(|| {
            let fails = rand::random_range(0..100) < self.failure_rate;
            if fails { self.failure_code } else { self.response_code }
        })
    }
}

/// Converts seconds to a duration. An invalid number becomes zero.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, MAX_DELAY_SECONDS)).unwrap_or(Duration::ZERO)
}

/// The response that a path requests: `/status-code/503/…`, `/delay/2.5/…`, or both in sequence.
/// The rest of the path is ignored.
#[derive(Debug, Default, PartialEq)]
struct PathRequest {
    code: Option<u16>,
    delay: Duration,
}

impl PathRequest {
    fn parse(path: &str) -> Result<Option<Self>, String> {
        let mut request = Self::default();
        let mut found = false;
        let mut segments = path.split('/').skip(1);
        loop {
            match segments.next() {
                Some("status-code") => {
                    request.code = Some(parse_code(segments.next().unwrap_or_default())?);
                }
                Some("delay") => {
                    request.delay = parse_delay(segments.next().unwrap_or_default())?;
                }
                _ => return Ok(found.then_some(request)),
            }
            found = true;
        }
    }
}

/// Parses a status code from 200 to 599.
pub fn parse_code(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|code| (200..=599).contains(code))
        .ok_or_else(|| format!("'{text}' is not a status code from 200 to 599"))
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(seconds)
}

/// Parses a number of seconds from 0 to [`MAX_DELAY_SECONDS`]. It may have decimals.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=MAX_DELAY_SECONDS).contains(seconds))
        .ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to {MAX_DELAY_SECONDS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(path: &str) -> Result<Option<(Option<u16>, f64)>, String> {
        PathRequest::parse(path).map(|requested| requested.map(|o| (o.code, o.delay.as_secs_f64())))
    }

    #[test]
    fn paths_request_a_status_code_a_delay_or_both() {
        assert_eq!(requested("/status-code/404"), Ok(Some((Some(404), 0.0))));
        assert_eq!(requested("/status-code/503/any/thing"), Ok(Some((Some(503), 0.0))));
        assert_eq!(requested("/delay/0.25"), Ok(Some((None, 0.25))));
        assert_eq!(requested("/delay/2/status-code/500/x"), Ok(Some((Some(500), 2.0))));
    }

    #[test]
    fn other_paths_request_nothing() {
        for path in ["/", "", "/webhook-receiver", "/orders/status-code/500", "//delay/3"] {
            assert_eq!(requested(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn invalid_requests_are_rejected() {
        for path in [
            "/status-code",
            "/status-code/abc",
            "/status-code/100",
            "/status-code/600",
            "/delay/-1",
            "/delay/NaN",
            "/delay/1e9",
        ] {
            assert!(requested(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_failure_rate_of_0_or_100_is_not_random() {
        assert_eq!(Behaviour::default().constant_code(), Some(200));
        assert_eq!(
            Behaviour { failure_rate: 100, ..Behaviour::default() }.constant_code(),
            Some(500)
        );
        assert_eq!(Behaviour { failure_rate: 50, ..Behaviour::default() }.constant_code(), None);
    }

    #[test]
    fn a_failure_rate_in_between_is_the_share_of_failures() {
        let behaviour = Behaviour { failure_rate: 30, failure_code: 503, ..Behaviour::default() };
        let failed = (0..10_000).filter(|_| behaviour.code() == 503).count();
        assert!((2_500..3_500).contains(&failed), "{failed} of 10,000 failed at a rate of 30 %");
    }
}
