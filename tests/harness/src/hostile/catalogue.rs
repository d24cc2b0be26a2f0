//! The behaviours, and what is to be recorded of each.
//!
//! The rule behind the expectations: once a complete status line was received, the status decides,
//! whatever becomes of the rest. Without one it is a `timeout` if nothing came in time, `tls` if
//! the handshake failed, and else `network`.

use std::time::Duration;

use super::{
    Step::{self, Again, Drip, Read, Repeat, Reset, Stall, Write},
    Transport,
    certificates::{Authority, Flaw},
};

/// A pause of nothing.
const AT_ONCE: Duration = Duration::ZERO;

/// The pause of those that are slow.
const SLOWLY: Duration = Duration::from_secs(1);

/// The pause of floods that go on for a whole attempt: so many a second are enough, and leave the
/// processor to the others.
const FLOOD: Duration = Duration::from_millis(5);

/// What a gzip bomb unpacks to.
const BOMB_BYTES: usize = 16 * 1024 * 1024;

/// What is to be recorded of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The kind of error; `None`: delivered.
    pub kind: Option<&'static str>,
    /// The status code.
    pub status_code: Option<u16>,
}

const DELIVERED: Recorded = Recorded { kind: None, status_code: Some(200) };
const NETWORK: Recorded = Recorded { kind: Some("network"), status_code: None };
const TIMEOUT: Recorded = Recorded { kind: Some("timeout"), status_code: None };
const TLS: Recorded = Recorded { kind: Some("tls"), status_code: None };

/// A receiver, and what comes of it.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// What it does, in words.
    pub name: &'static str,
    /// Over what.
    pub transport: Transport,
    /// What it does.
    pub steps: Vec<Step>,
    /// What is to be recorded.
    pub expected: Recorded,
}

fn plain(name: &'static str, expected: Recorded, steps: Vec<Step>) -> Behaviour {
    Behaviour { name, transport: Transport::Plain, steps, expected }
}

/// Reads the request, then writes this; and again, if there is another one.
fn answers(name: &'static str, expected: Recorded, bytes: impl AsRef<[u8]>) -> Behaviour {
    plain(name, expected, vec![Read, Write(bytes.as_ref().to_vec()), Again])
}

fn status(status_code: u16) -> Recorded {
    let kind = (!(200..300).contains(&status_code)).then_some("http_status");
    Recorded { kind, status_code: Some(status_code) }
}

/// All of them; the certificates are the authority's.
pub fn all(authority: &Authority) -> Result<Vec<Behaviour>, rcgen::Error> {
    Ok([silent(), endless(), broken(), garbage(), sloppy(), odd(), handshakes(authority)?].concat())
}

/// Those who take their time.
fn silent() -> Vec<Behaviour> {
    let drip = |text: &str| Drip(text.as_bytes().to_vec(), SLOWLY);
    let head = |code: u16| {
        Write(format!("HTTP/1.1 {code} Oh\r\ncontent-length: 1000\r\n\r\n").into_bytes())
    };
    vec![
        plain("never answers", TIMEOUT, vec![Read, Stall]),
        plain("neither reads nor answers", TIMEOUT, vec![Repeat(Vec::new(), SLOWLY)]),
        plain(
            "answers a byte a second",
            TIMEOUT,
            vec![Read, drip("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")],
        ),
        plain(
            "head of a 200 without its end",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\n".to_vec()), Stall],
        ),
        plain(
            "head of a 500 without its end",
            status(500),
            vec![Read, Write(b"HTTP/1.1 500 Oh\r\nx-".to_vec()), Stall],
        ),
        plain(
            "status line without its end",
            TIMEOUT,
            vec![Read, Write(b"HTTP/1.1 200 OK".to_vec()), Stall],
        ),
        plain(
            "200 without reading the request",
            DELIVERED,
            vec![Write(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Stall],
        ),
        plain(
            "200 with a byte of its body a second",
            status(200),
            vec![Read, head(200), drip(&"x".repeat(1000))],
        ),
        plain(
            "500 with a byte of its body a second",
            status(500),
            vec![Read, head(500), drip(&"x".repeat(1000))],
        ),
        plain("200 whose body never comes", status(200), vec![Read, head(200), Stall]),
        plain("500 whose body never comes", status(500), vec![Read, head(500), Stall]),
        plain(
            "103s without end",
            TIMEOUT,
            vec![Read, Repeat(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec(), FLOOD)],
        ),
        plain(
            "100s without end",
            TIMEOUT,
            vec![Read, Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), FLOOD)],
        ),
    ]
}

