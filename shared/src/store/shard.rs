//! Where shards are hashed: which of a backend's parts holds a webhook, a key or a destination.
//!
//! | backend | what is placed | hash | parts |
//! |---|---|---|---|
//! | DynamoDB | records and index entries, by task id | [`ShardHash::Fnv1a`] | [`SHARDS`] |
//! | DynamoDB | targets, by key | [`ShardHash::Fnv1a`] | 4 |
//! | Redis | records and index entries, by task id | [`ShardHash::Sha256`] | [`SHARDS`] |
//! | Redis | idempotency keys, by key | [`ShardHash::Sha256`] | [`SHARDS`] |
//!
//! A hash and a number of parts never change: they are part of every stored key. The embedded
//! store has one part.

#[cfg(any(feature = "redis", test))]
use sha2::{Digest, Sha256};

/// The parts that webhooks are divided into, on DynamoDB and on Redis: the most parts of any
/// backend's due index.
pub(crate) const SHARDS: u8 = 16;

/// How a backend hashes a name. The backends differ because each has data stored by its own hash.
#[cfg(any(feature = "aws", feature = "redis", test))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardHash {
    /// FNV-1a with 32 bits, the upper half folded into the lower one.
    #[cfg(any(feature = "aws", test))]
    Fnv1a,
    /// The first byte of the SHA-256.
    #[cfg(any(feature = "redis", test))]
    Sha256,
}

/// The part of `parts` that holds the name. A hash, because the ids of a batch derive from each
/// other and callers choose the names.
#[cfg(any(feature = "aws", feature = "redis", test))]
pub(crate) fn shard(name: &[u8], hash: ShardHash, parts: u8) -> u8 {
    let byte = match hash {
        #[cfg(any(feature = "aws", test))]
        ShardHash::Fnv1a => {
            let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            let hash = name.iter().fold(0x811c_9dc5, step);
            (hash ^ (hash >> 16)) as u8
        }
        #[cfg(any(feature = "redis", test))]
        ShardHash::Sha256 => Sha256::digest(name)[0],
    };
    byte % parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored keys depend on these numbers.
    #[test]
    fn a_name_stays_in_its_part() {
        let places = |hash| {
            ["a", "order-7", "https://example.com:443"]
                .map(|name| (shard(name.as_bytes(), hash, SHARDS), shard(name.as_bytes(), hash, 4)))
        };
        assert_eq!(places(ShardHash::Fnv1a), [(0, 0), (4, 0), (0, 0)]);
        assert_eq!(places(ShardHash::Sha256), [(10, 2), (15, 3), (2, 2)]);
    }
}
