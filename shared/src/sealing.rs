//! Sealing: encryption at rest of the secrets of endpoints, under the keys of `MASTER_KEY`.
//!
//! # Format
//!
//! A sealed text is `{key id}.{base64url(nonce, ciphertext, tag)}`, without padding.
//!
//! | part | value |
//! |---|---|
//! | key id | the first 8 hexadecimal digits of the master key's SHA-256 |
//! | cipher | AES-256-GCM, with a random nonce of 96 bits and a tag of 128 bits |
//! | its key | HKDF-SHA-256 of the master key, no salt, info `posthaste/seal/1`, 32 bytes |
//! | associated data | the [`Binding`]: where the text is stored |
//!
//! # Guarantees
//!
//! - A text opens only under the master key that sealed it, and only at the place that it was
//!   sealed for. An attacker who can write to the store but has no key cannot move the
//!   secret of one endpoint to another, and cannot change a byte of it.
//! - No error, and no [`fmt::Debug`] output of a type in this module, contains a key or a
//!   plaintext. They contain key ids.
//! - The format never changes. A later format gets another form of key id.
//!
//! # Limits
//!
//! - A plaintext has at most [`MAX_PLAINTEXT_BYTES`].
//! - With random nonces, one key may seal 2^32 texts (NIST SP 800-38D, 8.3). [`MasterKeys::reseal`]
//!   leaves a text alone that the first key has sealed, so only new values count.
//! - Sealing does not hide the length of the plaintext. It does not stop an attacker with write
//!   access to the store from putting back an older text of the same place.
//!
//! # Rotation
//!
//! Put the new key first in `MASTER_KEY`, write each document, then remove the old key.

use std::{
    fmt::{self, Display},
    str::FromStr,
    sync::Arc,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    planted::{self, Bug},
    random::Random,
};

#[cfg(test)]
mod tests;

/// The bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 32;

/// The most keys in `MASTER_KEY`. A rotation needs two.
pub const MAX_MASTER_KEYS: usize = 10;

/// The largest plaintext: 64 KiB. The header values of an endpoint have at most 8 KiB.
pub const MAX_PLAINTEXT_BYTES: usize = 64 * 1024;

/// The bytes of a key's SHA-256 that its id shows.
const KEY_ID_BYTES: usize = 4;

/// Binds the derived key to this use and this format.
const INFO: &[u8] = b"posthaste/seal/1";

/// The id of a master key: 8 lower-case hexadecimal digits. It is not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterKeyId([u8; KEY_ID_BYTES]);

impl MasterKeyId {
    fn of(key: &[u8; MASTER_KEY_BYTES]) -> Self {
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&Sha256::digest(key)[..KEY_ID_BYTES]);
        Self(id)
    }

    /// The id in this text. Only lower-case digits are valid, so that a key has one id.
    fn parse(text: &str) -> Option<Self> {
        let mut id = [0; KEY_ID_BYTES];
        hex::decode_to_slice(text, &mut id).ok()?;
        let id = Self(id);
        (id.to_string() == text).then_some(id)
    }
}

impl Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A new master key, as `MASTER_KEY` holds it: 32 random bytes in base64.
///
/// The text is the secret itself. Do not log it.
pub fn generate_master_key(random: &dyn Random) -> String {
    let mut key = [0; MASTER_KEY_BYTES];
    random.fill(&mut key);
    STANDARD.encode(key)
}

/// One master key, ready to seal.
#[derive(Clone)]
struct MasterKey {
    id: MasterKeyId,
    cipher: LessSafeKey,
}

/// The keys of `MASTER_KEY`, at least one. The first seals, all open. Their ids differ.
///
/// A copy shares the keys. `Debug` shows only their ids.
#[derive(Clone)]
pub struct MasterKeys {
    first: MasterKey,
    others: Arc<[MasterKey]>,
}

/// Why a list of master keys is invalid. It contains no part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasterKeys {
    /// It has only separators.
    #[error("holds no key")]
    Missing,
    /// It has more than [`MAX_MASTER_KEYS`].
    #[error("holds more than {MAX_MASTER_KEYS} keys")]
    TooMany,
    /// It has quotes that a shell would have removed but an environment file keeps.
    #[error("key number {position} is in quotes; remove them")]
    Quoted {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// It has a key that is not base64.
    #[error("key number {position} is not padded standard base64")]
    NotBase64 {
        /// Its place in the list, from 1.
        position: usize,
    },
    /// It has a key of another length.
    #[error("key number {position} has {bytes} bytes, but must have {MASTER_KEY_BYTES}")]
    WrongLength {
        /// Its place in the list, from 1.
        position: usize,
        /// Its length.
        bytes: usize,
    },
    /// It has a key twice, or two keys with one id, which happens once in 4 billion times.
    #[error("key number {position} has the same id as an earlier key; remove or replace it")]
    Repeated {
        /// Its place in the list, from 1.
        position: usize,
    },
}

