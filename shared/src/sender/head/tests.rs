use proptest::prelude::*;

use super::*;

fn status(text: &str) -> Option<(u16, usize)> {
    match status_line(text.as_bytes()) {
        Beginning::Status(line, length) => Some((line.code, length)),
        _ => None,
    }
}

#[test]
fn a_status_line_can_be_unusual_but_not_ambiguous() {
    for text in [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 \r\n",
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.7 200 OK\r\n",
        "http/1.1 200 ok\r\n",
        "HTTP/1.1   200   OK\r\n",
        "HTTP/1.1\t200\tOK\r\n",
        "HTTP/1.1 200 \u{fc}\0\u{1b}\r x\n",
        "\r\n\r\n \nHTTP/1.1 200 OK\r\n",
    ] {
        assert_eq!(status(text), Some((200, text.len())), "{text:?}");
        assert_eq!(
            status(&format!("{text}HTTP/1.1 500 Oh\r\n")),
            Some((200, text.len())),
            "{text:?}"
        );
        for end in 0..text.len() {
            assert_eq!(
                status_line(&text.as_bytes()[..end]),
                Beginning::Incomplete,
                "{text:?} to {end}"
            );
        }
    }
    for text in [
        "HTTP/2 200 OK\r\n",
        "HTTP/3.0 200 OK\r\n",
        "HTTP/1 200 OK\r\n",
        "HTTP/1. 200 OK\r\n",
        "HTTP/1.x 200 OK\r\n",
        "HTTP/1.11 200 OK\r\n",
        "HTTP/1.1200 OK\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 200OK\r\n",
        "HTTP/1.1 2x0 OK\r\n",
        "HTTP/1.1 099 Oh\r\n",
        "HTTP/1.1 +20 Oh\r\n",
        "HTTP/1.1\r\n200\r\n",
        "HTTP/1.\r\n",
        "ICY 200 OK\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        assert_eq!(status_line(text.as_bytes()), Beginning::NotHttp, "{text:?}");
    }
    assert_eq!(
        status_line(b"HTTQ"),
        Beginning::NotHttp,
        "it is not waited for a line end that may never come"
    );
}

#[test]
fn the_blank_line_ends_the_head() {
    for (text, end) in [
        ("\r\nx", Some(2)),
        ("\nx", Some(1)),
        ("a: b\r\n\r\nx", Some(8)),
        ("a: b\n\nx", Some(6)),
        ("a: b\r\n \r\nx: y\r\n", None),
        ("a: b\r\n", None),
        ("", None),
        ("a: b\r", None),
    ] {
        assert_eq!(end_of_lines(text.as_bytes(), 0), end, "{text:?}");
        // For every start of the search.
        for from in 0..end.unwrap_or(text.len()) {
            assert_eq!(end_of_lines(text.as_bytes(), from), end, "{text:?} from {from}");
        }
    }
}

fn parse(lines: &str) -> Head {
    Head::parse(StatusLine { is_http10: false, code: 200 }, format!("{lines}\r\n").as_bytes(), true)
}

fn framed(lines: &str) -> (Framing, bool) {
    let head = parse(lines);
    (head.framing, head.is_reusable)
}

