//! Signatures as [Standard Webhooks](https://www.standardwebhooks.com) defines them: HMAC-SHA256,
//! scheme `v1`.
//!
//! The signature covers `{webhook-id}.{webhook-timestamp}.{payload}`. So a receiver notices a
//! changed payload, ID or time, and a replayed request. With several secrets, each one signs. A
//! receiver accepts a request if one signature is valid, so a rotation of secrets has no gap.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The most secrets that sign together. A rotation needs two. Each one makes every request longer.
pub const MAX_SECRETS: usize = 10;

/// The prefix of a secret in the form of Standard Webhooks.
const PREFIX: &str = "whsec_";

/// The prefixes of keys for an asymmetric signature (`v1a`) of Standard Webhooks: private and
/// public.
const ASYMMETRIC_PREFIXES: [&str; 2] = ["whsk_", "whpk_"];

/// A secret shared with receivers, ready to sign.
///
/// Nothing shows the key. [`fmt::Debug`] prints only how it was parsed.
#[derive(Clone)]
pub struct Secret {
    /// The keyed state, so that a signature does not derive it anew.
    mac: Hmac<Sha256>,
    raw: bool,
}

/// Why a list of secrets is invalid. It contains no part of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecrets {
    /// It has only separators.
    #[error("holds no secret")]
    Missing,
    /// It has more than [`MAX_SECRETS`].
    #[error("holds more than {MAX_SECRETS} secrets")]
    TooMany,
    /// It has `whsec_` without a key, or a key that the algorithm cannot use.
    #[error("secret number {position} has an empty key")]
    EmptyKey {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// It has `whsec_` followed by invalid base64. Receivers' libraries reject it, so its bytes are
    /// not used as a key.
    #[error(
        "secret number {position} begins with whsec_, but what follows is not padded standard \
         base64"
    )]
    NotBase64 {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// It has a key of an asymmetric signature.
    #[error(
        "secret number {position} is a key of an asymmetric signature (whsk_ or whpk_); use a \
         whsec_ secret"
    )]
    Asymmetric {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// It has quotes that a shell would have removed but an environment file keeps.
    #[error("secret number {position} is in quotes, which would be part of it; remove them")]
    Quoted {
        /// Its place in the list, from 1.
        position: usize,
    },
}

impl Secret {
    /// Parses one or several secrets, separated by spaces or commas.
    ///
    /// Each is padded standard base64 with or without `whsec_`, as the libraries of Standard
    /// Webhooks read it. A secret without `whsec_` that is not base64 is used byte for byte. See
    /// [`Secret::is_raw`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidSecrets> {
        let parts =
            || text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        match parts().count() {
            0 => Err(InvalidSecrets::Missing),
            1..=MAX_SECRETS => {
                parts().zip(1..).map(|(part, position)| Self::parse(part, position)).collect()
            }
            _ => Err(InvalidSecrets::TooMany),
        }
    }

    fn parse(text: &str, position: usize) -> Result<Self, InvalidSecrets> {
        if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
            return Err(InvalidSecrets::Quoted { position });
        }
        if ASYMMETRIC_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(InvalidSecrets::Asymmetric { position });
        }
        let (key, raw) = match (
            text.strip_prefix(PREFIX),
            STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)),
        ) {
            (_, Ok(key)) => (key, false),
            (Some(_), Err(_)) => return Err(InvalidSecrets::NotBase64 { position }),
            (None, Err(_)) => (text.as_bytes().to_vec(), true),
        };
        if key.is_empty() {
            return Err(InvalidSecrets::EmptyKey { position });
        }
        let mac = Hmac::new_from_slice(&key).map_err(|_| InvalidSecrets::EmptyKey { position })?;
        Ok(Self { mac, raw })
    }

    /// The secret with these bytes as its key.
    pub fn from_key(key: &[u8]) -> Result<Self, InvalidSecrets> {
        let position = 1;
        if key.is_empty() {
            return Err(InvalidSecrets::EmptyKey { position });
        }
        let mac = Hmac::new_from_slice(key).map_err(|_| InvalidSecrets::EmptyKey { position })?;
        Ok(Self { mac, raw: false })
    }

    /// Whether the text was not base64, so its bytes are the key. The start logs this, because
    /// receivers' libraries expect base64.
    pub const fn is_raw(&self) -> bool {
        self.raw
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("raw", &self.raw).finish_non_exhaustive()
    }
}

