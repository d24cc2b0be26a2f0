//! The behaviours, and the expected record of each.
//!
//! If a complete status line was received, the status code determines the record, whatever follows.
//! Otherwise the record is `timeout` if the deadline was reached, `tls` if the handshake failed,
//! and `network` in all other cases.

use std::time::Duration;

use super::{
    Step::{self, Again, Drip, Read, Repeat, Reset, Stall, Write},
    Transport,
    certificates::{Authority, Flaw},
};

/// No pause.
const NO_PAUSE: Duration = Duration::ZERO;

/// The pause of slow receivers.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// The pause of floods that last for a whole attempt. It leaves processor time to the other tests.
const FLOOD_PAUSE: Duration = Duration::from_millis(5);

/// The decompressed size of a gzip bomb.
const BOMB_BYTES: usize = 16 * 1024 * 1024;

/// The expected record of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The kind of error. `None`: delivered.
    pub kind: Option<&'static str>,
    /// The status code.
    pub status_code: Option<u16>,
}

const DELIVERED: Recorded = Recorded { kind: None, status_code: Some(200) };
const NETWORK: Recorded = Recorded { kind: Some("network"), status_code: None };
const TIMEOUT: Recorded = Recorded { kind: Some("timeout"), status_code: None };
const TLS: Recorded = Recorded { kind: Some("tls"), status_code: None };

/// A behaviour of a receiver, with its expected record.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// A short description.
    pub name: &'static str,
    /// The transport.
    pub transport: Transport,
    /// The steps of each connection.
    pub steps: Vec<Step>,
    /// The expected record.
    pub expected: Recorded,
}

fn plain(name: &'static str, expected: Recorded, steps: Vec<Step>) -> Behaviour {
    Behaviour { name, transport: Transport::Plain, steps, expected }
}

/// Reads each request and responds with these bytes.
fn responds(name: &'static str, expected: Recorded, bytes: impl AsRef<[u8]>) -> Behaviour {
    plain(name, expected, vec![Read, Write(bytes.as_ref().to_vec()), Again])
}

fn status(status_code: u16) -> Recorded {
    let kind = (!(200..300).contains(&status_code)).then_some("http_status");
    Recorded { kind, status_code: Some(status_code) }
}

/// All behaviours. The authority issues the certificates.
pub fn all(authority: &Authority) -> Result<Vec<Behaviour>, rcgen::Error> {
    Ok([slow(), endless(), broken(), garbage(), sloppy(), odd(), handshakes(authority)?].concat())
}

/// Receivers that are slow or silent.
fn slow() -> Vec<Behaviour> {
    let drip = |text: &str| Drip(text.as_bytes().to_vec(), SLOW_PAUSE);
    let head = |code: u16| {
        Write(format!("HTTP/1.1 {code} Oh\r\ncontent-length: 1000\r\n\r\n").into_bytes())
    };
    vec![
        plain("no response", TIMEOUT, vec![Read, Stall]),
        plain("no read and no response", TIMEOUT, vec![Repeat(Vec::new(), SLOW_PAUSE)]),
        plain(
            "a byte of the response each second",
            TIMEOUT,
            vec![Read, drip("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")],
        ),
        plain(
            "incomplete head of a 200",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\n".to_vec()), Stall],
        ),
        plain(
            "incomplete head of a 500",
            status(500),
            vec![Read, Write(b"HTTP/1.1 500 Oh\r\nx-".to_vec()), Stall],
        ),
        plain(
            "incomplete status line",
            TIMEOUT,
            vec![Read, Write(b"HTTP/1.1 200 OK".to_vec()), Stall],
        ),
        plain(
            "200 without reading the request",
            DELIVERED,
            vec![Write(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Stall],
        ),
        plain(
            "200 with a byte of the body each second",
            status(200),
            vec![Read, head(200), drip(&"x".repeat(1000))],
        ),
        plain(
            "500 with a byte of the body each second",
            status(500),
            vec![Read, head(500), drip(&"x".repeat(1000))],
        ),
        plain("200 without its body", status(200), vec![Read, head(200), Stall]),
        plain("500 without its body", status(500), vec![Read, head(500), Stall]),
        plain(
            "endless 103 responses",
            TIMEOUT,
            vec![
                Read,
                Repeat(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec(), FLOOD_PAUSE),
            ],
        ),
        plain(
            "endless 100 responses",
            TIMEOUT,
            vec![Read, Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), FLOOD_PAUSE)],
        ),
    ]
}

