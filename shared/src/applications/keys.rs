//! Application keys: keys of the API that a customer, or the publisher's code for one customer,
//! calls with. Unlike the keys of `API_KEYS`, a key reaches one application alone, as far as its
//! scopes go. [`access`](super::access) decides what that is.
//!
//! # Form
//!
//! `pha.{application}.{key id}.{32 random bytes in base64url}`. A caller sends it where it would
//! send a full key. Nothing in it contains a `.` but the separators.
//!
//! # Guarantees
//!
//! - The key itself is stored nowhere. The answer that creates it shows it once. The application's
//!   document has the SHA-256 of its whole text, so a hash is valid for one application and one key
//!   id.
//! - Hashes are compared in constant time. No `Debug` output and no error contains a key or a hash.
//! - A key that expires is invalid from `expires_at` on, by the clock of the process that checks.

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::generated_id::generated_id;
use crate::{clock::Timestamp, config::KeyHash, random::Random};

mod sha256_hex;

/// How every application key begins. A key of `API_KEYS` may begin so too: the API compares a
/// presented key with those first.
pub const KEY_PREFIX: &str = "pha.";

/// The most keys of an application.
pub const MAX_KEYS: usize = 20;

/// The longest name of a key, in characters.
pub const MAX_KEY_NAME_CHARS: usize = 64;

/// The random bytes of a key.
const KEY_BYTES: usize = 32;

/// The longest application id, in bytes.
const MAX_APPLICATION_BYTES: usize = 64;

generated_id! {
    /// The id of an application key: `key-` and 16 hexadecimal digits. Unique within its
    /// application. It is not secret.
    ApplicationKeyId, InvalidApplicationKeyId, "key-"
}

/// What a key may do. `manage` includes `read`. None includes `publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publish messages.
    Publish,
    /// Read the application, its endpoints without secrets, messages and deliveries.
    Read,
    /// Change endpoints, read their secrets, resend and delete.
    Manage,
}

impl Scope {
    /// All scopes, in the order in which lists of them are stored.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Read, Self::Manage];

    /// The name in requests, answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scopes of a key: at least one, each once. Stored in the order of [`Scope::ALL`], as the
/// caller named them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Scope>")]
pub struct Scopes(BTreeSet<Scope>);

/// Why a list of scopes is invalid. The text continues a sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScopes {
    /// It is empty.
    #[error("must name at least one of publish, read and manage")]
    Empty,
    /// It has an unknown entry.
    #[error("must only name publish, read and manage; entry {position} is another")]
    Unknown {
        /// Its place in the list, from 1.
        position: usize,
    },
}

impl Scopes {
    /// Parses the names that a caller sends. A repeated name counts once.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, InvalidScopes> {
        let scope = |(name, position): (&T, usize)| {
            let known = Scope::ALL.into_iter().find(|scope| scope.as_str() == name.as_ref());
            known.ok_or(InvalidScopes::Unknown { position })
        };
        names.iter().zip(1..).map(scope).collect::<Result<Vec<_>, _>>()?.try_into()
    }

    /// Whether they permit what needs this scope.
    pub fn include(&self, scope: Scope) -> bool {
        self.0.contains(&scope) || (scope == Scope::Read && self.0.contains(&Scope::Manage))
    }

    /// The scopes as the caller named them.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }
}

impl TryFrom<Vec<Scope>> for Scopes {
    type Error = InvalidScopes;

    fn try_from(scopes: Vec<Scope>) -> Result<Self, InvalidScopes> {
        if scopes.is_empty() {
            return Err(InvalidScopes::Empty);
        }
        Ok(Self(scopes.into_iter().collect()))
    }
}

/// The name that people tell a key by: 1 to 64 characters without control characters. Names may
/// repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

/// Not a name of a key. The text continues a sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_KEY_NAME_CHARS} characters without control characters")]
pub struct InvalidKeyName;

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = InvalidKeyName;

    fn try_from(name: String) -> Result<Self, InvalidKeyName> {
        let length = name.chars().take(MAX_KEY_NAME_CHARS + 1).count();
        if length == 0 || length > MAX_KEY_NAME_CHARS || name.chars().any(char::is_control) {
            return Err(InvalidKeyName);
        }
        Ok(Self(name))
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.0
    }
}

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(name: &str) -> Result<Self, InvalidKeyName> {
        name.to_owned().try_into()
    }
}

