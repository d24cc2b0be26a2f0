//! A request as it arrived, and what is answered to it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;

use super::signature::SignatureStatus;

/// The longest pause before an answer that a path or an option may ask for.
pub const MAX_DELAY_SECONDS: f64 = 3600.0;

/// Gives the answer to a request. Called once for each, when it is complete.
pub type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A complete request.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its last byte was read.
    pub at: std::time::Instant,
    /// Its method; always POST for now.
    pub method: Method,
    /// Its target, as it stood in the request line.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
    /// What the reference verifier says of its signature.
    pub verdict: SignatureStatus,
}

impl Received {
    /// A header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `webhook-id` header: the same on every attempt of one webhook.
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

/// What is answered to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) delay: Duration,
    pub(super) body: ReplyBody,
    pub(super) hang_up: bool,
}

/// The body of an answer.
#[derive(Clone, Debug)]
pub(super) enum ReplyBody {
    /// All at once, with its length.
    Whole(Bytes),
    /// In pieces, without a length.
    Dribble { chunk: Bytes, pause: Duration, chunks: u64 },
}

impl Reply {
    /// This status at once, with a short JSON body. A number that is no status (100 to 999) answers
    /// 500.
    pub fn status(code: u16) -> Self {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body: &'static [u8] = match status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => b"",
            _ if status.is_success() => b"{\"status\":\"received\"}\n",
            _ => b"{\"status\":\"refused\",\"reason\":\"this receiver was told to answer so\"}\n",
        };
        let body = ReplyBody::Whole(Bytes::from_static(body));
        Self { status, headers: HeaderMap::new(), delay: Duration::ZERO, body, hang_up: false }
    }

    /// No answer: the connection is closed once the request is complete.
    pub fn hang_up() -> Self {
        Self { hang_up: true, ..Self::status(500) }
    }

    /// With a header more. What is not a valid header is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
        self
    }

    /// Only after this time. Other requests are answered meanwhile.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = ReplyBody::Whole(body.into());
        self
    }

    /// With a body that comes piece by piece: `chunk`, then a pause, `chunks` times in all.
    #[must_use]
    pub fn dribble(mut self, chunk: impl Into<Bytes>, pause: Duration, chunks: u64) -> Self {
        self.body = ReplyBody::Dribble { chunk: chunk.into(), pause, chunks };
        self
    }
}

/// The rules of the command line: how a receiver answers that has no script.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Behaviour {
    /// What is answered when nothing is to fail.
    pub response_code: u16,
    /// How many of a hundred requests fail, chosen at random.
    pub failure_rate: u8,
    /// What those are answered with.
    pub failure_code: u16,
    /// The pause before every answer.
    pub delay_seconds: f64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { response_code: 200, failure_rate: 0, failure_code: 500, delay_seconds: 0.0 }
    }
}

impl Behaviour {
    /// The answer to a request. The paths `/status-code/{code}` and `/delay/{seconds}` win over the
    /// rules.
    pub fn reply(&self, request: &Received) -> Reply {
        match PathOrder::parse(request.path()) {
            Ok(None) => Reply::status(self.code()).after(seconds(self.delay_seconds)),
            Ok(Some(order)) => Reply::status(order.code.unwrap_or(200)).after(order.delay),
            Err(reason) => Reply::status(400).body(format!("{reason}\n")),
        }
    }

    /// What every request that is not addressed to a special path is answered with, if that is
    /// always the same.
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

/// A pause of this many seconds; what is no sensible number is none.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, MAX_DELAY_SECONDS)).unwrap_or(Duration::ZERO)
}

/// What a path orders: `/status-code/503/…`, `/delay/2.5/…`, or both in a row. The rest of the path
/// is free.
#[derive(Debug, Default, PartialEq)]
struct PathOrder {
    code: Option<u16>,
    delay: Duration,
}

impl PathOrder {
    fn parse(path: &str) -> Result<Option<Self>, String> {
        let mut order = Self::default();
        let mut found = false;
        let mut segments = path.split('/').skip(1);
        loop {
            match segments.next() {
                Some("status-code") => {
                    order.code = Some(parse_code(segments.next().unwrap_or_default())?);
                }
                Some("delay") => order.delay = parse_delay(segments.next().unwrap_or_default())?,
                _ => return Ok(found.then_some(order)),
            }
            found = true;
        }
    }
}

/// A status that may be answered: 200 to 599.
pub fn parse_code(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|code| (200..=599).contains(code))
        .ok_or_else(|| format!("'{text}' is not a status code from 200 to 599"))
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(seconds)
}

/// Seconds that may be waited: 0 to [`MAX_DELAY_SECONDS`], with decimals if need be.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=MAX_DELAY_SECONDS).contains(seconds))
        .ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to {MAX_DELAY_SECONDS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(path: &str) -> Result<Option<(Option<u16>, f64)>, String> {
        PathOrder::parse(path).map(|order| order.map(|o| (o.code, o.delay.as_secs_f64())))
    }

    #[test]
    fn paths_order_a_status_a_pause_or_both() {
        assert_eq!(order("/status-code/404"), Ok(Some((Some(404), 0.0))));
        assert_eq!(order("/status-code/503/any/thing"), Ok(Some((Some(503), 0.0))));
        assert_eq!(order("/delay/0.25"), Ok(Some((None, 0.25))));
        assert_eq!(order("/delay/2/status-code/500/x"), Ok(Some((Some(500), 2.0))));
    }

    #[test]
    fn other_paths_order_nothing() {
        for path in ["/", "", "/webhook-receiver", "/orders/status-code/500", "//delay/3"] {
            assert_eq!(order(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn senseless_orders_are_refused_with_the_reason() {
        for path in [
            "/status-code",
            "/status-code/abc",
            "/status-code/100",
            "/status-code/600",
            "/delay/-1",
            "/delay/NaN",
            "/delay/1e9",
        ] {
            assert!(order(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_failure_rate_of_none_or_all_leaves_nothing_to_chance() {
        assert_eq!(Behaviour::default().constant_code(), Some(200));
        assert_eq!(
            Behaviour { failure_rate: 100, ..Behaviour::default() }.constant_code(),
            Some(500)
        );
        assert_eq!(Behaviour { failure_rate: 50, ..Behaviour::default() }.constant_code(), None);
    }

    #[test]
    fn a_failure_rate_in_between_fails_about_that_share() {
        let behaviour = Behaviour { failure_rate: 30, failure_code: 503, ..Behaviour::default() };
        let failed = (0..10_000).filter(|_| behaviour.code() == 503).count();
        assert!((2_500..3_500).contains(&failed), "{failed} of 10,000 failed at a rate of 30 %");
    }
}