/// Receivers that send endless or very large responses.
fn endless() -> Vec<Behaviour> {
    let flood = |name, expected, head: &str, more: &str| {
        // Large writes make the flood fast.
        let more = more.repeat(1 + 8192 / more.len()).into_bytes();
        plain(name, expected, vec![Read, Write(head.as_bytes().to_vec()), Repeat(more, NO_PAUSE)])
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked_500 = "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let bytes = "y".repeat(16 * 1024);
    vec![
        flood("200 with an endless body", status(200), chunked, &chunk),
        flood("500 with an endless body", status(500), chunked_500, &chunk),
        flood(
            "200 with an endless body without a length",
            status(200),
            "HTTP/1.1 200 OK\r\n\r\n",
            &bytes,
        ),
        flood(
            "200 with a body of 1 GiB",
            status(200),
            "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
            &bytes,
        ),
        flood(
            "500 with a body of 1 GiB",
            status(500),
            "HTTP/1.1 500 Oh\r\ncontent-length: 1073741824\r\n\r\n",
            &bytes,
        ),
        responds(
            "200 with a length of 1 GiB and no body",
            status(200),
            "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
        ),
        flood("endless header lines", status(200), "HTTP/1.1 200 OK\r\n", "x-more: and more\r\n"),
        flood(
            "endless header lines of a 500",
            status(500),
            "HTTP/1.1 500 Oh\r\n",
            "x-more: and more\r\n",
        ),
        flood("one endless header line", status(200), "HTTP/1.1 200 OK\r\nx-long: ", &bytes),
        flood(
            "endless header lines of a 103",
            NETWORK,
            "HTTP/1.1 103 Early Hints\r\n",
            "x-more: and more\r\n",
        ),
        flood("endless blank lines", NETWORK, "", "\r\n\r\n\r\n\r\n"),
        flood("endless status line", NETWORK, "HTTP/1.1 200 ", &bytes),
        responds(
            "100,000 header lines",
            status(200),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100_000)),
        ),
        flood("endless chunk extension", status(200), &format!("{chunked}4;a="), &bytes),
        flood("endless trailers", status(200), &format!("{chunked}0\r\n"), "x-more: and more\r\n"),
        responds("gzip bomb with 200", status(200), bomb(200)),
        responds("gzip bomb with 500", status(500), bomb(500)),
    ]
}

/// Receivers that close or reset the connection.
fn broken() -> Vec<Behaviour> {
    let part = |code: u16| {
        Write(format!("HTTP/1.1 {code} Oh\r\ncontent-length: 1000\r\n\r\nabc").into_bytes())
    };
    vec![
        plain("closes at once", NETWORK, vec![]),
        plain("resets at once", NETWORK, vec![Reset]),
        plain("closes after the request", NETWORK, vec![Read]),
        plain("resets after the request", NETWORK, vec![Read, Reset]),
        plain(
            "closes within the status line",
            NETWORK,
            vec![Read, Write(b"HTTP/1.1 200 OK".to_vec())],
        ),
        plain(
            "closes after the status line",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\n".to_vec())],
        ),
        plain(
            "closes within the head",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\nx-".to_vec())],
        ),
        plain(
            "resets within the head",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\nx-".to_vec()), Reset],
        ),
        plain(
            "500, resets within the head",
            status(500),
            vec![Read, Write(b"HTTP/1.1 500 Oh\r\nx-".to_vec()), Reset],
        ),
        plain(
            "closes after a 103",
            NETWORK,
            vec![Read, Write(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())],
        ),
        plain("200, closes within the body", status(200), vec![Read, part(200)]),
        plain("500, closes within the body", status(500), vec![Read, part(500)]),
    ]
}