/// A new key. It exists only in the answer that creates it. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct ApplicationKey(String);

impl ApplicationKey {
    /// The text of the key, for the answer. Do not log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApplicationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApplicationKey(..)")
    }
}

/// A key as the application's document stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The id, which lists show and which revoking names.
    pub id: ApplicationKeyId,
    /// The caller's name for it.
    pub name: KeyName,
    /// The SHA-256 of the key's whole text, stored as 64 lower-case hexadecimal digits.
    #[serde(with = "sha256_hex")]
    pub sha256: KeyHash,
    /// What it may do.
    pub scopes: Scopes,
    /// From when on it is invalid. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The time at which a new key would expire has passed. The text continues a sentence that begins
/// with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be in the future; omit it for a key that does not expire")]
pub struct AlreadyExpired;

impl StoredKey {
    /// Makes a key for an application. Whether the application has room for it ([`MAX_KEYS`]) is
    /// checked by the change of its document.
    pub fn issue(
        application: impl fmt::Display,
        name: KeyName,
        scopes: Scopes,
        expires_at: Option<Timestamp>,
        now: Timestamp,
        random: &dyn Random,
    ) -> Result<(Self, ApplicationKey), AlreadyExpired> {
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(AlreadyExpired);
        }
        let id = ApplicationKeyId::generate(random);
        let mut secret = [0; KEY_BYTES];
        random.fill(&mut secret);
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let key = ApplicationKey(format!("{KEY_PREFIX}{application}.{id}.{secret}"));
        let sha256 = KeyHash::of(key.0.as_bytes());
        Ok((Self { id, name, sha256, scopes, expires_at }, key))
    }

    /// Whether it is still valid at this time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// A key that a caller presents, before it is checked. It holds the hash and not the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentedKey {
    application: String,
    id: ApplicationKeyId,
    sha256: KeyHash,
}

/// The text begins like an application key, and has not the form of one. The API answers as for any
/// invalid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an application key, which is pha.APPLICATION.KEY_ID.SECRET")]
pub struct InvalidApplicationKey;

impl PresentedKey {
    /// Parses a key that a caller presents. Costs one hash of at most 133 bytes.
    pub fn parse(key: &[u8]) -> Result<Self, InvalidApplicationKey> {
        Self::parts(key).ok_or(InvalidApplicationKey)
    }

    fn parts(key: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(key).ok()?.strip_prefix(KEY_PREFIX)?.split('.');
        let (application, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let is_id = !application.is_empty()
            && application.len() <= MAX_APPLICATION_BYTES
            && application.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        // The form of the secret is checked, so that a text of any length is refused unhashed.
        let mut decoded = [0; KEY_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(secret, &mut decoded).ok()?;
        (is_id && length == KEY_BYTES && parts.next().is_none()).then_some(Self {
            application: application.to_owned(),
            id: id.parse().ok()?,
            sha256: KeyHash::of(key),
        })
    }

    /// The id of the application whose document decides. It has the form of one. Until the key is
    /// checked, it is what the caller claims.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// The id of the key.
    pub fn id(&self) -> ApplicationKeyId {
        self.id
    }

    /// Looks the key up among those of [`PresentedKey::application`].
    pub fn check<'a>(&self, keys: &'a [StoredKey], now: Timestamp) -> KeyCheck<'a> {
        // Ids are not secret. The comparison of the hash is in constant time.
        let matches = |key: &&StoredKey| key.id == self.id && key.sha256.ct_eq(&self.sha256).into();
        match keys.iter().find(matches) {
            Some(key) if key.is_live(now) => KeyCheck::Valid(key),
            Some(key) => KeyCheck::Expired(key),
            None => KeyCheck::Unknown,
        }
    }
}

/// What a presented key turns out to be. Only a valid one admits its caller; the API answers the
/// other two alike, with 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck<'a> {
    /// A live key of the application.
    Valid(&'a StoredKey),
    /// A key of the application that has expired. Reading the document again does not help.
    Expired(&'a StoredKey),
    /// No key of the document: wrong, revoked, or younger than the copy. A caller with a copy that
    /// is older than 100 ms reads the document consistently and checks again.
    Unknown,
}

#[cfg(test)]
mod tests;
