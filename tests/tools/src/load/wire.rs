//! Requests as prepared bytes, and a minimal HTTP/1.1 response parser.
//!
//! All requests of a run have the same length and differ only in the number in the payload. To send
//! one, the tool writes eight digits into a buffer and the buffer to a socket.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    ops::Range,
    time::Duration,
};

use url::Url;

use super::LoadError;

/// Digits of a webhook's number.
const NUMBER_DIGITS: usize = 8;

/// The start of a payload. The run's name and the number follow at fixed offsets.
const PAYLOAD_START: &str = "{\"run\":\"";
const RUN_CHARS: usize = 8;
const BETWEEN: &str = "\",\"seq\":\"";
const BEFORE_PAD: &str = "\",\"pad\":\"";
const PAYLOAD_END: &str = "\"}";

/// The offset of the number in a payload.
const NUMBER_AT: usize = PAYLOAD_START.len() + RUN_CHARS + BETWEEN.len();

/// The maximum size of a response's head and body.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// The maximum number of response headers.
const MAX_ANSWER_HEADERS: usize = 64;

/// The timeout of a response.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A server on plain HTTP.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    host: String,
    prefix: String,
}

impl Server {
    /// The server of a URL.
    pub fn of(url: &str) -> Result<Self, LoadError> {
        let bad = |reason: &dyn std::fmt::Display| {
            LoadError::Plan(format!("'{url}' is not usable: {reason}"))
        };
        let parsed: Url = url.parse().map_err(|error| bad(&error))?;
        if parsed.scheme() != "http" {
            return Err(bad(
                &"the load tool supports only http, because TLS would add to its CPU time",
            ));
        }
        let host = parsed.host_str().ok_or_else(|| bad(&"the URL has no host"))?;
        let port = parsed.port_or_known_default().unwrap_or(80);
        let addresses: Vec<SocketAddr> = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .map_err(|error| bad(&error))?
            .collect();
        // `localhost` may resolve to several addresses, and the server may listen on only one.
        let listening = addresses
            .iter()
            .find(|address| TcpStream::connect_timeout(address, Duration::from_secs(2)).is_ok());
        let address = listening
            .or(addresses.first())
            .copied()
            .ok_or_else(|| bad(&"the host has no address"))?;
        Ok(Self {
            address,
            host: format!("{host}:{port}"),
            prefix: parsed.path().trim_end_matches('/').to_owned(),
        })
    }

    /// A socket error with the server's name.
    pub(crate) fn error(&self, what: &'static str, source: io::Error) -> LoadError {
        LoadError::Socket { what, whom: format!("http://{}", self.host), source }
    }

    fn head(&self, method: &str, path: &str, extra: &str) -> String {
        format!("{method} {}{path} HTTP/1.1\r\nhost: {}\r\n{extra}\r\n", self.prefix, self.host)
    }

    /// A request with a JSON body.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> String {
        let length = body.len();
        let extra = format!(
            "content-type: application/json\r\ncontent-length: {length}\r\n{}",
            key_header(key)
        );
        self.head(method, path, &extra) + body
    }

    /// Sends `GET` on a new connection. Returns the status and the body.
    pub fn get(&self, path: &str) -> Result<(u16, String), LoadError> {
        let mut connection = Connection::open(self)?;
        connection
            .exchange(self.head("GET", path, "").as_bytes())
            .map_err(|error| self.error("read from", error))
    }
}

fn key_header(key: Option<&str>) -> String {
    key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default()
}

/// A request that varies only in its number.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Template {
    /// `POST /webhooks` to the API, for a webhook to `destination`.
    pub fn submission(
        api: &Server,
        key: Option<&str>,
        destination: &str,
        run: &str,
        payload_bytes: u32,
    ) -> Self {
        let before = format!("{{\"url\":{},\"payload\":", serde_json::Value::from(destination));
        Self::new(api, "/webhooks", &key_header(key), &before, "}", run, payload_bytes)
    }

    /// `POST /applications/{application}/messages` to the API.
    pub fn message(
        api: &Server,
        key: Option<&str>,
        application: &str,
        run: &str,
        payload_bytes: u32,
    ) -> Self {
        let path = format!("/applications/{application}/messages");
        let before = "{\"event_type\":\"load.test\",\"payload\":";
        Self::new(api, &path, &key_header(key), before, "}", run, payload_bytes)
    }

    /// The payload alone, directly to the receiver.
    pub fn direct(receiver: &Server, run: &str, payload_bytes: u32) -> Self {
        Self::new(receiver, "/load", "", "", "", run, payload_bytes)
    }

    fn new(
        server: &Server,
        path: &str,
        extra: &str,
        before: &str,
        after: &str,
        run: &str,
        payload_bytes: u32,
    ) -> Self {
        let payload = payload(run, payload_bytes);
        let length = before.len() + payload.len() + after.len();
        let head = server.head(
            "POST",
            path,
            &format!("content-type: application/json\r\ncontent-length: {length}\r\n{extra}"),
        );
        let number_at = head.len() + before.len() + NUMBER_AT;
        Self { bytes: [head.as_str(), before, &payload, after].concat().into_bytes(), number_at }
    }

    /// The request for this number.
    pub fn numbered(&mut self, number: u32) -> &[u8] {
        let mut rest = number;
        for digit in self.bytes[self.number_at..self.number_at + NUMBER_DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.bytes
    }
}