#[test]
fn bodies_are_framed_by_the_rules_of_rfc_9112() {
    let until_close = (Framing::UntilClose, false);
    for (lines, expected) in [
        ("content-length: 5\r\n", (Framing::Length(5), true)),
        ("Content-Length:5\n", (Framing::Length(5), true)),
        ("content-length: 5, 5\r\ncontent-length: 05\r\n", (Framing::Length(5), true)),
        ("transfer-encoding: chunked\r\n", (Framing::chunked(), true)),
        ("Transfer-Encoding: gzip, Chunked\r\n", (Framing::chunked(), true)),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", (Framing::chunked(), true)),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", (Framing::chunked(), false)),
        ("transfer-encoding: chunked, gzip\r\n", until_close),
        ("content-length: 5\r\ncontent-length: 6\r\n", until_close),
        ("content-length: 5, 6\r\n", until_close),
        ("content-length: -1\r\n", until_close),
        ("content-length: +1\r\n", until_close),
        ("content-length: 1.0\r\n", until_close),
        ("content-length:\r\n", until_close),
        ("content-length: 99999999999999999999\r\n", until_close),
        ("", until_close),
    ] {
        assert_eq!(framed(lines), expected, "{lines:?}");
    }
    let old = |lines: &str| {
        Head::parse(StatusLine { is_http10: true, code: 200 }, lines.as_bytes(), true)
    };
    let kept = old("connection: keep-alive\r\ncontent-length: 0\r\n\r\n");
    assert_eq!((kept.framing, kept.is_reusable), (Framing::Length(0), true));
    assert!(!old("content-length: 0\r\n\r\n").is_reusable);
    let chunked = old("connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!((chunked.framing, chunked.is_reusable), (Framing::chunked(), false));
    let empty =
        Head::parse(StatusLine { is_http10: false, code: 204 }, b"content-length: 5\r\n\r\n", true);
    assert_eq!(
        (empty.framing, empty.is_reusable),
        (Framing::Length(0), false),
        "five bytes may follow"
    );
}

#[test]
fn after_an_invalid_line_the_connection_is_not_reused() {
    for lines in [
        "x a: b\r\n",
        ": b\r\n",
        "no colon\r\n",
        "x-a : b\r\n",
        "x-a: b\0c\r\n",
        "x-a: b\rc\r\n",
        "x-\u{e4}: b\r\n",
        " folded: first\r\n",
        "connection: close\r\n",
        "connection: x, Close\r\n",
    ] {
        let (framing, is_reusable) = framed(&format!("{lines}content-length: 5\r\n"));
        assert_eq!((framing, is_reusable), (Framing::Length(5), false), "{lines:?}");
    }
    for lines in [
        "x-a: b\r\n c\r\n\td\r\n",
        "x-a: \u{e4}\r\n",
        "x-a:\r\n",
        "connection: keep-alive\r\n",
        "x~!: ,\r\n",
    ] {
        assert_eq!(
            framed(&format!("{lines}content-length: 5\r\n")),
            (Framing::Length(5), true),
            "{lines:?}"
        );
    }
    let cut = Head::parse(
        StatusLine { is_http10: false, code: 503 },
        b"retry-after: 5\r\ncontent-length: 5\r\nx-",
        false,
    );
    assert_eq!((cut.is_reusable, cut.retry_after), (false, vec!["5".to_owned()]));
}

#[test]
fn the_relevant_headers_are_found() {
    let head = parse(
        "keep-alive: timeout=5, max=100\r\nLocation: /a\r\n \r\n /b\r\nlocation: \
         /c\r\nretry-after: 28, 2\r\nretry-after: 9\r\n",
    );
    assert_eq!(head.keep_alive, Some(Duration::from_secs(5)));
    assert_eq!(head.location.as_deref(), Some("/a  /b"));
    assert_eq!(head.retry_after, ["28, 2", "9"]);
    for (value, seconds) in [
        ("timeout=5", Some(5)),
        ("max=1, Timeout = \"7\"", Some(7)),
        ("timeout=9, timeout=3", Some(3)),
        ("timeout=0", Some(0)),
        ("timeout=-1", None),
        ("timeout", None),
        ("timeout=5s", None),
        ("5", None),
    ] {
        assert_eq!(
            parse(&format!("keep-alive: {value}\r\n")).keep_alive,
            seconds.map(Duration::from_secs),
            "{value}"
        );
    }
}

proptest! {
    /// Any input: no panic, and the same end for all splits of the input.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'),
        Just(b':'), Just(b' '), any::<u8>()], 0..200)) {
        status_line(&bytes);
        Head::parse(StatusLine { is_http10: false, code: 200 }, &bytes, true);
        let whole = end_of_lines(&bytes, 0);
        let in_pieces = (1..=bytes.len()).find_map(|end| end_of_lines(&bytes[..end], end - 1));
        prop_assert_eq!(whole, in_pieces);
    }
}
