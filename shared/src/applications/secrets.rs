//! The signing secrets of an endpoint. Each endpoint has its own, so a receiver of one customer
//! cannot forge webhooks to another. `WEBHOOK_HMAC_SECRET` signs direct webhooks only.
//!
//! # Stored form
//!
//! An endpoint stores a list of [`StoredSecret`]s, **newest first**: a new secret is inserted at
//! the front. Their order in the list counts, not `created_at`, because clocks of processes differ.
//! `sealed` is the key itself, 24 to 64 bytes without `whsec_` and base64, sealed for
//! [`Binding::secret`] under the endpoint and the id of the secret.
//!
//! # Guarantees
//!
//! - No error and no `Debug` output contains a secret.
//! - A secret that has expired neither signs nor is shown, although it may still be stored.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::generated_id::generated_id;
use crate::{
    clock::Timestamp,
    random::Random,
    sealing::{Binding, MasterKeys, PlaintextTooLarge, Sealed, UnsealError},
    signing::Secret,
};

/// The fewest bytes of a secret, as Standard Webhooks recommends.
pub const MIN_SECRET_BYTES: usize = 24;

/// The most bytes of a secret, as Standard Webhooks recommends.
pub const MAX_SECRET_BYTES: usize = 64;

/// The bytes of a generated secret.
pub const GENERATED_SECRET_BYTES: usize = 32;

/// The most live secrets of an endpoint. Each one makes every request longer.
pub const MAX_LIVE_SECRETS: usize = 5;

/// The prefix of a secret in the form of Standard Webhooks.
const PREFIX: &str = "whsec_";

/// The prefixes of keys for an asymmetric signature (`v1a`): private and public.
const ASYMMETRIC_PREFIXES: [&str; 2] = ["whsk_", "whpk_"];

generated_id! {
    /// The id of a secret: `sec-` and 16 hexadecimal digits. Unique within its application.
    SecretId, InvalidSecretId, "sec-"
}

/// The signing secret of an endpoint: 24 to 64 bytes, shared with the receiver.
///
/// `Debug` shows nothing of it, and it is compared in constant time.
#[derive(Clone, Eq)]
pub struct EndpointSecret(Vec<u8>);

/// Why a given secret is invalid. It contains no part of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpointSecret {
    /// It is not padded standard base64, after `whsec_` or on its own. Receivers' libraries read no
    /// other form.
    #[error(
        "must be whsec_ and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in padded standard \
         base64; omit it to get a generated secret"
    )]
    NotBase64,
    /// It has another length.
    #[error(
        "has {bytes} bytes, but must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}; omit it to get \
         a generated secret"
    )]
    WrongLength {
        /// Its length.
        bytes: usize,
    },
    /// It is a key of an asymmetric signature.
    #[error(
        "is a key of an asymmetric signature (whsk_ or whpk_), which endpoints do not use; send a \
         whsec_ secret, or omit it to get a generated one"
    )]
    Asymmetric,
}

impl EndpointSecret {
    /// A new secret of 32 random bytes.
    pub fn generate(random: &dyn Random) -> Self {
        let mut key = [0; GENERATED_SECRET_BYTES];
        random.fill(&mut key);
        Self(key.to_vec())
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidEndpointSecret> {
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidEndpointSecret::WrongLength { bytes: bytes.len() })
        }
    }

    /// The form for the receiver: `whsec_` and base64. It is the secret itself. Only the answers to
    /// creation, rotation and `GET …/secret` contain it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl FromStr for EndpointSecret {
    type Err = InvalidEndpointSecret;

    /// Parses the secret that a caller gives: padded standard base64, with or without `whsec_`.
    /// Unlike `WEBHOOK_HMAC_SECRET`, a text that is not base64 is never used byte for byte.
    fn from_str(text: &str) -> Result<Self, InvalidEndpointSecret> {
        if ASYMMETRIC_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(InvalidEndpointSecret::Asymmetric);
        }
        let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
        Self::from_bytes(STANDARD.decode(encoded).map_err(|_| InvalidEndpointSecret::NotBase64)?)
    }
}