/// Those who do not stop.
fn endless() -> Vec<Behaviour> {
    let flood = |name, expected, head: &str, more: &str| {
        // In large pieces, which is how a flood is fast.
        let more = more.repeat(1 + 8192 / more.len()).into_bytes();
        plain(name, expected, vec![Read, Write(head.as_bytes().to_vec()), Repeat(more, AT_ONCE)])
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked_500 = "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let piece = "y".repeat(16 * 1024);
    vec![
        flood("200 with an endless body", status(200), chunked, &chunk),
        flood("500 with an endless body", status(500), chunked_500, &chunk),
        flood(
            "200 with an endless body of no length",
            status(200),
            "HTTP/1.1 200 OK\r\n\r\n",
            &piece,
        ),
        flood(
            "200 with 1 GiB, and it comes",
            status(200),
            "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
            &piece,
        ),
        flood(
            "500 with 1 GiB, and it comes",
            status(500),
            "HTTP/1.1 500 Oh\r\ncontent-length: 1073741824\r\n\r\n",
            &piece,
        ),
        answers(
            "200 with 1 GiB that never comes",
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
        flood("one endless header line", status(200), "HTTP/1.1 200 OK\r\nx-long: ", &piece),
        flood(
            "endless header lines of a 103",
            NETWORK,
            "HTTP/1.1 103 Early Hints\r\n",
            "x-more: and more\r\n",
        ),
        flood("endless blank lines", NETWORK, "", "\r\n\r\n\r\n\r\n"),
        flood("an endless status line", NETWORK, "HTTP/1.1 200 ", &piece),
        answers(
            "100,000 header lines",
            status(200),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100_000)),
        ),
        flood("an endless chunk extension", status(200), &format!("{chunked}4;a="), &piece),
        flood("endless trailers", status(200), &format!("{chunked}0\r\n"), "x-more: and more\r\n"),
        answers("gzip bomb with 200", status(200), bomb(200)),
        answers("gzip bomb with 500", status(500), bomb(500)),
    ]
}

/// Those who break off.
fn broken() -> Vec<Behaviour> {
    let part = |code: u16| {
        Write(format!("HTTP/1.1 {code} Oh\r\ncontent-length: 1000\r\n\r\nabc").into_bytes())
    };
    vec![
        plain("closes at once", NETWORK, vec![]),
        plain("resets at once", NETWORK, vec![Reset]),
        plain("closes after the request", NETWORK, vec![Read]),
        plain("resets after the request", NETWORK, vec![Read, Reset]),
        plain("closes in its status line", NETWORK, vec![Read, Write(b"HTTP/1.1 200 OK".to_vec())]),
        plain(
            "closes after its status line",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\n".to_vec())],
        ),
        plain(
            "closes in its head",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\nx-".to_vec())],
        ),
        plain(
            "resets in its head",
            DELIVERED,
            vec![Read, Write(b"HTTP/1.1 200 OK\r\nx-".to_vec()), Reset],
        ),
        plain(
            "500 that resets in its head",
            status(500),
            vec![Read, Write(b"HTTP/1.1 500 Oh\r\nx-".to_vec()), Reset],
        ),
        plain(
            "closes after a 103",
            NETWORK,
            vec![Read, Write(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())],
        ),
        plain("200 that is closed in its body", status(200), vec![Read, part(200)]),
        plain("500 that is closed in its body", status(500), vec![Read, part(500)]),
    ]
}