/// Receivers that send something other than HTTP/1.
fn garbage() -> Vec<Behaviour> {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    vec![
        responds("SSH", NETWORK, "SSH-2.0-OpenSSH_9.9\r\n"),
        responds("SMTP", NETWORK, "220 mail.example ESMTP\r\n"),
        responds("zeros", NETWORK, [0_u8; 4096]),
        responds(
            "random bytes",
            NETWORK,
            (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
        ),
        responds("a TLS alert", NETWORK, [0x15_u8, 3, 3, 0, 2, 2, 40]),
        responds("HTTP/2 preface", NETWORK, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        responds("HTTP/2 settings frame", NETWORK, [0_u8, 0, 0, 4, 0, 0, 0, 0, 0]),
        responds("HTTP/0.9", NETWORK, "<html>hello</html>\r\n\r\n"),
        responds("HTTP/3.0", NETWORK, "HTTP/3.0 200 OK\r\n\r\n"),
        responds("a request", NETWORK, "POST / HTTP/1.1\r\nhost: x\r\n\r\n"),
        responds("status code with a letter", NETWORK, "HTTP/1.1 2x0 OK\r\n\r\n"),
        responds("status code of two digits", NETWORK, "HTTP/1.1 20 OK\r\n\r\n"),
        responds("status code 099", NETWORK, "HTTP/1.1 099 Oh\r\n\r\n"),
        responds("status code of four digits", NETWORK, "HTTP/1.1 2000 OK\r\n\r\n"),
        responds("header with NUL", DELIVERED, head("x-a: b\0c\r\n")),
        responds("header name with a space", DELIVERED, head("x a: b\r\n")),
        responds("header without a name", DELIVERED, head(": b\r\n")),
        responds("header without a colon", DELIVERED, head("hello\r\n")),
        responds("content-length: -1", DELIVERED, head("content-length: -1\r\n")),
        responds(
            "content-length of 40 digits",
            DELIVERED,
            head(&format!("content-length: {}\r\n", "9".repeat(40))),
        ),
        responds(
            "two different lengths",
            DELIVERED,
            head("content-length: 1\r\ncontent-length: 2\r\n"),
        ),
        responds(
            "length and chunks",
            DELIVERED,
            head("content-length: 1\r\ntransfer-encoding: chunked\r\n"),
        ),
        responds(
            "chunked and gzip in the wrong order",
            status(200),
            head("transfer-encoding: chunked, gzip\r\n"),
        ),
    ]
}

/// Receivers whose status lines and header lines are sloppy, but have a clear status code.
fn sloppy() -> Vec<Behaviour> {
    let length = "content-length: 0\r\n\r\n";
    let old_chunks = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    vec![
        responds(
            "120 header lines",
            DELIVERED,
            format!("HTTP/1.1 200 OK\r\n{}{length}", "x-a: b\r\n".repeat(120)),
        ),
        responds(
            "folded header line",
            DELIVERED,
            format!("HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\n\td\r\n{length}"),
        ),
        responds("chunks in HTTP/1.0", DELIVERED, old_chunks),
        responds("no reason phrase", DELIVERED, format!("HTTP/1.1 200\r\n{length}")),
        responds("HTTP/1.2", DELIVERED, format!("HTTP/1.2 200 OK\r\n{length}")),
        responds("lower case", DELIVERED, format!("http/1.1 200 ok\r\n{length}")),
        responds("several spaces", DELIVERED, format!("HTTP/1.1  200   OK\r\n{length}")),
        responds(
            "blank lines before the status line",
            DELIVERED,
            format!("\r\n\r\nHTTP/1.1 200 OK\r\n{length}"),
        ),
        responds("line ends without CR", DELIVERED, "HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
        responds(
            "reason phrase that is not text",
            DELIVERED,
            b"HTTP/1.1 200 \xff\0\r\ncontent-length: 0\r\n\r\n",
        ),
        responds(
            "header name that is not text",
            DELIVERED,
            b"HTTP/1.1 200 OK\r\nx-\xff: b\r\ncontent-length: 0\r\n\r\n",
        ),
        responds(
            "the same length twice",
            DELIVERED,
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nok",
        ),
        responds(
            "503 with 120 header lines",
            status(503),
            format!("HTTP/1.1 503 Oh\r\n{}{length}", "x-a: b\r\n".repeat(120)),
        ),
    ]
}

/// Receivers that send unusual responses.
fn odd() -> Vec<Behaviour> {
    let chunked = |code: u16, chunk: &str| {
        format!("HTTP/1.1 {code} Oh\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")
    };
    let redirect =
        |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    vec![
        responds("200", DELIVERED, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        responds("HTTP/1.0", status(200), "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        plain(
            "HTTP/1.0 without a length",
            status(200),
            vec![Read, Write(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec())],
        ),
        responds(
            "204 with a body",
            status(204),
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
        ),
        responds(
            "101",
            status(101),
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        ),
        responds(
            "103, then 200",
            status(200),
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        responds(
            "two responses to one request",
            status(500),
            "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ),
        responds("status code 999", status(999), "HTTP/1.1 999 Oh\r\ncontent-length: 0\r\n\r\n"),
        responds("200 with a chunk of 16 EiB", status(200), chunked(200, "FFFFFFFFFFFFFFFF\r\nx")),
        responds("500 with a chunk of 16 EiB", status(500), chunked(500, "FFFFFFFFFFFFFFFF\r\nx")),
        responds("chunk of more than 16 EiB", status(200), chunked(200, "FFFFFFFFFFFFFFFFF\r\nx")),
        responds("invalid chunk size", status(200), chunked(200, "this is no chunk\r\n")),
        responds(
            "redirect to the metadata address",
            status(302),
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        responds("redirect to a file", status(302), redirect("file:///etc/passwd")),
        responds(
            "header that is not text",
            status(200),
            b"HTTP/1.1 200 OK\r\nx-a: \xff\xfe\r\ncontent-length: 0\r\n\r\n",
        ),
        responds(
            "body that is not text",
            status(500),
            b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\n\xff\xfe\0\x1b",
        ),
    ]
}

/// Receivers with TLS.
fn handshakes(authority: &Authority) -> Result<Vec<Behaviour>, rcgen::Error> {
    let ok = || vec![Read, Write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()), Again];
    let tls = |name, expected, flaw| {
        let transport = Transport::Tls(authority.issue(flaw)?);
        Ok::<_, rcgen::Error>(Behaviour { name, transport, steps: ok(), expected })
    };
    let over_tls = |name, expected, steps| Behaviour {
        name,
        transport: Transport::Pretended,
        steps,
        expected,
    };
    let old = Transport::Tls(authority.issue(Flaw::None)?.only_tls12());
    Ok(vec![
        tls("valid certificate", DELIVERED, Flaw::None)?,
        Behaviour {
            name: "valid certificate over TLS 1.2",
            transport: old,
            steps: ok(),
            expected: DELIVERED,
        },
        tls("expired certificate", TLS, Flaw::Expired)?,
        tls("certificate that is not valid yet", TLS, Flaw::NotYetValid)?,
        tls("certificate for another name", TLS, Flaw::OtherName)?,
        tls("self-signed certificate", TLS, Flaw::SelfSigned)?,
        tls("certificate of an untrusted authority", TLS, Flaw::OtherAuthority)?,
        over_tls("handshake that never starts", TIMEOUT, vec![Stall]),
        over_tls(
            "handshake with a byte each second",
            TIMEOUT,
            vec![Drip(vec![0x16, 3, 3, 0, 0x7a, 2, 0, 0, 0x76, 3, 3], SLOW_PAUSE)],
        ),
        over_tls("closes before the handshake", NETWORK, vec![]),
        over_tls("resets before the handshake", NETWORK, vec![Reset]),
        over_tls("no TLS", TLS, vec![Write(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Stall]),
        over_tls("alert in the handshake", TLS, vec![Write(vec![0x15, 3, 3, 0, 2, 2, 40]), Stall]),
        over_tls(
            "endless records",
            TLS,
            vec![Repeat([&[0x16, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat(), NO_PAUSE)],
        ),
    ])
}

/// A response with a gzip body (RFC 1952) of [`BOMB_BYTES`] decompressed bytes.
fn bomb(code: u16) -> Vec<u8> {
    let packed = miniz_oxide::deflate::compress_to_vec(&vec![0; BOMB_BYTES], 1);
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    body.extend(packed);
    // The trailer has the checksum, which is never checked, and the length modulo 2^32.
    body.extend([0; 4]);
    body.extend((BOMB_BYTES as u32).to_le_bytes());
    let head = format!(
        "HTTP/1.1 {code} Oh\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
