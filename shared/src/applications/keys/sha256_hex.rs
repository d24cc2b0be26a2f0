//! The stored form of a hash: 64 lower-case hexadecimal digits.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::config::KeyHash;

pub(super) fn serialize<S: Serializer>(hash: &KeyHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(hash.to_bytes()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyHash, D::Error> {
    let mut bytes = [0; 32];
    // The error of the decoder would quote a digit of the hash.
    hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
        .map_err(|_| D::Error::custom("not 64 hexadecimal digits"))?;
    Ok(KeyHash::from_bytes(bytes))
}
