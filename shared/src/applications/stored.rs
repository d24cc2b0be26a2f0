//! Secrets and keys as the document of an application stores them. This module knows their bytes
//! alone: what they mean, how they are made and compared is another one's.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A secret of an endpoint, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// The id, which the sealed text is bound to.
    pub id: String,
    /// The signature that it makes: `v1`.
    pub kind: String,
    /// The secret, sealed under the master key.
    pub sealed: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it does not sign. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A key of an application. Only its hash is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The id, which the key contains.
    pub id: String,
    /// The caller's name for it.
    pub name: String,
    /// The SHA-256 of the key's secret part.
    pub sha256: String,
    /// What it permits.
    pub scopes: Vec<String>,
    /// From when on it is refused. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A custom header of an endpoint. Its value is sealed, because it can be a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHeader {
    /// The name, as the caller wrote it.
    pub name: String,
    /// The value, sealed under the master key.
    pub sealed: String,
}
