//! The request target and the `host` header.
//!
//! A URL can contain a signature of its own text, so the sender changes as little as possible. It
//! sends characters that RFC 3986 allows in a path or a query, and each `%XX`, as the caller wrote
//! them. It percent-encodes all other characters, and each `%` that does not begin a `%XX`. A
//! target therefore contains no spaces, no control characters, and only ASCII.
//!
//! Dot segments (`/a/../b`, also as `%2e%2e`) are resolved first: the allowlist checks the resolved
//! path, and a receiver would resolve them anyway. The URL standard encodes `'` in a query, which
//! RFC 3986 allows, so the query comes from the caller's text.

use std::fmt::Write;

use url::Url;

/// The request target (RFC 9112, 3.2.1) of a URL that the guard has parsed from `text`.
pub(super) fn request_target(text: &str, url: &Url) -> String {
    let mut target = String::with_capacity(text.len());
    push_encoded(&mut target, url.path(), "");
    let without_fragment = text.split('#').next().unwrap_or_default();
    if let Some((_, query)) = without_fragment.split_once('?') {
        target.push('?');
        push_encoded(&mut target, query, "?");
    }
    target
}

/// The value of `host` (RFC 9110, 7.2), with the port unless it is the default of the scheme.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Appends `text`. Percent-encodes each byte that is neither allowed in a path by RFC 3986 nor part
/// of `also`.
fn push_encoded(target: &mut String, text: &str, also: &str) {
    let bytes = text.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let is_encoded = || {
            matches!(bytes.get(index + 1..index + 3),
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit))
        };
        if is_path(byte) || also.as_bytes().contains(&byte) || (byte == b'%' && is_encoded()) {
            target.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

/// `pchar` of RFC 3986 without `pct-encoded`, and the slash.
fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sender::{AddressGuard, GuardSettings};

    fn guard() -> AddressGuard {
        AddressGuard::new(GuardSettings { allow_private: true, ..GuardSettings::default() })
            .unwrap()
    }

    fn target(text: &str) -> String {
        request_target(text, &guard().check_url(text).unwrap())
    }

    #[test]
    fn allowed_characters_are_sent_as_written() {
        for same in [
            "/",
            "/?",
            "/a'b?sig=it's&x='1'",
            "/-._~!$&'()*+,;=:@/?-._~!$&'()*+,;=:@/?",
            "/%2F%2f%c3%A4%00?%27%2B+%20",
            "/a//b/;c=1,2?a?b",
        ] {
            assert_eq!(target(&format!("https://example.com{same}")), same);
        }
    }

    #[test]
    fn everything_else_is_percent_encoded_in_path_and_query_alike() {
        for (written, sent) in [
            ("", "/"),
            ("?a", "/?a"),
            ("/a#b?c", "/a"),
            ("/?a#b", "/?a"),
            ("/ä?ö€", "/%C3%A4?%C3%B6%E2%82%AC"),
            (
                "/[a]{b}|^`\"<>?[a]{b}|^`\"<>",
                "/%5Ba%5D%7Bb%7D%7C%5E%60%22%3C%3E?%5Ba%5D%7Bb%7D%7C%5E%60%22%3C%3E",
            ),
            ("/100%?100%&%zz%1", "/100%25?100%25&%25zz%251"),
            ("/a/../b/./c?../d", "/b/c?../d"),
            ("/a/%2e%2E/b", "/b"),
        ] {
            assert_eq!(target(&format!("https://example.com{written}")), sent, "{written}");
        }
    }

    #[test]
    fn the_host_has_its_port_unless_it_is_the_schemes_own() {
        for (written, sent) in [
            ("https://Example.com/", "example.com"),
            ("https://example.com:443/", "example.com"),
            ("http://example.com:443/", "example.com:443"),
            ("http://[::1]:8080/", "[::1]:8080"),
            ("http://bücher.example/", "xn--bcher-kva.example"),
        ] {
            assert_eq!(host(&guard().check_url(written).unwrap()), sent);
        }
    }

    proptest! {
        /// Nothing that could end the request line gets into it, and a receiver that decodes it
        /// reads what the guard judged.
        #[test]
        fn a_target_is_one_word_and_means_what_was_judged(rest in "[/?#%'a-f0-9 \
            -~äЖ\u{2028}.\\[\\]{}|^`\"<>]{0,40}") {
            let text = format!("http://example.com/{rest}");
            if let Ok(url) = guard().check_url(&text) {
                let sent = request_target(&text, &url);
                prop_assert!(sent.starts_with('/'), "{sent}");
                prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()), "{sent}");
                let judged = url.query().map_or_else(|| url.path().to_owned(),
                    |query| format!("{}?{query}", url.path()));
                prop_assert_eq!(decoded(&sent), decoded(&judged));
            }
        }
    }

    fn decoded(text: &str) -> Vec<u8> {
        let (bytes, mut decoded, mut index) = (text.as_bytes(), Vec::new(), 0);
        while let Some(&byte) = bytes.get(index) {
            let digits = text
                .get(index + 1..index + 3)
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            if let (b'%', Some(digits)) = (byte, digits) {
                decoded.push(u8::from_str_radix(digits, 16).unwrap());
                index += 3;
            } else {
                decoded.push(byte);
                index += 1;
            }
        }
        decoded
    }
}