/// The value of `webhook-signature`: one `v1,BASE64` per secret, in order, separated by spaces.
/// Empty without secrets.
///
/// `id` and `timestamp_seconds` are the values of `webhook-id` and `webhook-timestamp`. `payload`
/// is the body byte for byte.
pub fn sign(secrets: &[Secret], id: &str, timestamp_seconds: i64, payload: &[u8]) -> String {
    let signed_head = format!("{id}.{timestamp_seconds}.");
    let signatures = secrets.iter().map(|secret| {
        let mac = secret.mac.clone().chain_update(signed_head.as_bytes()).chain_update(payload);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use standardwebhooks::Webhook;

    use super::*;

    const PUBLISHED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "c2Vjb25kIHNlY3JldCwgYWxzbyBiYXNlNjQ=";
    const RAW: &str = "your-secret-key";

    fn now_seconds() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    fn headers(id: &str, timestamp: i64, signature: &str) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    /// The vector that Standard Webhooks and its libraries publish.
    #[test]
    fn signs_the_published_vector() {
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let payload = br#"{"test": 2432232314}"#;
        for text in [PUBLISHED, PUBLISHED.strip_prefix("whsec_").unwrap()] {
            let secrets = Secret::parse_list(text).unwrap();
            assert_eq!(
                sign(&secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, payload),
                expected
            );
        }
    }

    /// The project's own library verifies what we signed, with each of the secrets that signed side
    /// by side, and with no other.
    #[test]
    fn an_independent_library_verifies_each_of_several_signatures() {
        let secrets = Secret::parse_list(&format!("{PUBLISHED}, {OTHER} {RAW}")).unwrap();
        assert_eq!(secrets.iter().map(Secret::is_raw).collect::<Vec<_>>(), [false, false, true]);
        let payload = "{\"ä\": [1.0,  2]}".as_bytes();
        let signature = sign(&secrets, "order_1", now_seconds(), payload);
        let headers = headers("order_1", now_seconds(), &signature);
        for verifier in
            [Webhook::new(PUBLISHED), Webhook::new(OTHER), Webhook::from_bytes(RAW.into())]
        {
            verifier.as_ref().unwrap().verify(payload, &headers).unwrap();
            assert!(verifier.unwrap().verify(b"{}", &headers).is_err());
        }
        assert!(Webhook::from_bytes(b"another".into()).unwrap().verify(payload, &headers).is_err());
    }

    #[test]
    fn a_secret_of_bytes_signs_like_its_base64() {
        let parsed = Secret::parse_list(OTHER).unwrap();
        let of_bytes = Secret::from_key(b"second secret, also base64").unwrap();
        assert_eq!(sign(&[of_bytes], "a", 1, b"{}"), sign(&parsed, "a", 1, b"{}"));
        let empty = InvalidSecrets::EmptyKey { position: 1 };
        assert_eq!(Secret::from_key(b"").unwrap_err(), empty);
    }

    #[test]
    fn no_secrets_no_signature() {
        assert_eq!(sign(&[], "order_1", 1, b"{}"), "");
    }

    #[test]
    fn separators_are_spaces_and_commas_and_what_is_not_base64_is_raw() {
        for list in ["YQ==,Yg==", "YQ== Yg==", " YQ== ,\tYg==\n", "whsec_YQ==,,whsec_Yg=="] {
            let secrets = Secret::parse_list(list).unwrap();
            assert_eq!(secrets.len(), 2, "{list:?}");
            assert!(!secrets.iter().any(Secret::is_raw), "{list:?}");
        }
        for raw in ["your-secret-key", "YQ", "schlüssel"] {
            assert!(Secret::parse_list(raw).unwrap()[0].is_raw(), "{raw}");
        }
    }

    #[test]
    fn ten_secrets_sign_side_by_side() {
        assert_eq!(Secret::parse_list(&"YQ== ".repeat(10)).unwrap().len(), 10);
    }

    #[test]
    fn what_holds_no_key_is_refused() {
        assert_eq!(Secret::parse_list("").unwrap_err(), InvalidSecrets::Missing);
        assert_eq!(Secret::parse_list(" , ").unwrap_err(), InvalidSecrets::Missing);
        assert_eq!(
            Secret::parse_list("YQ== whsec_").unwrap_err(),
            InvalidSecrets::EmptyKey { position: 2 }
        );
        assert_eq!(Secret::parse_list(&"a ".repeat(11)).unwrap_err(), InvalidSecrets::TooMany);
    }

    /// What looks like a key in a form that receivers' libraries know, and is none, is a mistake
    /// and no raw key.
    #[test]
    fn a_mistaken_secret_is_refused_and_not_taken_as_a_raw_key() {
        for (text, error) in [
            ("YQ== whsec_not-base64", InvalidSecrets::NotBase64 { position: 2 }),
            ("whsec_YQ", InvalidSecrets::NotBase64 { position: 1 }),
            ("whsk_YQ==", InvalidSecrets::Asymmetric { position: 1 }),
            ("whpk_YQ==", InvalidSecrets::Asymmetric { position: 1 }),
            ("\"whsec_YQ==\"", InvalidSecrets::Quoted { position: 1 }),
            ("'your-secret-key'", InvalidSecrets::Quoted { position: 1 }),
            ("\"YQ== Yg==\"", InvalidSecrets::Quoted { position: 1 }),
        ] {
            assert_eq!(Secret::parse_list(text).unwrap_err(), error, "{text}");
        }
    }

    /// Neither form of the key appears in the debug text.
    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", Secret::parse_list(&format!("{PUBLISHED} {RAW}")).unwrap());
        assert_eq!(shown, "[Secret { raw: false, .. }, Secret { raw: true, .. }]");
    }
}