impl PartialEq for EndpointSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointSecret(..)")
    }
}

/// The signature that a secret makes. A document with another value cannot be read, so a new kind
/// needs a new version of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretKind {
    /// HMAC-SHA256, with a `whsec_` secret.
    #[serde(rename = "v1")]
    V1,
}

/// A secret as the endpoint's document stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// The id, which the sealed text is bound to.
    pub id: SecretId,
    /// The signature that it makes.
    pub kind: SecretKind,
    /// The secret, sealed.
    pub sealed: Sealed,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it neither signs nor is shown. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Why a stored secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretUnusable {
    /// Its text does not open. See [`UnsealError`]: a key that is absent can come back.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    /// What was sealed is not a secret of 24 to 64 bytes. The stored value is damaged.
    #[error("the stored value is not a secret of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")]
    NotASecret,
}

impl StoredSecret {
    /// Seals a secret for an endpoint. It gets a new id and does not expire.
    ///
    /// The limit of a plaintext is far above that of a secret, so the error means a bug.
    pub fn seal(
        secret: &EndpointSecret,
        application: impl Display,
        endpoint: impl Display,
        keys: &MasterKeys,
        now: Timestamp,
        random: &dyn Random,
    ) -> Result<Self, PlaintextTooLarge> {
        let id = SecretId::generate(random);
        let sealed = keys.seal(&secret.0, &Binding::secret(application, endpoint, id), random)?;
        Ok(Self { id, kind: SecretKind::V1, sealed, created_at: now, expires_at: None })
    }

    /// Whether it signs and is shown at this time. At `expires_at` it no longer does.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// The secret itself, for the answer that shows it. Application and endpoint are those whose
    /// document it is in.
    pub fn open(
        &self,
        application: impl Display,
        endpoint: impl Display,
        keys: &MasterKeys,
    ) -> Result<EndpointSecret, SecretUnusable> {
        let plaintext = keys.open(&self.sealed, &self.binding(application, endpoint))?;
        EndpointSecret::from_bytes(plaintext.into_bytes()).map_err(|_| SecretUnusable::NotASecret)
    }

    /// The secret ready to sign, for a delivery.
    pub fn signer(
        &self,
        application: impl Display,
        endpoint: impl Display,
        keys: &MasterKeys,
    ) -> Result<Secret, SecretUnusable> {
        let secret = self.open(application, endpoint, keys)?;
        Secret::from_key(&secret.0).map_err(|_| SecretUnusable::NotASecret)
    }

    /// The same secret under the first master key. See [`MasterKeys::reseal`].
    pub fn reseal(
        &self,
        application: impl Display,
        endpoint: impl Display,
        keys: &MasterKeys,
        random: &dyn Random,
    ) -> Result<Self, UnsealError> {
        let sealed = keys.reseal(&self.sealed, &self.binding(application, endpoint), random)?;
        Ok(Self { sealed, ..self.clone() })
    }

    fn binding(&self, application: impl Display, endpoint: impl Display) -> Binding {
        Binding::secret(application, endpoint, self.id)
    }
}

/// The secrets of an endpoint that sign and are shown at this time, newest first.
pub fn live(secrets: &[StoredSecret], now: Timestamp) -> impl Iterator<Item = &StoredSecret> {
    secrets.iter().filter(move |secret| secret.is_live(now))
}

/// The live secrets ready to sign, newest first. One unusable secret makes the whole result an
/// error, because a receiver that knows only that one would reject the webhook.
pub fn signers(
    secrets: &[StoredSecret],
    application: impl Display,
    endpoint: impl Display,
    keys: &MasterKeys,
    now: Timestamp,
) -> Result<Vec<Secret>, SecretUnusable> {
    live(secrets, now).map(|secret| secret.signer(&application, &endpoint, keys)).collect()
}

#[cfg(test)]
mod tests;
