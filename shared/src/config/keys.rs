//! API keys. Only their hashes are kept.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The SHA-256 of an API key.
///
/// The only comparison is in constant time, so no code can leak how much of a guess is right.
/// `Debug` shows nothing of the hash.
#[derive(Clone, Copy, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Wraps the bytes of a hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to tell apart what belongs to different keys. Do not compare keys with them.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl ConstantTimeEq for KeyHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_makes_another_hash_and_none_is_shown() {
        let hash = KeyHash::of(b"correct-horse");
        assert_eq!(hash, KeyHash::from_bytes(hash.to_bytes()));
        for index in 0..32 {
            let mut bytes = hash.to_bytes();
            bytes[index] ^= 1;
            assert!(hash != KeyHash::from_bytes(bytes), "byte {index}");
        }
        assert_eq!(format!("{hash:?}"), "KeyHash(..)");
    }
}
