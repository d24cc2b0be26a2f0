//! Correlation IDs. A correlation ID identifies a request in its response and in the log. It
//! follows a webhook from the request to a header of the delivery.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::random::Random;
use uuid::{Builder, Uuid};

use crate::limits::MAX_CORRELATION_ID_BYTES;

/// The header of requests and of responses.
pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The caller's correlation ID if it has 1 to 128 printable ASCII characters without spaces.
/// Otherwise a new UUID. So it can be written to a header and to a log line unchanged.
pub(crate) fn of(headers: &HeaderMap, random: &dyn Random) -> Arc<str> {
    let given =
        headers.get(CORRELATION_ID).map(HeaderValue::as_bytes).filter(|bytes| is_valid(bytes));
    if let Some(given) = given.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        return given.into();
    }
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    let mut text = Uuid::encode_buffer();
    let generated: &str =
        Builder::from_random_bytes(bytes).into_uuid().hyphenated().encode_lower(&mut text);
    generated.into()
}

fn is_valid(bytes: &[u8]) -> bool {
    (1..=MAX_CORRELATION_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use shared::random::SystemRandom;

    use super::*;

    fn correlation_id(given: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CORRELATION_ID, HeaderValue::from_bytes(given).unwrap());
        of(&headers, &SystemRandom).to_string()
    }

    #[test]
    fn a_valid_id_is_kept_and_an_invalid_one_is_replaced_by_a_uuid() {
        let long = "x".repeat(MAX_CORRELATION_ID_BYTES);
        for valid in ["a", "order-7/{retry}:1", &long] {
            assert_eq!(correlation_id(valid.as_bytes()), valid);
        }
        for invalid in [
            &b""[..],
            b"a b",
            b"a\tb",
            "\u{e4}".as_bytes(),
            b"\xff",
            "x".repeat(MAX_CORRELATION_ID_BYTES + 1).as_bytes(),
        ] {
            assert_eq!(
                Uuid::parse_str(&correlation_id(invalid)).unwrap().get_version_num(),
                4,
                "{invalid:?}"
            );
        }
        assert_ne!(of(&HeaderMap::new(), &SystemRandom), of(&HeaderMap::new(), &SystemRandom));
    }
}