/// There is no master key, but a secret has to be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "MASTER_KEY is not set, so the secrets of endpoints can be neither stored nor read. Set it to \
     32 random bytes in base64, for example the output of: openssl rand -base64 32"
)]
pub struct NoMasterKey;

/// The plaintext has more than [`MAX_PLAINTEXT_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of {bytes} bytes cannot be sealed; the limit is {MAX_PLAINTEXT_BYTES}")]
pub struct PlaintextTooLarge {
    /// Its length.
    pub bytes: usize,
}

/// Why a sealed text does not open. It names at most the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// A key that is not in `MASTER_KEY` sealed it. This is a fault of the settings: the value
    /// opens again as soon as the key is back, so nothing is given up because of it.
    #[error(
        "sealed under the master key {key_id}, which MASTER_KEY does not hold; add that key to the \
         end of MASTER_KEY"
    )]
    UnknownKey {
        /// The id of the key.
        key_id: MasterKeyId,
    },
    /// It does not have the form of a sealed text. The stored value is damaged.
    #[error("not a sealed text; the stored value is damaged, so set it again")]
    Malformed,
    /// A byte of it was changed, or it was sealed for another place. The cipher cannot tell which.
    #[error(
        "not what the master key {key_id} sealed for this place; the stored value is damaged or \
         was moved, so set it again"
    )]
    NotAuthentic {
        /// The id of the key.
        key_id: MasterKeyId,
    },
}

/// The place that a sealed text is bound to: its associated data.
///
/// No part but the last may contain `/`, which the forms of the ids guarantee. So different places
/// have different texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binding(String);

impl Binding {
    /// A signing secret of an endpoint: `{application}/{endpoint}/{secret id}`.
    pub fn secret(application: impl Display, endpoint: impl Display, secret: impl Display) -> Self {
        Self(format!("{application}/{endpoint}/{secret}"))
    }

    /// The header values of an endpoint: `{application}/{endpoint}/headers`. No secret has the id
    /// `headers`.
    pub fn headers(application: impl Display, endpoint: impl Display) -> Self {
        Self(format!("{application}/{endpoint}/headers"))
    }

    /// The stored answer of an idempotency key, if it contains a secret:
    /// `{application}/answer/{key}`. No endpoint has the id `answer`.
    pub fn answer(application: impl Display, key: impl Display) -> Self {
        Self(format!("{application}/answer/{key}"))
    }

    /// The associated data.
    pub fn as_str(&self) -> &str {
        if planted::is(Bug::SealedUnbound) {
            return "anywhere";
        }
        &self.0
    }
}

/// A sealed text as it is stored. `Debug` shows only the id of its key.
///
/// Reading a document accepts any text, so that a damaged value makes one secret unusable and not
/// its document. [`MasterKeys::open`] reports the damage.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// The stored text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the key that sealed it. `None`: it is damaged.
    pub fn key_id(&self) -> Option<MasterKeyId> {
        MasterKeyId::parse(self.0.split_once('.')?.0)
    }

    /// Its key, and nonce, ciphertext and tag.
    fn parts(&self) -> Option<(MasterKeyId, [u8; NONCE_LEN], Vec<u8>)> {
        let (_, encoded) = self.0.split_once('.')?;
        let mut nonce = [0; NONCE_LEN];
        let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        let (head, ciphertext) = bytes.split_at_checked(NONCE_LEN)?;
        nonce.copy_from_slice(head);
        (ciphertext.len() >= AES_256_GCM.tag_len()).then_some((
            self.key_id()?,
            nonce,
            ciphertext.to_vec(),
        ))
    }
}

impl From<String> for Sealed {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealed").field(&self.key_id()).finish()
    }
}

/// What a sealed text held. `Debug` shows nothing of it, and it is compared in constant time.
#[derive(Clone, Eq)]
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// The bytes. Do not log them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes. Do not log them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl PartialEq for Plaintext {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(..)")
    }
}

