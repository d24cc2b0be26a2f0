//! Requests as prepared bytes, and the little of HTTP/1.1 that is read back.
//!
//! Every request of a run has the same length; only the number in its payload differs. So sending
//! one means to write eight digits into a buffer and the buffer to a socket.

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

/// What a payload begins with; the run's name and the number follow at fixed places.
const PAYLOAD_START: &str = "{\"run\":\"";
const RUN_CHARS: usize = 8;
const BETWEEN: &str = "\",\"seq\":\"";
const BEFORE_PAD: &str = "\",\"pad\":\"";
const PAYLOAD_END: &str = "\"}";

/// Where the number stands in a payload.
const NUMBER_AT: usize = PAYLOAD_START.len() + RUN_CHARS + BETWEEN.len();

/// An answer's head and body at most.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Headers of an answer at most.
const MAX_ANSWER_HEADERS: usize = 64;

/// How long an answer may take.
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
            LoadError::Plan(format!("'{url}' cannot be used: {reason}"))
        };
        let parsed: Url = url.parse().map_err(|error| bad(&error))?;
        if parsed.scheme() != "http" {
            return Err(bad(
                &"the load tool speaks plain http only, to keep its own share of the time small",
            ));
        }
        let host = parsed.host_str().ok_or_else(|| bad(&"it has no host"))?;
        let port = parsed.port_or_known_default().unwrap_or(80);
        let addresses: Vec<SocketAddr> = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .map_err(|error| bad(&error))?
            .collect();
        // `localhost` may name an address where nobody listens before the one where somebody does.
        let listening = addresses
            .iter()
            .find(|address| TcpStream::connect_timeout(address, Duration::from_secs(2)).is_ok());
        let address = listening
            .or(addresses.first())
            .copied()
            .ok_or_else(|| bad(&"its host has no address"))?;
        Ok(Self {
            address,
            host: format!("{host}:{port}"),
            prefix: parsed.path().trim_end_matches('/').to_owned(),
        })
    }

    /// A socket error, told with the server's name.
    pub(crate) fn error(&self, what: &'static str, source: io::Error) -> LoadError {
        LoadError::Socket { what, whom: format!("http://{}", self.host), source }
    }

    fn head(&self, method: &str, path: &str, extra: &str) -> String {
        format!("{method} {}{path} HTTP/1.1\r\nhost: {}\r\n{extra}\r\n", self.prefix, self.host)
    }

    /// `GET` on a connection of its own; the status and the body.
    pub fn get(&self, path: &str) -> Result<(u16, String), LoadError> {
        let mut connection = Connection::open(self)?;
        connection
            .exchange(self.head("GET", path, "").as_bytes())
            .map_err(|error| self.error("read from", error))
    }
}

/// A request that is the same each time but for a number.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Template {
    /// `POST /webhooks` to the API, for a webhook that goes to `destination`.
    pub fn submission(
        api: &Server,
        key: Option<&str>,
        destination: &str,
        run: &str,
        payload_bytes: u32,
    ) -> Self {
        let before = format!("{{\"url\":{},\"payload\":", serde_json::Value::from(destination));
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        Self::new(api, "/webhooks", &key, &before, "}", run, payload_bytes)
    }

    /// The payload alone, straight to the receiver.
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

/// A JSON object of exactly this many bytes, with the run's name and room for a number.
fn payload(run: &str, bytes: u32) -> String {
    let fixed = NUMBER_AT + NUMBER_DIGITS + BEFORE_PAD.len() + PAYLOAD_END.len();
    // Not one character over and over: a store that compresses would have it too easy.
    let pad: String = (0..(bytes as usize).saturating_sub(fixed))
        .map(|_| char::from(rand::random_range(b'a'..=b'z')))
        .collect();
    format!(
        "{PAYLOAD_START}{run:.RUN_CHARS$}{BETWEEN}{:0NUMBER_DIGITS$}{BEFORE_PAD}{pad}{PAYLOAD_END}",
        0
    )
}

/// A name for a run, of the length that a payload has room for.
pub fn run_name() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// The number in a payload of this run.
pub fn number_in(payload: &[u8], run: &str) -> Option<u32> {
    let name = payload.get(PAYLOAD_START.len()..PAYLOAD_START.len() + RUN_CHARS)?;
    let digits = payload.get(NUMBER_AT..NUMBER_AT + NUMBER_DIGITS)?;
    (name == run.as_bytes()).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// What has been read of an answer so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not all of it.
    Partial,
    /// All: its status, where its body is, and whether the connection can be used again.
    Whole { status: u16, body: Range<usize>, keep: bool },
}

/// Looks for a whole answer at the beginning of the buffer.
pub(crate) fn parse_answer(buffer: &[u8]) -> io::Result<Parsed> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) =
        answer.parse(buffer).map_err(|error| invalid(format!("no HTTP answer: {error}")))?
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
        .ok_or_else(|| invalid("an answer without a sane content-length".into()))?;
    if buffer.len() < head + length {
        return Ok(Parsed::Partial);
    }
    let keep = !header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Parsed::Whole { status, body: head..head + length, keep })
}

/// A blocking connection, used again and again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Whether another request may be sent on it.
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

    /// Whether the latest answer had this header.
    pub(crate) fn was_told(&self, header: &str) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&self.buffer).is_ok()
            && answer.headers.iter().any(|found| found.name.eq_ignore_ascii_case(header))
    }

    /// Sends a request and reads its answer: the status and the body.
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
            if let Parsed::Whole { status, body, keep } = parse_answer(&self.buffer)? {
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
    fn a_payload_has_the_bytes_asked_for_and_gives_its_number_back() {
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
    fn a_submission_carries_the_payload_as_it_is() {
        let mut template =
            Template::submission(&server(), Some("k"), "http://127.0.0.1:2/load", "0badcafe", 100);
        let submission: serde_json::Value =
            serde_json::from_slice(body(template.numbered(42))).unwrap();
        assert_eq!(submission["url"], "http://127.0.0.1:2/load");
        assert_eq!(number_in(submission["payload"].to_string().as_bytes(), "x"), None);
        assert_eq!(submission["payload"]["seq"], "00000042");
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse_answer(&answer[..answer.len() - 1]).unwrap(), Parsed::Partial);
        assert_eq!(parse_answer(&answer[..10]).unwrap(), Parsed::Partial);
        assert_eq!(
            parse_answer(answer).unwrap(),
            Parsed::Whole { status: 202, body: 44..46, keep: true }
        );
        let closing = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        assert!(matches!(
            parse_answer(closing).unwrap(),
            Parsed::Whole { status: 204, keep: false, .. }
        ));
        assert!(parse_answer(b"SSH-2.0-x\r\n").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