/// A JSON object of exactly this size, with the run's name and a number.
fn payload(run: &str, bytes: u32) -> String {
    let fixed = NUMBER_AT + NUMBER_DIGITS + BEFORE_PAD.len() + PAYLOAD_END.len();
    // Random characters, because a repeated one would compress too well.
    let pad: String = (0..(bytes as usize).saturating_sub(fixed))
        .map(|_| char::from(rand::random_range(b'a'..=b'z')))
        .collect();
    format!(
        "{PAYLOAD_START}{run:.RUN_CHARS$}{BETWEEN}{:0NUMBER_DIGITS$}{BEFORE_PAD}{pad}{PAYLOAD_END}",
        0
    )
}

/// A run's name, of the length that the payload reserves.
pub fn run_name() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// The number in a payload of this run.
pub fn number_in(payload: &[u8], run: &str) -> Option<u32> {
    let name = payload.get(PAYLOAD_START.len()..PAYLOAD_START.len() + RUN_CHARS)?;
    let digits = payload.get(NUMBER_AT..NUMBER_AT + NUMBER_DIGITS)?;
    (name == run.as_bytes()).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// The parsed part of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The response is incomplete.
    Partial,
    /// The complete response: its status, its body's range, and whether the connection stays open.
    Complete { status: u16, body: Range<usize>, keep: bool },
}

/// Parses a complete response at the start of the buffer.
pub(crate) fn parse_answer(buffer: &[u8]) -> io::Result<Parsed> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) =
        answer.parse(buffer).map_err(|error| invalid(format!("not an HTTP response: {error}")))?
    else {
        return Ok(Parsed::Partial);
    };
    let header = |name: &str| {
        answer
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let status = answer.code.unwrap_or(0);
    let length = match header("content-length") {
        Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()),
        None if matches!(status, 204 | 304) => Some(0),
        None => None,
    };
    let length: usize = length
        .filter(|length| *length <= MAX_ANSWER_BYTES)
        .ok_or_else(|| invalid("a response without a valid content-length".into()))?;
    if buffer.len() < head + length {
        return Ok(Parsed::Partial);
    }
    let keep = !header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Parsed::Complete { status, body: head..head + length, keep })
}

/// A blocking connection that is reused.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Whether the connection can send another request.
    pub(crate) usable: bool,
}

impl Connection {
    pub(crate) fn open(server: &Server) -> Result<Self, LoadError> {
        let open = || {
            let stream = TcpStream::connect_timeout(&server.address, ANSWER_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(Self { stream, buffer: Vec::with_capacity(4096), usable: true })
        };
        open().map_err(|error| server.error("connect to", error))
    }

    /// Whether the latest response had this header.
    pub(crate) fn had_header(&self, header: &str) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&self.buffer).is_ok()
            && answer.headers.iter().any(|found| found.name.eq_ignore_ascii_case(header))
    }

    /// Sends a request. Returns the status and the body of its response.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, String)> {
        self.usable = false;
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut piece = [0; 4096];
        loop {
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&piece[..count]);
            if let Parsed::Complete { status, body, keep } = parse_answer(&self.buffer)? {
                self.usable = keep;
                return Ok((status, String::from_utf8_lossy(&self.buffer[body]).into_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            address: ([127, 0, 0, 1], 1).into(),
            host: "127.0.0.1:1".into(),
            prefix: String::new(),
        }
    }

    fn body(request: &[u8]) -> &[u8] {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.lines().any(|line| line == format!("content-length: {}", body.len())),
            "{head}"
        );
        body.as_bytes()
    }

    #[test]
    fn a_payload_has_the_requested_size_and_contains_its_number() {
        for bytes in [64, 1024, 5000] {
            let mut template = Template::direct(&server(), "0badcafe", bytes);
            let payload = body(template.numbered(12_345_678)).to_vec();
            assert_eq!(payload.len(), bytes as usize);
            assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
            assert_eq!(number_in(&payload, "0badcafe"), Some(12_345_678));
            assert_eq!(number_in(&payload, "another1"), None);
        }
    }

    #[test]
    fn a_submission_contains_the_payload_unchanged() {
        let mut template =
            Template::submission(&server(), Some("k"), "http://127.0.0.1:2/load", "0badcafe", 100);
        let submission: serde_json::Value =
            serde_json::from_slice(body(template.numbered(42))).unwrap();
        assert_eq!(submission["url"], "http://127.0.0.1:2/load");
        assert_eq!(number_in(submission["payload"].to_string().as_bytes(), "x"), None);
        assert_eq!(submission["payload"]["seq"], "00000042");
    }

    #[test]
    fn only_complete_responses_are_parsed() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse_answer(&answer[..answer.len() - 1]).unwrap(), Parsed::Partial);
        assert_eq!(parse_answer(&answer[..10]).unwrap(), Parsed::Partial);
        assert_eq!(
            parse_answer(answer).unwrap(),
            Parsed::Complete { status: 202, body: 44..46, keep: true }
        );
        let closing = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        assert!(matches!(
            parse_answer(closing).unwrap(),
            Parsed::Complete { status: 204, keep: false, .. }
        ));
        assert!(parse_answer(b"SSH-2.0-x\r\n").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