/// Those who speak something else.
fn garbage() -> Vec<Behaviour> {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    vec![
        answers("SSH", NETWORK, "SSH-2.0-OpenSSH_9.9\r\n"),
        answers("SMTP", NETWORK, "220 mail.example ESMTP\r\n"),
        answers("zeros", NETWORK, [0_u8; 4096]),
        answers(
            "bytes without sense",
            NETWORK,
            (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
        ),
        answers("a TLS alert", NETWORK, [0x15_u8, 3, 3, 0, 2, 2, 40]),
        answers("the preface of HTTP/2", NETWORK, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        answers("a settings frame of HTTP/2", NETWORK, [0_u8, 0, 0, 4, 0, 0, 0, 0, 0]),
        answers("HTTP/0.9", NETWORK, "<html>hello</html>\r\n\r\n"),
        answers("HTTP/3.0", NETWORK, "HTTP/3.0 200 OK\r\n\r\n"),
        answers("a request", NETWORK, "POST / HTTP/1.1\r\nhost: x\r\n\r\n"),
        answers("a status of letters", NETWORK, "HTTP/1.1 2x0 OK\r\n\r\n"),
        answers("a status of two digits", NETWORK, "HTTP/1.1 20 OK\r\n\r\n"),
        answers("status 099", NETWORK, "HTTP/1.1 099 Oh\r\n\r\n"),
        answers("a status of four digits", NETWORK, "HTTP/1.1 2000 OK\r\n\r\n"),
        answers("a header with NUL", DELIVERED, head("x-a: b\0c\r\n")),
        answers("a header's name with a blank", DELIVERED, head("x a: b\r\n")),
        answers("a header without a name", DELIVERED, head(": b\r\n")),
        answers("a header without a colon", DELIVERED, head("hello\r\n")),
        answers("content-length: -1", DELIVERED, head("content-length: -1\r\n")),
        answers(
            "content-length of 40 digits",
            DELIVERED,
            head(&format!("content-length: {}\r\n", "9".repeat(40))),
        ),
        answers("two lengths", DELIVERED, head("content-length: 1\r\ncontent-length: 2\r\n")),
        answers(
            "a length and chunks",
            DELIVERED,
            head("content-length: 1\r\ntransfer-encoding: chunked\r\n"),
        ),
        answers(
            "chunked and gzip in the wrong order",
            status(200),
            head("transfer-encoding: chunked, gzip\r\n"),
        ),
    ]
}

/// Those whose status lines and header lines are odd, but leave no doubt about the status.
fn sloppy() -> Vec<Behaviour> {
    let length = "content-length: 0\r\n\r\n";
    let old_chunks = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    vec![
        answers(
            "120 header lines",
            DELIVERED,
            format!("HTTP/1.1 200 OK\r\n{}{length}", "x-a: b\r\n".repeat(120)),
        ),
        answers(
            "a folded header line",
            DELIVERED,
            format!("HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\n\td\r\n{length}"),
        ),
        answers("chunks in HTTP/1.0", DELIVERED, old_chunks),
        answers("no reason phrase", DELIVERED, format!("HTTP/1.1 200\r\n{length}")),
        answers("HTTP/1.2", DELIVERED, format!("HTTP/1.2 200 OK\r\n{length}")),
        answers("lower case", DELIVERED, format!("http/1.1 200 ok\r\n{length}")),
        answers("more blanks than one", DELIVERED, format!("HTTP/1.1  200   OK\r\n{length}")),
        answers("blank lines before it", DELIVERED, format!("\r\n\r\nHTTP/1.1 200 OK\r\n{length}")),
        answers("line ends without CR", DELIVERED, "HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
        answers(
            "a reason phrase that is not text",
            DELIVERED,
            b"HTTP/1.1 200 \xff\0\r\ncontent-length: 0\r\n\r\n",
        ),
        answers(
            "a header's name that is not text",
            DELIVERED,
            b"HTTP/1.1 200 OK\r\nx-\xff: b\r\ncontent-length: 0\r\n\r\n",
        ),
        answers(
            "one length twice",
            DELIVERED,
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nok",
        ),
        answers(
            "503 with 120 header lines",
            status(503),
            format!("HTTP/1.1 503 Oh\r\n{}{length}", "x-a: b\r\n".repeat(120)),
        ),
    ]
}

/// Those who answer, but strangely.
fn odd() -> Vec<Behaviour> {
    let chunked = |code: u16, chunk: &str| {
        format!("HTTP/1.1 {code} Oh\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")
    };
    let redirect =
        |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    vec![
        answers("200", DELIVERED, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        answers("HTTP/1.0", status(200), "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        plain(
            "HTTP/1.0 without a length",
            status(200),
            vec![Read, Write(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec())],
        ),
        answers(
            "204 with a body",
            status(204),
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
        ),
        answers(
            "101",
            status(101),
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        ),
        answers(
            "103, then 200",
            status(200),
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        answers(
            "two answers to one request",
            status(500),
            "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ),
        answers("status 999", status(999), "HTTP/1.1 999 Oh\r\ncontent-length: 0\r\n\r\n"),
        answers("a chunk of 16 EiB with 200", status(200), chunked(200, "FFFFFFFFFFFFFFFF\r\nx")),
        answers("a chunk of 16 EiB with 500", status(500), chunked(500, "FFFFFFFFFFFFFFFF\r\nx")),
        answers("a chunk of more than that", status(200), chunked(200, "FFFFFFFFFFFFFFFFF\r\nx")),
        answers("a chunk of no number", status(200), chunked(200, "this is no chunk\r\n")),
        answers(
            "a redirect to the metadata address",
            status(302),
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        answers("a redirect to a file", status(302), redirect("file:///etc/passwd")),
        answers(
            "a header that is not text",
            status(200),
            b"HTTP/1.1 200 OK\r\nx-a: \xff\xfe\r\ncontent-length: 0\r\n\r\n",
        ),
        answers(
            "a body that is not text",
            status(500),
            b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\n\xff\xfe\0\x1b",
        ),
    ]
}

/// Those with TLS.
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
        tls("a good certificate", DELIVERED, Flaw::None)?,
        Behaviour {
            name: "a good certificate over TLS 1.2",
            transport: old,
            steps: ok(),
            expected: DELIVERED,
        },
        tls("a certificate that has expired", TLS, Flaw::Expired)?,
        tls("a certificate that is not valid yet", TLS, Flaw::NotYetValid)?,
        tls("a certificate for another name", TLS, Flaw::OtherName)?,
        tls("a self-signed certificate", TLS, Flaw::SelfSigned)?,
        tls("a certificate of an authority that nobody trusts", TLS, Flaw::OtherAuthority)?,
        over_tls("a handshake that never begins", TIMEOUT, vec![Stall]),
        over_tls(
            "a handshake of a byte a second",
            TIMEOUT,
            vec![Drip(vec![0x16, 3, 3, 0, 0x7a, 2, 0, 0, 0x76, 3, 3], SLOWLY)],
        ),
        over_tls("a handshake that is closed", NETWORK, vec![]),
        over_tls("a handshake that is reset", NETWORK, vec![Reset]),
        over_tls(
            "no TLS at all",
            TLS,
            vec![Write(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Stall],
        ),
        over_tls(
            "a refusal of the handshake",
            TLS,
            vec![Write(vec![0x15, 3, 3, 0, 2, 2, 40]), Stall],
        ),
        over_tls(
            "records without end",
            TLS,
            vec![Repeat([&[0x16, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat(), AT_ONCE)],
        ),
    ])
}

/// An answer whose body unpacks to [`BOMB_BYTES`], in gzip's frame (RFC 1952).
fn bomb(code: u16) -> Vec<u8> {
    let packed = miniz_oxide::deflate::compress_to_vec(&vec![0; BOMB_BYTES], 1);
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    body.extend(packed);
    // The checksum is never reached; the length is, modulo 2^32.
    body.extend([0; 4]);
    body.extend((BOMB_BYTES as u32).to_le_bytes());
    let head = format!(
        "HTTP/1.1 {code} Oh\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
