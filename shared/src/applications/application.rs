//! The document of an application: its endpoints, its keys, and its settings. Every change is one
//! conditional write of the whole document.

use miniz_oxide::deflate::compress_to_vec;
use serde::{Deserialize, Serialize};

use super::{
    endpoint::{Endpoint, Metadata},
    id::{ApplicationId, EndpointId},
    keys::StoredKey,
};
use crate::{
    clock::Timestamp,
    model::{APPLICATIONS_SCHEMA, InvalidRecord, is_default},
};

/// The most endpoints of an application, enabled or not.
pub const MAX_ENDPOINTS: usize = 100;

/// The most bytes of a document, deflated: 128 KiB.
pub const MAX_DOCUMENT_BYTES: usize = 128 * 1024;

/// The most bytes of an application's name.
pub const MAX_NAME_BYTES: usize = 256;

/// The changes that a document lists: the newest 100.
pub const MAX_CHANGES_KEPT: usize = 100;

/// The deflate level by which a document is measured. A store deflates it likewise.
pub const DEFLATE_LEVEL: u8 = 8;

/// The stored document of an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Schema version: [`APPLICATIONS_SCHEMA`].
    #[serde(rename = "v")]
    pub schema: u16,
    /// The number of writes. Every write is conditional on it.
    #[serde(rename = "r")]
    pub revision: u64,
    /// The caller's id.
    pub id: ApplicationId,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether a message is stored that no endpoint matches.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep_unmatched: bool,
    /// The publisher's own data.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was deleted. Its document stays until its messages are purged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// Tokens that were issued earlier are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_not_before: Option<Timestamp>,
    /// Its keys, at most [`MAX_KEYS`](super::keys::MAX_KEYS), oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<StoredKey>,
    /// Its endpoints, at most [`MAX_ENDPOINTS`], oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Who changed what: the newest [`MAX_CHANGES_KEPT`], oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeNote>,
}

/// One change of a document, for an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeNote {
    /// When.
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// Who: the name of a key or of a kind of access, never the key itself.
    pub by: String,
    /// What: the change, its object, and the names of the fields, never their values.
    pub what: String,
}

impl Application {
    /// The stored form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|_| unreachable!("a document has only string keys"))
    }

    /// Reads the stored form, of this schema version or an older one.
    ///
    /// # Errors
    ///
    /// [`InvalidRecord::TooNew`]: a newer version wrote it. Never change it.
    pub fn from_json(json: &str) -> Result<Self, InvalidRecord> {
        #[derive(Deserialize)]
        struct Head {
            v: u16,
        }
        let head: Head = serde_json::from_str(json).map_err(InvalidRecord::Malformed)?;
        if head.v > APPLICATIONS_SCHEMA {
            return Err(InvalidRecord::TooNew { found: head.v });
        }
        serde_json::from_str(json).map_err(InvalidRecord::Malformed)
    }

    /// Whether it was deleted. Publishing and changes answer 404.
    pub const fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// The endpoint with this id. `None`: it was deleted, or there never was one.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.id == id)
    }

    /// The size that [`MAX_DOCUMENT_BYTES`] limits.
    pub fn deflated_bytes(&self) -> usize {
        compress_to_vec(self.to_json().as_bytes(), DEFLATE_LEVEL).len()
    }
}
