//! Checks signatures with the reference implementation of Standard Webhooks.

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use standardwebhooks::{HEADER_WEBHOOK_SIGNATURE, Webhook};

/// The result of the check of a request's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignatureStatus {
    /// The signature is valid for one of the secrets.
    Valid,
    /// The signature is invalid.
    Invalid,
    /// The request has no signature.
    Missing,
    /// The receiver has no secret.
    Unchecked,
}

impl SignatureStatus {
    /// The name that logs and counts use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Missing => "missing",
            Self::Unchecked => "unchecked",
        }
    }
}

/// The accepted secrets. Without a secret, signatures are not checked.
#[derive(Default)]
pub struct Secrets {
    verifiers: Vec<Webhook>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} hidden)", self.verifiers.len())
    }
}

impl Secrets {
    /// Parses a list separated by spaces or commas, as in `WEBHOOK_HMAC_SECRET`: base64 with or
    /// without `whsec_`, else raw bytes.
    pub fn parse(list: &str) -> Self {
        let secrets = list.split([',', ' ', '\n', '\t']).filter(|secret| !secret.is_empty());
        Self {
            verifiers: secrets
                .filter_map(|secret| {
                    Webhook::new(secret).or_else(|_| Webhook::from_bytes(secret.into())).ok()
                })
                .collect(),
        }
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// Checks the signature of a request.
    pub fn verdict(&self, headers: &HeaderMap, body: &Bytes) -> SignatureStatus {
        if self.verifiers.is_empty() {
            SignatureStatus::Unchecked
        } else if !headers.contains_key(HEADER_WEBHOOK_SIGNATURE) {
            SignatureStatus::Missing
        } else if self.verifiers.iter().any(|verifier| verifier.verify(body, headers).is_ok()) {
            SignatureStatus::Valid
        } else {
            SignatureStatus::Invalid
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const BODY: &[u8] = br#"{"a":1.0, "b":"\u00e9"}"#;

    fn signed(secret: &Webhook) -> HeaderMap {
        let now = jiff::Timestamp::now().as_second();
        let signature = secret.sign("msg_1", now, BODY).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn any_of_several_secrets_may_have_signed() {
        let secrets = Secrets::parse(&format!("whsec_AAAA {SECRET},not-base64!"));
        let body = Bytes::from_static(BODY);
        assert_eq!(
            secrets.verdict(&signed(&Webhook::new(SECRET).unwrap()), &body),
            SignatureStatus::Valid
        );
        assert_eq!(
            secrets.verdict(&signed(&Webhook::from_bytes(b"not-base64!".to_vec()).unwrap()), &body),
            SignatureStatus::Valid
        );
        assert_eq!(
            secrets.verdict(&signed(&Webhook::from_bytes(b"another".to_vec()).unwrap()), &body),
            SignatureStatus::Invalid
        );
    }

    #[test]
    fn a_changed_body_is_invalid_and_no_signature_is_missing() {
        let secrets = Secrets::parse(SECRET);
        let headers = signed(&Webhook::new(SECRET).unwrap());
        assert_eq!(secrets.verdict(&headers, &Bytes::from_static(b"{}")), SignatureStatus::Invalid);
        assert_eq!(
            secrets.verdict(&HeaderMap::new(), &Bytes::from_static(BODY)),
            SignatureStatus::Missing
        );
        assert_eq!(
            Secrets::default().verdict(&headers, &Bytes::from_static(BODY)),
            SignatureStatus::Unchecked
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", Secrets::parse(SECRET)), "Secrets(1 hidden)");
    }
}
