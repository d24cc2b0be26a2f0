//! The correlation id: follows a webhook from the API call to the destination's header, and names
//! the call in every answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::random::Random;
use uuid::{Builder, Uuid};

/// Where callers send theirs, and where every answer carries it.
pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The longest one that is taken over from a caller.
pub(crate) const MAX_CORRELATION_BYTES: usize = 128;

/// The caller's correlation id if there is one of 1 to 128 printable ASCII characters without
/// blanks; else a new UUID. So it can stand in a header and in a log line as it is.
pub(crate) fn of(headers: &HeaderMap, random: &dyn Random) -> Arc<str> {
    let given =
        headers.get(CORRELATION_ID).map(HeaderValue::as_bytes).filter(|bytes| is_sane(bytes));
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

fn is_sane(bytes: &[u8]) -> bool {
    (1..=MAX_CORRELATION_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use shared::random::SystemRandom;

    use super::*;

    fn answered(given: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CORRELATION_ID, HeaderValue::from_bytes(given).unwrap());
        of(&headers, &SystemRandom).to_string()
    }

    #[test]
    fn a_sane_one_is_kept_and_another_replaced_by_a_uuid() {
        let long = "x".repeat(MAX_CORRELATION_BYTES);
        for sane in ["a", "order-7/{retry}:1", &long] {
            assert_eq!(answered(sane.as_bytes()), sane);
        }
        for insane in [
            &b""[..],
            b"a b",
            b"a\tb",
            "\u{e4}".as_bytes(),
            b"\xff",
            "x".repeat(MAX_CORRELATION_BYTES + 1).as_bytes(),
        ] {
            assert_eq!(
                Uuid::parse_str(&answered(insane)).unwrap().get_version_num(),
                4,
                "{insane:?}"
            );
        }
        assert_ne!(of(&HeaderMap::new(), &SystemRandom), of(&HeaderMap::new(), &SystemRandom));
    }
}