impl MasterKey {
    fn parse(text: &str, position: usize) -> Result<Self, InvalidMasterKeys> {
        if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
            return Err(InvalidMasterKeys::Quoted { position });
        }
        let bytes = STANDARD.decode(text).map_err(|_| InvalidMasterKeys::NotBase64 { position })?;
        let wrong_length = InvalidMasterKeys::WrongLength { position, bytes: bytes.len() };
        let key: [u8; MASTER_KEY_BYTES] = bytes.try_into().map_err(|_| wrong_length)?;
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(&key);
        // Only an output of more than 255 hashes fails.
        let derived = extracted.expand(&[INFO], &AES_256_GCM).map_err(|_| wrong_length)?;
        let cipher = LessSafeKey::new(UnboundKey::from(derived));
        Ok(Self { id: MasterKeyId::of(&key), cipher })
    }
}

impl FromStr for MasterKeys {
    type Err = InvalidMasterKeys;

    /// Parses one or several keys, each 32 bytes in padded standard base64, separated by spaces or
    /// commas.
    fn from_str(text: &str) -> Result<Self, InvalidMasterKeys> {
        let mut keys: Vec<MasterKey> = Vec::new();
        let parts =
            text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        for (part, position) in parts.zip(1..) {
            if position > MAX_MASTER_KEYS {
                return Err(InvalidMasterKeys::TooMany);
            }
            let key = MasterKey::parse(part, position)?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(InvalidMasterKeys::Repeated { position });
            }
            keys.push(key);
        }
        let (first, others) = keys.split_first().ok_or(InvalidMasterKeys::Missing)?;
        Ok(Self { first: first.clone(), others: others.into() })
    }
}

impl MasterKeys {
    /// The id of the key that seals.
    pub fn sealing_key_id(&self) -> MasterKeyId {
        self.first.id
    }

    /// Whether there is a key with this id. A health check asks it of each stored value's
    /// [`Sealed::key_id`].
    pub fn holds(&self, id: MasterKeyId) -> bool {
        self.find(id).is_some()
    }

    fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.first).chain(self.others.iter())
    }

    fn find(&self, id: MasterKeyId) -> Option<&MasterKey> {
        self.all().find(|key| key.id == id)
    }

    /// Seals a value for a place, under the first key. Each call gives another text, because the
    /// nonce is random.
    pub fn seal(
        &self,
        plaintext: &[u8],
        binding: &Binding,
        random: &dyn Random,
    ) -> Result<Sealed, PlaintextTooLarge> {
        let too_large = PlaintextTooLarge { bytes: plaintext.len() };
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(too_large);
        }
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut ciphertext = plaintext.to_vec();
        let associated = Aad::from(binding.as_str().as_bytes());
        self.first
            .cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                associated,
                &mut ciphertext,
            )
            .map_err(|_| too_large)?;
        let encoded = URL_SAFE_NO_PAD.encode([&nonce[..], &ciphertext].concat());
        Ok(Sealed(format!("{}.{encoded}", self.first.id)))
    }

    /// Opens a text that [`MasterKeys::seal`] sealed for this place under one of the keys.
    pub fn open(&self, sealed: &Sealed, binding: &Binding) -> Result<Plaintext, UnsealError> {
        let (key_id, nonce, mut bytes) = sealed.parts().ok_or(UnsealError::Malformed)?;
        let key = self.find(key_id).ok_or(UnsealError::UnknownKey { key_id })?;
        let length = key
            .cipher
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(binding.as_str().as_bytes()),
                &mut bytes,
            )
            .map_err(|_| UnsealError::NotAuthentic { key_id })?
            .len();
        bytes.truncate(length);
        Ok(Plaintext(bytes))
    }

    /// The text under the first key. A text that this key has already sealed is returned unchanged,
    /// without a check.
    ///
    /// Every write of a document reseals each of its values, which ends a rotation. If a value does
    /// not open, the writer keeps its text: the key may come back.
    pub fn reseal(
        &self,
        sealed: &Sealed,
        binding: &Binding,
        random: &dyn Random,
    ) -> Result<Sealed, UnsealError> {
        if sealed.key_id() == Some(self.first.id) {
            return Ok(sealed.clone());
        }
        let plaintext = self.open(sealed, binding)?;
        // A text that is too large cannot have been sealed.
        self.seal(plaintext.as_bytes(), binding, random).map_err(|_| UnsealError::Malformed)
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKeys")?;
        f.debug_list().entries(self.all().map(|key| key.id)).finish()
    }
}
